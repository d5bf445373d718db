"""Installation: the contents of the wheel, the app as started from the installed wheel, and the declared dependencies."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.serving import ROOT, served, visit

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GENERATED = ("build", "dist", "offcomp.egg-info", ".venv", ".git")
APP_FILES = ("app.py", "pages/*.py", ".streamlit/config.toml", "assets/**/*")
FOR_THE_DOCUMENTATION = ("assets/images/*.png", "assets/images/quality-*.svg", "assets/measurements/sts-*")
TOOLS = {
    *("beartype", "furo", "ipykernel", "mypy", "myst-parser", "pandas-stubs", "pytest-timeout", "pytest-xdist", "ruff"),
    *("setuptools", "types-psutil"),
}
"""Packages that the checks use without importing them."""
NEEDED_BY_EXTRAS = {"accelerate"}
"""Packages that an extra needs, since a library that it installs does not declare them for everyone."""
PAGE_MILLISECONDS = 30_000
OURS = {"offcomp", "pages", "tests", "benchmarks"}
PLAN = {
    "schema": 1,
    "model": "offcomp-gpt",
    "tasks": [],
    "groups": [{"name": "query", "modules": ["query.0", "query.1"], "method": "svd", "ratio": 3.0}],
}


def pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree, built without a package index and without leaving build files in the clone."""
    tree, made = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for entry in ROOT.iterdir():
        if entry.name not in GENERATED:
            (tree / entry.name).symlink_to(entry)
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", f"--wheel-dir={made}", str(tree))
    (file,) = made.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's command `offcomp` in a new environment that has access to the packages of this one, but not to this clone."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    pip(f"--python={environment / 'bin' / 'python'}", "install", "--no-deps", "--no-index", str(wheel))
    (packages,) = environment.glob("lib/python*/site-packages")
    # A folder listed in a .pth file is searched last, and the .pth files in that folder, such as the clone's, are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin" / "offcomp"


def files_of(patterns: Iterable[str]) -> set[Path]:
    return {file for pattern in patterns for file in ROOT.glob(pattern) if file.is_file()}


def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    app = files_of(APP_FILES) - files_of(FOR_THE_DOCUMENTATION)
    wanted = {
        *(str(file.relative_to(ROOT)) for file in files_of(["offcomp/**/*.py", "offcomp/**/*.jinja", "offcomp/py.typed"])),
        *(f"offcomp/app/{file.relative_to(ROOT)}" for file in app),
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = f"offcomp-{PROJECT['version']}.dist-info/"
    assert {name for name in names if not name.startswith(metadata)} == wanted
    assert f"{metadata}licenses/LICENSE" in names


@pytest.mark.browser
def test_the_installed_app_runs_outside_of_a_clone(
    installed: Path, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    start = tmp_path / "start"
    (start / ".streamlit").mkdir(parents=True)
    (start / ".streamlit" / "config.toml").write_text('[theme.light]\nprimaryColor = "#ff0000"\n')  # must not affect the app
    (start / "numpy.py").write_text("raise SystemExit('this is not numpy')")
    home = tmp_path / "home"
    run = subprocess.run(
        [installed, "run", "-", "--json"],
        input=json.dumps(PLAN),
        cwd=start,
        env=os.environ | {"OFFCOMP_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["status"] == "done"
    with served(home, offcomp=[str(installed)], start=start) as address, visit(browser, address, color_scheme="light") as app:
        app.open()
        expect(app.page.get_by_role("img", name="How much of the score is kept?")).to_be_visible()
        expect(app.page.get_by_role("button", name="Open this plan in the Lab")).to_have_css(
            "background-color", "rgb(0, 107, 168)"
        )
        expect(app.page.locator("link[rel='shortcut icon']")).to_have_attribute("href", re.compile("^data:image/svg"))
        for page in sorted((ROOT / "pages").glob("*.py")):
            app.open(f"/{page.stem}")
            expect(app.page.locator("[data-test-script-state=notRunning]")).to_be_visible(timeout=PAGE_MILLISECONDS)
            for fault in ("stException", "stAlertContentError"):
                expect(app.page.get_by_test_id(fault)).to_have_count(0)
        app.open(f"/model?model={start}")  # models may be in the start folder, but there are none
        expect(app.page.get_by_text("has no 'config.json'")).to_be_visible(timeout=PAGE_MILLISECONDS)


providers = cache(packages_distributions)


def imported(files: Iterable[Path]) -> set[str]:
    """Return the distributions of the packages that these files import anywhere."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return {canonical(providers()[name][0]) for name in names - OURS - sys.stdlib_module_names}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: Iterable[str]) -> set[str]:
    return {canonical(re.split(r"[^\w.-]", each)[0]) for each in requirements}


def test_every_imported_package_is_declared_and_none_besides() -> None:
    product = imported(files_of(["app.py", "pages/*.py", "offcomp/**/*.py"]))
    extras = PROJECT["optional-dependencies"]
    assert product | NEEDED_BY_EXTRAS == named([*PROJECT["dependencies"], *extras["lm-eval"], *extras["mteb"]])
    checks = imported(files_of(["tests/**/*.py", "benchmarks/**/*.py", "docs/*.py"])) - product
    assert checks | TOOLS == named([*extras["dev"], *extras["docs"], *extras["minilm"]]) - OURS


def test_every_declared_package_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    declared = [*PROJECT["dependencies"], *(each for extra in PROJECT["optional-dependencies"].values() for each in extra)]
    assert named(declared) - OURS <= named(pins)
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert backend == f"setuptools=={pins['setuptools']}"


def test_what_is_installed_fits_together() -> None:
    pip("check")
