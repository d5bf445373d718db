"""Install packages of methods for tests: a folder with modules and metadata, to be added to the path of an interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).with_name("toy_plugin")


def install(folder: Path, name: str, modules: Mapping[str, str], methods: Mapping[str, str], version: str = "1.0") -> Path:
    """Create a package in a folder, with modules (name -> source) and entry points for methods. Returns the folder."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    entries = "\n".join(f"{entry} = {target}" for entry, target in methods.items())
    (metadata / "entry_points.txt").write_text(f"[offcomp.methods]\n{entries}\n")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source, encoding="utf-8")
    return folder


def install_toy(folder: Path, version: str | None = None) -> Path:
    """Install the toy plugin in a folder, with the entry points of its `pyproject.toml`."""
    project = tomllib.loads((TOY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    source = (TOY / "toy_plugin.py").read_text(encoding="utf-8")
    methods = project["entry-points"]["offcomp.methods"]
    return install(folder, project["name"], {"toy_plugin": source}, methods, version or project["version"])


def python(code: str, *path: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that can also import the packages in these folders."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path))), "OFFCOMP_HOME": str(home)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def offcomp(*arguments: str, path: tuple[Path, ...], home: Path) -> tuple[int, Any, str]:
    """Run the command line with --json. Returns the exit status, the document, and stderr."""
    code = f"from offcomp.cli.main import main; main({[*arguments, '--json']!r})"
    done = python(code, *path, home=home)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr
