"""Imports go in one direction only, files are of limited length, and the app's process never loads torch.

The checks read the source code. Unless stated otherwise, imports inside functions and under TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from offcomp.ui.server import AHEAD

ROOT = Path(__file__).resolve().parents[1]

BASE = ("offcomp.errors", "offcomp.plain_text", "offcomp.files", "offcomp.numerics")
SHOWN = (*BASE, "offcomp.models", "offcomp.methods", "offcomp.planning", "offcomp.runs", "offcomp.results", "offcomp.ui")
LAYERS: dict[str, tuple[str, ...]] = {
    "offcomp.errors": (),
    "offcomp.plain_text": (),
    "offcomp.files": ("offcomp.errors",),
    "offcomp.devices": ("offcomp.errors",),
    "offcomp.numerics": ("offcomp.errors",),
    "offcomp.models": ("offcomp.errors", "offcomp.plain_text", "offcomp.files", "offcomp.numerics"),
    "offcomp.methods": ("offcomp.errors", "offcomp.numerics"),
    "offcomp.planning": (*BASE, "offcomp.models", "offcomp.methods"),
    "offcomp.evaluation": (*BASE, "offcomp.devices", "offcomp.models", "offcomp.planning.data"),
    "offcomp.runs": (*BASE, "offcomp.devices", "offcomp.models", "offcomp.methods", "offcomp.planning", "offcomp.evaluation"),
    "offcomp.results": (*BASE, "offcomp.models", "offcomp.methods", "offcomp.planning", "offcomp.runs"),
    "offcomp.library": (*SHOWN[:-1], "offcomp.devices"),
    "offcomp.ui": SHOWN,
    "offcomp.cli": ("offcomp",),
    "pages": SHOWN,
    "app": SHOWN,
}
"""What each layer may import besides itself, lowest layer first. Layers above `runs` use only its parts without torch."""

PUBLIC = "offcomp"
"""The package whose names are imported on first use, so that only its top-level imports count."""
STREAMLIT_ALLOWED = ("offcomp.ui", "pages", "app")
HEAVY = ("torch", "transformers", "sklearn", "datasets", "tensorly", "lm_eval", "mteb", "sentence_transformers")
NEVER_HEAVY = ("offcomp.errors", "offcomp.files", "offcomp.planning.data", "offcomp.results", "offcomp.ui", "pages", "app")
"""Modules that import nothing heavy, not even in a function, and whose top-level imports load nothing heavy."""
LIGHT_AT_FIRST = (
    *("offcomp.planning", "offcomp.cli", "offcomp.methods", "offcomp.devices"),
    *("offcomp.runs.store", "offcomp.runs.manifest"),
)
"""Modules that load nothing heavy when imported; their functions may. In a method's folder, this applies to `method.py`."""
LONGEST = {"pages": 100, "app": 100, "offcomp": 300}


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def allows(names: tuple[str, ...], name: str) -> bool:
    return any(is_within(name, package) for package in names)


def modules(root: Path) -> dict[str, Path]:
    """Return the file of every module of the product, by name; an `__init__.py` has the name of its package."""
    files = [*sorted((root / "offcomp").rglob("*.py")), *sorted((root / "pages").glob("*.py")), root / "app.py"]
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
        if file.is_file()
    }


def imports(name: str, file: Path, known: dict[str, Path], *, at_first: bool = False) -> Iterator[str]:
    """Yield every module that a file imports; `from offcomp.runs import store` yields `offcomp.runs.store` if that is a module.

    at_first    whether to exclude imports inside functions and under TYPE_CHECKING
    """
    package = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    for node in nodes_of(file.read_text(encoding="utf-8"), at_first):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            members = [f"{base}.{alias.name}" for alias in node.names]
            yield from (member if member in known else base for member in members)


@cache
def nodes_of(source: str, at_first: bool) -> tuple[ast.AST, ...]:
    return tuple(nodes(ast.parse(source), at_first))


def nodes(tree: ast.AST, at_first: bool) -> Iterator[ast.AST]:
    """Yield the nodes of a file; if `at_first`, only those that are executed when the file is imported."""
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, ast.FunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        if not (at_first and later):
            yield node
            yield from nodes(node, at_first)


def layer_of(name: str) -> str | None:
    return max((layer for layer in LAYERS if is_within(name, layer)), key=len, default=None)


