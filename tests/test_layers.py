"""Imports point one way, pages stay thin, and the app's process never loads torch.

The checks read the source: an import counts wherever it stands, in a function or under TYPE_CHECKING as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offcomp.ui.server import AHEAD

ROOT = Path(__file__).resolve().parents[1]

# What needs no torch, of packages that also have parts that do.
DESCRIPTIONS = (
    *("offcomp.errors", "offcomp.plain_text"),
    "offcomp.files",
    "offcomp.resources",
    "offcomp.environment",
    "offcomp.numerics.accounting",
    "offcomp.numerics.mcnemar",
    "offcomp.numerics.tango",
    "offcomp.methods",
    "offcomp.models.bundled_models",
    "offcomp.models.catalogue",
    "offcomp.models.families",
    "offcomp.models.folder_faults",
    "offcomp.models.hub",
    "offcomp.models.identity",
    "offcomp.models.listing",
    "offcomp.models.matrix_files",
    "offcomp.models.safetensors_files",
    "offcomp.models.sentence_modules",
    "offcomp.models.sources",
    "offcomp.tasks",
    "offcomp.task_columns",
    *("offcomp.task_files", "offcomp.task_examples", "offcomp.task_check"),
    "offcomp.head_labels",
    *("offcomp.json_fields", "offcomp.row_counts", "offcomp.delimited_text", "offcomp.parquet_tables", "offcomp.text_tables"),
    "offcomp.table_limits",
    "offcomp.plan_tasks",
)
PLANNING = (
    *DESCRIPTIONS,
    *("offcomp.grouping", "offcomp.calibration_text", "offcomp.plan", "offcomp.size_notes", "offcomp.prediction"),
    "offcomp.estimate",
)
STORING = ("offcomp.locks", "offcomp.claims", "offcomp.json_checks")
COMPUTING = (
    *("offcomp.errors", "offcomp.numerics", "offcomp.methods", "offcomp.models", "offcomp.tasks"),
    "offcomp.row_counts",
)
RESULTS = (
    *("offcomp.score_metrics", "offcomp.scores", "offcomp.originals", "offcomp.results", "offcomp.paired"),
    *("offcomp.answers", "offcomp.bundled"),
    *("offcomp.dot_charts", "offcomp.result_charts", "offcomp.score_charts"),
    *("offcomp.measurements", "offcomp.measurement_charts", "offcomp.known_errors"),
    *("offcomp.fronts", "offcomp.front_charts", "offcomp.example_charts", "offcomp.continuations"),
    *("offcomp.report", "offcomp.report_page"),
    *("offcomp.random_matrix", "offcomp.views", "offcomp.inspection", "offcomp.inspect_charts"),
    *("offcomp.model_tables", "offcomp.model_charts"),
    *("offcomp.surveys", "offcomp.group_tables", "offcomp.group_charts"),
)
SHOWING = (
    *PLANNING,
    *RESULTS,
    "offcomp.report",
    "offcomp.claims",
    "offcomp.run_inputs",
    "offcomp.runs",
    "offcomp.spectra",
    "offcomp.theme",
    "offcomp.charts",
    *("offcomp.first_chart", "offcomp.csv_text"),
)

LAYERS: dict[str, tuple[str, ...]] = {
    "offcomp.errors": (),
    "offcomp.plain_text": (),
    "offcomp.csv_text": (),
    "offcomp.numerics": ("offcomp.errors",),
    "offcomp.methods": ("offcomp.errors", "offcomp.numerics"),
    "offcomp.locks": (),
    "offcomp.files": ("offcomp.errors", "offcomp.locks"),
    "offcomp.resources": (),
    "offcomp.models": (
        *("offcomp.errors", "offcomp.plain_text", "offcomp.files", "offcomp.resources", "offcomp.environment"),
        "offcomp.numerics",
    ),
    "offcomp.tasks": ("offcomp.errors",),
    "offcomp.task_columns": ("offcomp.errors", "offcomp.tasks"),
    "offcomp.head_labels": ("offcomp.errors", "offcomp.tasks"),
    "offcomp.task_files": (
        *("offcomp.errors", "offcomp.files", "offcomp.resources", "offcomp.tasks", "offcomp.task_columns"),
        "offcomp.text_tables",
    ),
    "offcomp.task_examples": (
        *("offcomp.errors", "offcomp.row_counts", "offcomp.tasks", "offcomp.task_columns", "offcomp.task_files"),
        "offcomp.text_tables",
    ),
    "offcomp.task_check": (
        *("offcomp.errors", "offcomp.tasks", "offcomp.task_columns", "offcomp.text_tables", "offcomp.head_labels"),
        *("offcomp.task_files", "offcomp.task_examples", "offcomp.models.identity"),
        *("offcomp.models.catalogue", "offcomp.models.safetensors_files", "offcomp.models.sources"),
    ),
    "offcomp.json_fields": ("offcomp.plain_text",),
    "offcomp.json_checks": ("offcomp.plain_text",),
    "offcomp.row_counts": (),
    "offcomp.table_limits": ("offcomp.errors",),
    "offcomp.delimited_text": ("offcomp.errors", "offcomp.table_limits"),
    "offcomp.parquet_tables": ("offcomp.errors", "offcomp.table_limits"),
    "offcomp.text_tables": ("offcomp.errors", "offcomp.table_limits", "offcomp.parquet_tables", "offcomp.delimited_text"),
    "offcomp.plan_tasks": (
        *("offcomp.errors", "offcomp.plain_text", "offcomp.files", "offcomp.json_fields"),
        *("offcomp.tasks", "offcomp.text_tables"),
    ),
    "offcomp.grouping": ("offcomp.errors", "offcomp.models.catalogue"),
    "offcomp.calibration_text": (
        *("offcomp.errors", "offcomp.files", "offcomp.resources", "offcomp.row_counts", "offcomp.text_tables"),
    ),
    "offcomp.plan": (*DESCRIPTIONS, "offcomp.grouping", "offcomp.calibration_text"),
    "offcomp.size_notes": ("offcomp.models.catalogue",),
    "offcomp.prediction": (*DESCRIPTIONS, "offcomp.grouping", "offcomp.plan", "offcomp.size_notes"),
    "offcomp.estimate": (*DESCRIPTIONS, "offcomp.grouping", "offcomp.plan", "offcomp.size_notes", "offcomp.prediction"),
    "offcomp.spectra": (*PLANNING, *COMPUTING, "offcomp.grams"),
    "offcomp.grams": (*PLANNING, *COMPUTING, "offcomp.spectra"),
    "offcomp.error_curves": (*PLANNING, *COMPUTING, "offcomp.spectra", "offcomp.compress"),
    "offcomp.allocation": (*PLANNING, "offcomp.error_curves"),
    "offcomp.surveys": PLANNING,
    "offcomp.suggestions": (
        *PLANNING,
        *("offcomp.spectra", "offcomp.grams", "offcomp.error_curves", "offcomp.allocation"),
        *("offcomp.surveys", "offcomp.environment"),
    ),
    "offcomp.calibration": (*PLANNING, *COMPUTING),
    "offcomp.compress": (*PLANNING, *COMPUTING, "offcomp.calibration"),
    "offcomp.manifest": PLANNING,
    "offcomp.dense_export": (*PLANNING, *COMPUTING, "offcomp.manifest"),
    "offcomp.export": (*PLANNING, *COMPUTING, "offcomp.compress", "offcomp.dense_export", "offcomp.manifest", "offcomp.runs"),
    "offcomp.verification": (*PLANNING, *COMPUTING, "offcomp.compress", "offcomp.manifest"),
    "offcomp.evaluation": (
        *(*COMPUTING, "offcomp.files", "offcomp.environment", "offcomp.text_tables"),
        *("offcomp.task_columns", "offcomp.task_files", "offcomp.task_examples", "offcomp.head_labels"),
    ),
    "offcomp.environment": (),
    "offcomp.claims": (),
    "offcomp.run_inputs": PLANNING,
    "offcomp.run_documents": (*PLANNING, "offcomp.json_checks", "offcomp.score_metrics"),
    "offcomp.run_start": (*PLANNING, *STORING, "offcomp.run_documents"),
    "offcomp.run_folders": (*PLANNING, *STORING, "offcomp.run_documents", "offcomp.run_start"),
    "offcomp.leftovers": (*PLANNING, *STORING, "offcomp.run_documents", "offcomp.run_start"),
    "offcomp.runs": (
        *(*PLANNING, *STORING, "offcomp.run_documents", "offcomp.run_start", "offcomp.run_folders"),
        *("offcomp.leftovers", "offcomp.run_inputs"),
    ),
    "offcomp.worker": (
        *(*PLANNING, *STORING, "offcomp.environment", "offcomp.run_documents", "offcomp.run_start", "offcomp.runs"),
    ),
    "offcomp.execute": (
        *PLANNING,
        *COMPUTING,
        "offcomp.calibration",
        "offcomp.compress",
        "offcomp.environment",
        "offcomp.evaluation",
        "offcomp.json_checks",
        "offcomp.run_documents",
        "offcomp.run_inputs",
        "offcomp.worker",
    ),
    "offcomp.random_matrix": (),
    "offcomp.views": (*DESCRIPTIONS,),
    "offcomp.view_making": (*COMPUTING, "offcomp.views"),
    "offcomp.inspection": (*PLANNING, "offcomp.random_matrix", "offcomp.spectra", "offcomp.views"),
    "offcomp.inspect_charts": (*PLANNING, "offcomp.inspection", "offcomp.views", "offcomp.theme", "offcomp.charts"),
    "offcomp.theme": (),
    "offcomp.first_chart": ("offcomp.theme",),
    "offcomp.charts": (*PLANNING, "offcomp.runs", "offcomp.spectra", "offcomp.theme"),
    "offcomp.score_metrics": (),
    "offcomp.scores": ("offcomp.tasks", "offcomp.score_metrics"),
    "offcomp.originals": (*PLANNING, "offcomp.runs"),
    "offcomp.results": (*PLANNING, "offcomp.runs", "offcomp.scores", "offcomp.originals"),
    "offcomp.paired": (*PLANNING, "offcomp.runs", "offcomp.scores", "offcomp.originals", "offcomp.results"),
    "offcomp.answers": (
        *(*PLANNING, "offcomp.runs", "offcomp.scores", "offcomp.originals", "offcomp.results"),
        *("offcomp.paired", "offcomp.bundled"),
    ),
    "offcomp.continuations": (*PLANNING, "offcomp.runs", "offcomp.scores", "offcomp.results"),
    "offcomp.bundled": (*PLANNING, "offcomp.runs"),
    "offcomp.known_errors": (
        *PLANNING,
        *("offcomp.run_inputs", "offcomp.runs", "offcomp.results", "offcomp.measurements", "offcomp.bundled"),
        *("offcomp.answers", "offcomp.charts"),
    ),
    "offcomp.measurements": (*PLANNING, "offcomp.results", "offcomp.scores"),
    "offcomp.measurement_charts": (*PLANNING, *RESULTS, "offcomp.theme", "offcomp.charts"),
    "offcomp.group_tables": (*PLANNING, "offcomp.surveys", "offcomp.theme"),
    "offcomp.group_charts": (*PLANNING, "offcomp.surveys", "offcomp.group_tables", "offcomp.theme", "offcomp.charts"),
    "offcomp.model_tables": (*PLANNING, "offcomp.spectra", "offcomp.theme"),
    "offcomp.model_charts": (*PLANNING, "offcomp.model_tables", "offcomp.theme", "offcomp.charts"),
    "offcomp.dot_charts": (*PLANNING, "offcomp.runs", "offcomp.results", "offcomp.theme", "offcomp.charts"),
    "offcomp.result_charts": (*PLANNING, *RESULTS, "offcomp.runs", "offcomp.theme", "offcomp.charts"),
    "offcomp.score_charts": (*PLANNING, *RESULTS, "offcomp.runs", "offcomp.theme", "offcomp.charts"),
    "offcomp.fronts": (*PLANNING, *RESULTS, "offcomp.runs"),
    "offcomp.front_charts": (*PLANNING, *RESULTS, "offcomp.theme", "offcomp.charts"),
    "offcomp.example_charts": (*PLANNING, *RESULTS, "offcomp.runs", "offcomp.theme", "offcomp.charts"),
    "offcomp.ui": SHOWING,
    "offcomp.tables": (*PLANNING, "offcomp.runs", "offcomp.scores"),
    "offcomp.report": (*PLANNING, *RESULTS, "offcomp.runs", "offcomp.theme"),
    "offcomp.report_page": ("offcomp.theme",),
    "offcomp.cli": ("offcomp",),
    "offcomp.cli_input": PLANNING,
    "offcomp.cli_evaluate": (
        *PLANNING,
        "offcomp.models",
        "offcomp.evaluation",
        "offcomp.scores",
        "offcomp.cli_input",
        "offcomp.tables",
    ),
    "offcomp.cli_inspect": (
        *PLANNING,
        "offcomp.views",
        "offcomp.view_making",
        "offcomp.inspection",
        "offcomp.spectra",
        "offcomp.cli_input",
        "offcomp.tables",
    ),
    "offcomp.cli_runs": (*PLANNING, *RESULTS, "offcomp.runs", "offcomp.cli_input", "offcomp.tables"),
    "offcomp.cli_report": (*PLANNING, *RESULTS, "offcomp.runs", "offcomp.cli_input", "offcomp.tables"),
    "offcomp.cli_export": (
        *PLANNING,
        *("offcomp.bundled", "offcomp.runs", "offcomp.manifest", "offcomp.export", "offcomp.verification"),
        *("offcomp.cli_input", "offcomp.cli_report", "offcomp.tables"),
    ),
    "offcomp.cli_allocation": (
        *PLANNING,
        "offcomp.models",
        "offcomp.cli_input",
        "offcomp.spectra",
        "offcomp.grams",
        "offcomp.error_curves",
        "offcomp.allocation",
        "offcomp.suggestions",
        "offcomp.surveys",
        "offcomp.tables",
    ),
    "offcomp.__main__": ("offcomp.cli",),
    "pages": (*SHOWING, "offcomp.ui"),
    "app": (*SHOWING, "offcomp.ui"),
}
"""Layer -> what it may import besides itself. The longest name that a module's name starts with is its layer."""

STREAMLIT_ALLOWED = ("offcomp.ui", "pages", "app")
HEAVY = ("torch", "transformers", "sklearn", "datasets", "tensorly")
NEVER_HEAVY = (
    "offcomp.ui",
    *RESULTS,
    "offcomp.charts",
    *STORING,
    *("offcomp.run_documents", "offcomp.run_start", "offcomp.run_folders", "offcomp.leftovers"),
    "offcomp.run_inputs",
    "offcomp.runs",
    "offcomp.worker",
    "pages",
    "app",
    *PLANNING,
)
LAZILY_HEAVY = "offcomp.methods"  # in this one, functions that compute may import torch
LONGEST = {"pages": 100, "app": 100, "offcomp": 300}


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def allows(names: tuple[str, ...], name: str) -> bool:
    return any(is_within(name, package) for package in names)


def modules(root: Path) -> dict[str, Path]:
    """Name -> file of every module of the product; a package goes by its own name."""
    files = [*sorted((root / "offcomp").rglob("*.py")), *sorted((root / "pages").glob("*.py")), root / "app.py"]
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
        if file.is_file()
    }


def imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Every module that a file imports; `from offcomp import plan` gives `offcomp.plan` where that is a module."""
    package = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            members = [f"{base}.{alias.name}" for alias in node.names]
            yield from (member if member in known else base for member in members)


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
        allowed = (layer, *LAYERS[layer]) if layer else ()  # offcomp/__init__.py imports nothing of the rest
        for target in imports(name, file, known):
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


def heavy_faults(root: Path) -> list[str]:
    known = modules(root)
    return [
        f"{name} imports {target}"
        for name, file in known.items()
        if allows(NEVER_HEAVY, name) and not is_within(name, LAZILY_HEAVY)
        for target in imports(name, file, known)
        if allows(HEAVY, target)
    ]


def length_faults(root: Path) -> list[str]:
    counted = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in modules(root).items()}
    return [
        f"{name} has {lines} lines, at most {LONGEST[name.split('.')[0]]} are allowed"
        for name, lines in counted.items()
        if lines > LONGEST[name.split(".")[0]]
    ]


Check = Callable[[Path], list[str]]
CHECKS: tuple[Check, ...] = (direction_faults, streamlit_faults, heavy_faults, length_faults)


@pytest.mark.parametrize("faults_of", CHECKS)
def test_house_rule(faults_of: Check) -> None:
    assert modules(ROOT), "no module was found: the check would pass on nothing"
    assert faults_of(ROOT) == []


PLANTED: dict[Check, dict[tuple[str, str], str]] = {
    direction_faults: {
        (
            "offcomp/numerics/linalg.py",
            "def f():\n    from offcomp.methods import svd",
        ): "offcomp.numerics.linalg imports",
        ("offcomp/plan.py", "from offcomp import runs"): "offcomp.plan imports offcomp.runs",
        (
            "offcomp/models/catalogue.py",
            "from ..compress import run",
        ): "offcomp.models.catalogue imports offcomp.compress",
        ("offcomp/ui/panels.py", "import offcomp.models.weights"): "offcomp.ui.panels imports offcomp.models.weights",
        ("offcomp/__init__.py", "from . import plan"): "offcomp imports offcomp.plan",
        ("pages/compare.py", "from offcomp.execute import submit"): "pages.compare imports offcomp.execute",
        ("offcomp/utils.py", ""): "offcomp.utils belongs to no layer",
    },
    streamlit_faults: {
        ("offcomp/charts.py", "import streamlit as st"): "offcomp.charts imports streamlit",
        ("offcomp/runs.py", "from streamlit.runtime import x"): "offcomp.runs imports streamlit.runtime",
    },
    heavy_faults: {
        ("pages/runs.py", "def f():\n    import torch.nn"): "pages.runs imports torch.nn",
        ("offcomp/plan.py", "from transformers import AutoModel"): "offcomp.plan imports transformers",
    },
    length_faults: {
        ("app.py", "x = 1\n" * 101): "app has 101 lines, at most 100 are allowed",
        ("offcomp/cli.py", "x = 1\n" * 301): "offcomp.cli has 301 lines, at most 300 are allowed",
    },
}


@pytest.mark.parametrize(
    ("faults_of", "path", "source", "expected"),
    [(check, *planted, expected) for check, cases in PLANTED.items() for planted, expected in cases.items()],
)
def test_a_planted_violation_is_found(faults_of: Check, path: str, source: str, expected: str, tmp_path: Path) -> None:
    for name in ("offcomp/plan.py", "offcomp/runs.py", "offcomp/compress.py", path):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source if name == path else "")
    faults = faults_of(tmp_path)
    assert len(faults) == 1
    assert faults[0].startswith(expected)


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    (tmp_path / "offcomp/ui").mkdir(parents=True)
    (tmp_path / "offcomp/plan.py").write_text("import json\nfrom offcomp import errors, __version__\n")
    (tmp_path / "offcomp/ui/forms.py").write_text("import streamlit\nfrom ..plan import Plan\nfrom . import forms\n")
    assert [fault for check in CHECKS for fault in check(tmp_path)] == []


def loaded_by(statements: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after `statements`."""
    code = f"{statements}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return child.stdout.split()