def direction_faults(root: Path) -> list[str]:
    known = modules(root)
    faults = []
    for name, file in known.items():
        layer = layer_of(name)
        if layer is None and name != "offcomp":
            faults.append(f"{name} belongs to no layer; give it a row in LAYERS")
            continue
        allowed = (layer, *LAYERS[layer]) if layer else ()  # offcomp/__init__.py may not import other modules
        for target in imports(name, file, known, at_first=name == PUBLIC):
            ours = allows(("offcomp", "pages", "app"), target) and target != "offcomp"
            if ours and not allows(allowed, target):
                faults.append(f"{name} imports {target}, which {layer or name} may not")
    return faults


def streamlit_faults(root: Path) -> list[str]:
    known = modules(root)
    return [
        f"{name} imports {target}"
        for name, file in known.items()
        for target in imports(name, file, known)
        if is_within(target, "streamlit") and not allows(STREAMLIT_ALLOWED, name)
    ]


def circle_faults(root: Path) -> list[str]:
    """Return a cycle of imports, if any, including imports inside functions; packages and their modules count separately."""
    known = modules(root)
    arrows = {
        name: {target for target in imports(name, file, known, at_first=name == PUBLIC) if target in known}
        for name, file in known.items()
    }
    try:
        TopologicalSorter({name: targets - {name} for name, targets in arrows.items()}).prepare()
    except CycleError as circle:
        return [f"a circle: {' <- '.join(circle.args[1])}"]
    return []


def heavy_faults(root: Path) -> list[str]:
    known = modules(root)
    faults = []
    for name, file in known.items():
        if allows(NEVER_HEAVY, name):
            faults += [f"{name} imports {target}" for target in imports(name, file, known) if allows(HEAVY, target)]
        if allows((*NEVER_HEAVY, *LIGHT_AT_FIRST), name) and (way := way_to_heavy(name, known)):
            faults.append(f"{name} loads {' by '.join(reversed(way))}")
    return faults


def way_to_heavy(name: str, known: dict[str, Path]) -> list[str]:
    """Return the chain of imports from a module (excluded) to the heavy package that it loads; empty if it loads none."""
    package, _, last = name.rpartition(".")
    if is_within(package, "offcomp.methods") and last not in ("base", "method") and known[name].stem != "__init__":
        return []  # the computation of a method
    come_from, waiting = {name: ""}, [name]
    while waiting:
        module = waiting.pop()
        for target in imports(module, known[module], known, at_first=True):
            packages = [target.rsplit(".", cut)[0] for cut in range(target.count(".") + 1)]
            for found in packages:
                if allows(HEAVY, found):
                    return [*steps(come_from, module)[1:], found]
                if found in known and found not in come_from:
                    come_from[found] = module
                    waiting.append(found)
    return []


def steps(come_from: dict[str, str], module: str) -> list[str]:
    """Return the path to a module from the start of the search."""
    return [*steps(come_from, come_from[module]), module] if module else []


def length_faults(root: Path) -> list[str]:
    counted = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in modules(root).items()}
    return [
        f"{name} has {lines} lines, at most {LONGEST[name.split('.')[0]]} are allowed"
        for name, lines in counted.items()
        if lines > LONGEST[name.split(".")[0]]
    ]


Check = Callable[[Path], list[str]]
CHECKS: tuple[Check, ...] = (direction_faults, circle_faults, streamlit_faults, heavy_faults, length_faults)


@pytest.mark.parametrize("faults_of", CHECKS)
def test_house_rule(faults_of: Check) -> None:
    assert modules(ROOT), "no module was found: the check would pass on nothing"
    assert faults_of(ROOT) == []