def imported_by_pages() -> list[str]:
    """The offcomp modules that the pages import anywhere; the pages themselves need a running app."""
    known = modules(ROOT)
    pages = {name: file for name, file in known.items() if name.split(".")[0] in ("pages", "app")}
    targets = {target for name, file in pages.items() for target in imports(name, file, known)}
    return sorted(target for target in targets if is_within(target, "offcomp"))


def test_the_process_of_the_app_does_not_load_torch() -> None:
    names = ("offcomp.ui", "offcomp.plan", "offcomp.methods", "offcomp.models.catalogue", "offcomp.models.sources")
    wanted = [*names, "offcomp.runs", "offcomp.charts", "offcomp.prediction", *imported_by_pages()]
    known = modules(ROOT)
    present = [name for name in dict.fromkeys(wanted) if name in known]
    assert present
    assert loaded_by("\n".join(f"import {name}" for name in present)) == []


def test_pages_compile() -> None:
    for file in (file for name, file in modules(ROOT).items() if name.split(".")[0] in ("pages", "app")):
        compile(file.read_text(encoding="utf-8"), str(file), "exec")


def test_a_loaded_package_is_noticed() -> None:
    assert loaded_by("import sys, types; sys.modules['torch'] = types.ModuleType('torch')") == ["torch"]


def test_the_server_loads_ahead_what_the_first_page_imports() -> None:
    known = modules(ROOT)
    assert {name for name in imports("app", ROOT / "app.py", known) if name.startswith("offcomp.")} == set(AHEAD)