PLANTED: dict[Check, dict[tuple[str, str], str]] = {
    direction_faults: {
        (
            "offcomp/numerics/svd.py",
            "def f():\n    from offcomp.methods import svd",
        ): "offcomp.numerics.svd imports offcomp.methods",
        (
            "offcomp/planning/grouping.py",
            "from offcomp.runs import store",
        ): "offcomp.planning.grouping imports offcomp.runs.store",
        ("offcomp/models/catalogue.py", "from ..runs.store import run"): "offcomp.models.catalogue imports offcomp.runs.store",
        ("offcomp/evaluation/head.py", "from ..planning import plan"): "offcomp.evaluation.head imports offcomp.planning.plan",
        ("offcomp/ui/panels.py", "import offcomp.evaluation"): "offcomp.ui.panels imports offcomp.evaluation",
        ("offcomp/__init__.py", "from .planning import plan"): "offcomp imports offcomp.planning.plan",
        ("pages/compare.py", "from offcomp.cli.main import main"): "pages.compare imports offcomp.cli.main",
        ("offcomp/utils.py", ""): "offcomp.utils belongs to no layer",
    },
    circle_faults: {
        ("offcomp/planning/grams.py", "def f():\n    from offcomp.planning.plan import g"): "a circle: ",
    },
    streamlit_faults: {
        ("offcomp/results/model.py", "import streamlit as st"): "offcomp.results.model imports streamlit",
        ("offcomp/runs/claims.py", "from streamlit.runtime import x"): "offcomp.runs.claims imports streamlit.runtime",
    },
    heavy_faults: {
        ("pages/runs.py", "def f():\n    import torch.nn"): "pages.runs imports torch.nn",
        ("offcomp/planning/sizes.py", "from transformers import AutoModel"): "offcomp.planning.sizes loads transformers",
        ("offcomp/cli/runs.py", "from offcomp.runs.worker import work"): "offcomp.cli.runs loads torch by offcomp.runs.worker",
    },
    length_faults: {
        ("app.py", "x = 1\n" * 101): "app has 101 lines, at most 100 are allowed",
        ("offcomp/cli/main.py", "x = 1\n" * 301): "offcomp.cli.main has 301 lines, at most 300 are allowed",
    },
}


@pytest.mark.parametrize(
    ("faults_of", "path", "source", "expected"),
    [(check, *planted, expected) for check, cases in PLANTED.items() for planted, expected in cases.items()],
)
def test_a_planted_violation_is_found(faults_of: Check, path: str, source: str, expected: str, tmp_path: Path) -> None:
    small = {
        "offcomp/planning/plan.py": "if True:\n    from offcomp.planning import grams",
        "offcomp/runs/store.py": "",
        "offcomp/runs/worker.py": "import torch",
        "offcomp/cli/main.py": "",
    }
    for name, content in (small | {path: source}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (found,) = faults_of(tmp_path)
    assert found.startswith(expected)


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    (tmp_path / "offcomp/ui").mkdir(parents=True)
    (tmp_path / "offcomp/planning").mkdir(parents=True)
    (tmp_path / "offcomp/planning/plan.py").write_text(
        "import json\nfrom typing import TYPE_CHECKING\nfrom offcomp import errors, __version__\n"
        "if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\n"
    )
    (tmp_path / "offcomp/ui/forms.py").write_text("import streamlit\nfrom ..planning.plan import Plan\n")
    assert [fault for check in CHECKS for fault in check(tmp_path)] == []


def loaded_by(statements: str) -> list[str]:
    """Return the heavy packages that a new interpreter has loaded after executing `statements`."""
    code = f"{statements}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return child.stdout.split()


def imported_by_pages() -> list[str]:
    """Return the offcomp modules that the pages import anywhere. Importing the pages themselves would need a running app."""
    known = modules(ROOT)
    pages = {name: file for name, file in known.items() if name.split(".")[0] in ("pages", "app")}
    targets = {target for name, file in pages.items() for target in imports(name, file, known)}
    return sorted(target for target in targets if is_within(target, "offcomp"))


def test_the_process_of_the_app_does_not_load_torch() -> None:
    wanted = ["offcomp.cli.main", "offcomp.planning.plan", "offcomp.runs.store", *imported_by_pages()]
    assert len(wanted) > 10
    assert loaded_by("\n".join(f"import {name}" for name in wanted)) == []


def test_pages_compile() -> None:
    for file in (file for name, file in modules(ROOT).items() if name.split(".")[0] in ("pages", "app")):
        compile(file.read_text(encoding="utf-8"), str(file), "exec")


def test_a_loaded_package_is_noticed() -> None:
    assert loaded_by("import sys, types; sys.modules['torch'] = types.ModuleType('torch')") == ["torch"]


def test_the_server_loads_ahead_what_the_first_page_imports() -> None:
    known = modules(ROOT)
    assert {name for name in imports("app", ROOT / "app.py", known) if name.startswith("offcomp.")} == set(AHEAD)
