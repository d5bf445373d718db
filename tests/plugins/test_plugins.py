"""Methods of other packages are found, run, exported, drawn and listed like offcomp's own, or skipped with one sentence."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from offcomp.errors import InputError
from offcomp.files import read_json
from offcomp.methods import METHODS
from offcomp.methods.base import Method
from offcomp.methods.plugins import Plugins, find_plugins
from offcomp.numerics.accounting import Budget
from offcomp.runs.documents import INPUTS
from offcomp.runs.store import RunStore
from tests import tiny_models
from tests.pages import home, opened, texts
from tests.plugins.installing import ROOT, TOY, install, install_toy, offcomp, python

__all__ = ["home"]  # a fixture

HEAD = """
from dataclasses import dataclass, field
from typing import ClassVar
from offcomp.methods.base import Look, Method

"""
GOOD = {
    "name": '"magic"',
    "style_key": '"magic"',
    "title": '"Magic"',
    "paper": '"none"',
    "decoders": '("undone_magic",)',
    "look": "None",
}
SHAPES = """
    def tensor_shapes(self, rows, cols, size):
        return {"parts": (rows, size)}
"""


def source(decorator: str = "@dataclass(frozen=True)", body: str = SHAPES, **changed: str) -> str:
    """The source of a plugin module that is valid except for the changes."""
    lines = [f"    {name}: ClassVar = {value}" for name, value in (GOOD | changed).items() if value]
    return HEAD + "\n".join([decorator, "class Magic(Method):", *lines, body])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the toy plugin is installed."""
    return install_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def fresh_modules() -> Iterator[None]:
    """Remove the modules that a test has loaded, because other tests have different modules of the same name."""
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        del sys.modules[name]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, fresh_modules: None) -> Any:
    """A function that returns the plugins found in an environment with these folders."""

    def find(*folders: Path) -> Plugins:
        for folder in folders:
            monkeypatch.syspath_prepend(str(folder))
        return find_plugins(METHODS)

    return find


# A plugin that works


def test_the_toy_is_found_with_its_package_and_compresses_within_the_budget(toy: Path, found: Any) -> None:
    plugins = found(toy)
    assert plugins.faults == ()
    (plugin,) = plugins.found
    assert (plugin.method.style_key, str(plugin)) == ("rowmean", "toy-plugin 0.3")
    matrix = torch.randn(12, 10, generator=torch.Generator().manual_seed(0))
    for centre in ("mean", "median"):
        compressed = plugin.method(centre=centre).fit(matrix, Budget(61, "parameters"))
        assert (compressed.size, compressed.stored.num_parameters) == (5, 61)
        expected = matrix.reshape(12, 5, 2)
        expected = expected.mean(2) if centre == "mean" else expected.median(2).values
        torch.testing.assert_close(compressed.reconstruct(), expected.repeat_interleave(2, 1))


def test_importing_the_methods_searches_for_nothing(toy: Path, tmp_path: Path) -> None:
    names = ("torch", "importlib.metadata", "toy_plugin")
    code = f"import sys, offcomp.methods; print([name for name in {names!r} if name in sys.modules])"
    assert python(code, toy, home=tmp_path).stdout.strip() == "[]"
    code = f"import sys; from offcomp.methods import *; make_method('svd', {{}}); print(*sys.modules.keys() & {{*{names!r}}})"
    assert python(code, toy, home=tmp_path).stdout.strip() == ""


def test_it_is_listed_with_its_options_and_package(toy: Path, tmp_path: Path) -> None:
    status, rows, err = offcomp("methods", path=(toy,), home=tmp_path)
    assert (status, err) == (0, "")
    assert [row["name"] for row in rows] == [*(method.style_key for method in METHODS), "rowmean"]
    assert {row["package"].split()[0] for row in rows[:-1]} == {"offcomp"}
    option = {"name": "centre", "default": "mean", "choices": ["mean", "median"]}
    option["help"] = "The number that replaces a block: its mean or its median."
    assert rows[-1] == {
        **{"name": "rowmean", "title": "Row means", "size": "blocks", "paper": "none: a toy", "package": "toy-plugin 0.3"},
        "options": [option],
    }


def test_it_compresses_bare_matrices(toy: Path, tmp_path: Path) -> None:
    code = "import offcomp, numpy; print(offcomp.RowMean(rank=2, centre='median').fit(numpy.eye(6)), hasattr(offcomp, 'Other'))"
    expected = "CompressedMatrix(repeated_means, size 2, 13 parameters, 52 bytes) False\n"
    assert python(code, toy, home=tmp_path).stdout == expected


class Made:
    """A run of the toy and its export, created by the command line in an environment with the toy plugin."""

    def __init__(self, folder: Path, toy: Path):
        self.home, self.export = folder / "home", folder / "export"
        model = tiny_models.save(tiny_models.bert(), folder / "tiny-bert")
        plan = {
            "model": str(model),
            "tasks": [],
            "groups": [{"name": "key", "modules": ["key.0", "key.1"], "method": "rowmean"}],
        }
        self.plan = folder / "plan.json"
        self.plan.write_text(json.dumps(plan))
        code = f"""
from offcomp.cli.main import main
from offcomp.runs.store import RunStore
main(["predict", {str(self.plan)!r}])
main(["run", {str(self.plan)!r}])
main(["export", RunStore().all()[0].id, {str(self.export)!r}, "--dense"])
main(["verify", {str(self.export)!r}])
"""
        done = python(code, toy, home=self.home)
        assert done.returncode == 0, done.stderr
        self.output = done.stdout


@pytest.fixture(scope="module")
def made(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"), toy)


def test_a_worker_runs_it_and_its_export_is_verified(made: Made) -> None:
    (run,) = RunStore(made.home).all()
    assert (run.status, run.error) == ("done", "")
    assert run.result is not None
    assert [group.form for group in run.result.groups] == ["repeated_means"]
    assert made.output.count("passed") == 5


def test_the_version_of_its_package_belongs_to_the_run(made: Made, toy: Path, tmp_path: Path) -> None:
    (run,) = RunStore(made.home).all()
    assert run.result is not None
    assert run.result.environment.plugins == {"toy-plugin": "0.3"}
    assert read_json(run.folder / INPUTS)["plugins"] == {"toy-plugin": "0.3"}
    newer = install_toy(tmp_path / "newer", "0.4")
    code = """
from pathlib import Path
from offcomp.planning.plan import Group, Plan
from offcomp.runs.inputs import inputs_of, run_id
for method in ("svd", "rowmean"):
    plan = Plan(model="m", groups=(Group(name="key", modules=("key.0",), method=method),), tasks=())
    print(run_id(plan, inputs_of(plan, "weights")))
"""
    without, older, newest = (python(code, *path, home=tmp_path).stdout.split() for path in ((), (toy,), (newer,)))
    assert without == older[:1] == newest[:1]
    assert older[1] != newest[1]


def test_every_chart_draws_it_with_a_look_of_its_own(toy: Path, tmp_path: Path) -> None:
    code = """
import tests.conftest
from offcomp.results.charts.theme import LOOKS, PALETTES, UNKNOWN_MARKER, marker
from tests.results.test_every_figure import ALL
for palette in PALETTES.values():
    others = {palette.muted, *(palette.colour(key) for key in LOOKS if key != "rowmean")}
    assert palette.colour("rowmean") not in others
    for case in ALL:
        drawn = case.values[0]("rowmean", palette)
        colours = {trace.marker.color for trace in drawn.figure.data if "marker" in trace and list(trace.x) != [None]}
        of_methods = any("style_key" in marks.table for marks in drawn.marks.values())
        assert (palette.colour("rowmean") in map(str, colours)) == of_methods
assert marker("rowmean") not in {UNKNOWN_MARKER, *(marker(key) for key in LOOKS if key != "rowmean")}
print("drawn")
"""
    done = python(code, toy, home=tmp_path)
    assert done.stdout == "drawn\n", done.stderr


def test_a_plugin_may_bring_a_look(found: Any, tmp_path: Path) -> None:
    look = 'Look("triangle-down", "#112233", "#ddeeff")'
    folder = install(tmp_path, "magic-plugin", {"magic": source(look=look)}, {"magic": "magic:Magic"})
    (plugin,) = found(folder).found
    assert plugin.method.look == ("triangle-down", "#112233", "#ddeeff")


APP = """
import tests.conftest
from pathlib import Path
from tests.pages import open_part, opened, texts
from offcomp.runs.store import RunStore
app = open_part(opened("compress", methods="svd,rowmean"), "methods")
kinds = ("button", "selectbox", "expander", "button_group")
shown = [texts(app), str(list(app.table[0].value.columns)), *(str(element) for kind in kinds for element in app.get(kind))]
for page in ("runs", "compare"):
    app = opened(page, runs=",".join(run.id for run in RunStore().all()))
    shown.append(texts(app) + "".join(str(element) for element in app.get("plotly_chart")))
import json; print(json.dumps(shown))
"""


def pages(*path: Path, home: Path) -> str:
    """The text that the pages Compress, Runs and Compare show in an environment with these folders."""
    done = python(APP, *path, home=home)
    assert done.returncode == 0, done.stderr
    return "\n".join(json.loads(done.stdout.splitlines()[-1]))


def test_the_pages_offer_it_and_show_its_run(made: Made, toy: Path) -> None:
    shown = pages(toy, home=made.home)
    for text in ("Row means, ", "Row means options", "Run SVD and Row means", "option_rowmean_centre"):
        assert text in shown, text
    assert "The method" not in shown


# A plugin that is gone


def test_a_run_of_a_plugin_that_is_gone_is_listed_and_drawn(made: Made, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("OFFCOMP_HOME", str(made.home))
    (run,) = RunStore().all()
    for page in ("runs", "compare"):
        assert "rowmean" in texts(opened(page, runs=run.id)), page


def test_an_export_of_a_plugin_that_is_gone_names_the_package(made: Made) -> None:
    status, _, err = offcomp("verify", str(made.export), path=(), home=made.home)
    assert status == 1
    assert "written by the package toy-plugin 0.3" in err
    assert "install toy-plugin 0.3" in err
    assert "Traceback" not in err
    status, _, err = offcomp("predict", str(made.plan), path=(), home=made.home)
    assert status == 2
    assert "unknown method 'rowmean'; choose one of svd, autoencoder" in err


# Plugins that cannot be used

NO_RANGE = '    size: int = field(default=1, metadata={"help": "A number that is not limited."})\n'
NO_HELP = "    size: bool = False\n"
NO_DEFAULT = '    size: int = field(metadata={"help": "A number without a default."})\n'
MIXED_RANGE = '    size: float = field(default=1.0, metadata={"help": "A number.", "range": (0, 2)})\n'
MIXED_CHOICES = '    how: str = field(default="a", metadata={"help": "A text.", "choices": ("a", 1)})\n'
NO_CHOICES = '    how: str = field(default="a", metadata={"help": "A text without choices."})\n'
BROKEN = {
    "raises": ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
    "exits": ("raise SystemExit('enough')", "cannot be loaded: SystemExit: enough"),
    "syntax": ("class", "cannot be loaded: SyntaxError: invalid syntax"),
    "imports": ("import nowhere", "cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"),
    "lacks it": ("", "cannot be loaded: AttributeError: module 'magic' has no attribute 'Magic'"),
    "function": ("def Magic(): pass", "is not a class derived from offcomp.methods.base.Method"),
    "plain class": ("class Magic: pass", "is not a class derived from offcomp.methods.base.Method"),
    "undecorated": (source(decorator=""), "Magic is not decorated with @dataclass(frozen=True)"),
    "not frozen": (source(decorator="@dataclass"), "cannot be loaded: TypeError: cannot inherit non-frozen dataclass"),
    "untitled": (source(title=""), "its title is None; it must be a non-blank string"),
    "blank": (source(paper='" "'), "its paper is ' '; it must be a non-blank string"),
    "key": (source(style_key='"Magic, really"'), "its style_key is 'Magic, really'; only lower-case letters"),
    "reserved": (source(style_key='"reference"'), "the name 'reference' is reserved"),
    "name taken": (source(name='"svd"'), "the name 'svd' is already taken by SVD"),
    "style key taken": (source(style_key='"residual"'), "the name 'residual' is already taken by Autoencoder, residual"),
    "decoder taken": (source(decoders='("low_rank",)'), "the decoder 'low_rank' already exists"),
    "dense decoder": (source(decoders='("dense",)'), "the decoder 'dense' already exists"),
    "decoders": (source(decoders='"undone"'), "its decoders are 'undone', not a tuple of function names"),
    "no range": (source(body=NO_RANGE + SHAPES), "its option 'size' needs a range of its type that includes the default"),
    "mixed range": (source(body=MIXED_RANGE + SHAPES), "its option 'size' needs a range of its type that includes the default"),
    "mixed choices": (
        source(body=MIXED_CHOICES + SHAPES),
        "its option 'how' needs choices that are strings and include the default",
    ),
    "no help": (source(body=NO_HELP + SHAPES), "its option 'size' has no help text"),
    "no default": (
        source(body=NO_DEFAULT + SHAPES),
        "its option 'size' needs a default that is a number, a string or a boolean",
    ),
    "no choices": (source(body=NO_CHOICES + SHAPES), "its option 'how' needs choices that are strings"),
    "look": (source(look='("circle", "#112233", "#112233")'), "not a Look with one of the markers circle, square"),
    "marker": (source(look='Look("smiley", "#112233", "#112233")'), "not a Look with one of the markers circle, square"),
    "colour": (source(look='Look("circle", "red", "#112233")'), "colours are written as #rrggbb"),
    "no shapes": (source(body=""), "cannot be loaded: NotImplementedError"),
    "seconds": (source(body=SHAPES + "    def seconds(self, *shape): return -1\n"), "its estimate of seconds is negative"),
    "sizes": (source(body=SHAPES + "    def sizes(self, rows, cols): return 3\n"), "its sizes are 3, not a range"),
}


@pytest.mark.parametrize(("module", "reason"), BROKEN.values(), ids=BROKEN)
def test_one_that_cannot_be_used_is_one_sentence_and_leaves_the_others_alone(
    toy: Path, found: Any, tmp_path: Path, module: str, reason: str
) -> None:
    folder = install(tmp_path, "magic-plugin", {"magic": module}, {"spell": "magic:Magic"}, version="2.1")
    plugins = found(folder, toy)
    assert [str(plugin) for plugin in plugins.found] == ["toy-plugin 0.3"]
    (fault,) = plugins.faults
    assert fault.startswith("The method 'spell' of the package magic-plugin 2.1 cannot be ")
    assert reason in fault
    assert fault.endswith("; update magic-plugin, or remove it with 'pip uninstall magic-plugin'.")
    assert "\n" not in fault


def test_the_right_parts_make_a_method_that_can_be_used(found: Any, tmp_path: Path) -> None:
    plugins = found(install(tmp_path, "magic-plugin", {"magic": source()}, {"spell": "magic:Magic"}))
    assert (len(plugins.found), plugins.faults) == (1, ())


def test_of_two_with_one_name_the_first_in_the_order_of_packages_is_used(found: Any, tmp_path: Path) -> None:
    folders = [
        install(tmp_path / package, package, {f"{package}_magic": source()}, {"magic": f"{package}_magic:Magic"})
        for package in ("beta", "alpha")
    ]
    plugins = found(*folders)
    assert [plugin.package for plugin in plugins.found] == ["alpha"]
    assert [fault.partition(" cannot")[0] for fault in plugins.faults] == ["The method 'magic' of the package beta 1.0"]
    assert "the name 'magic' is already taken by Magic" in plugins.faults[0]


def test_damaged_metadata_of_any_package_is_one_sentence(found: Any, tmp_path: Path) -> None:
    folder = install(tmp_path, "magic-plugin", {"magic": source()}, {"magic": "magic:Magic"})
    next(folder.glob("*.dist-info/entry_points.txt")).write_text("[offcomp.methods]\nmagic\n")
    plugins = found(folder)
    assert plugins.found == ()
    (fault,) = plugins.faults
    assert fault.startswith("Installed packages cannot be searched for methods: ")


def test_one_that_loads_torch_is_used_with_a_warning(tmp_path: Path) -> None:
    modules = {"torch": "", "magic": "import torch\n" + source()}
    folder = install(tmp_path / "site", "magic-plugin", modules, {"magic": "magic:Magic"})
    status, rows, err = offcomp("methods", path=(folder,), home=tmp_path)
    assert (status, rows[-1]["name"]) == (0, "magic")
    assert "The method 'magic' of the package magic-plugin 1.0 loads torch when it is imported" in err


def test_the_command_line_and_the_page_say_what_is_wrong(toy: Path, made: Made, tmp_path: Path) -> None:
    folder = install(tmp_path / "site", "magic-plugin", {"magic": "1 / 0"}, {"magic": "magic:Magic"})
    sentence = "The method 'magic' of the package magic-plugin 1.0 cannot be loaded: ZeroDivisionError: division by zero; "
    sentence += "update magic-plugin, or remove it with 'pip uninstall magic-plugin'."
    status, rows, err = offcomp("methods", path=(folder, toy), home=tmp_path)
    assert (status, rows[-1]["name"], err) == (0, "rowmean", f"offcomp: {sentence}\n")
    status, _, err = offcomp("plan", "offcomp-gpt", "--method", "magic", path=(folder,), home=tmp_path)
    assert status == 2
    assert err.endswith("quantization; for packages that cannot be used, see 'offcomp methods'\n")
    assert "magic-plugin 1.0 cannot be loaded: ZeroDivisionError" in pages(folder, toy, home=made.home)


def test_what_its_computation_needs_may_be_missing(found: Any, tmp_path: Path) -> None:
    package = tmp_path / "magic_package"
    install(tmp_path, "magic-plugin", {}, {"magic": "magic_package:Magic"})
    package.mkdir()
    (package / "__init__.py").write_text(source())
    (package / "fit.py").write_text("import nowhere\n")
    (plugin,) = found(tmp_path).found
    method: Method = plugin.method()
    with pytest.raises(InputError, match=r"Magic cannot be computed \(No module named 'nowhere'\); install what it needs"):
        method.fit(torch.ones(8, 8), Budget(20, "parameters"))


def test_fit_may_lie_beside_the_class_or_in_its_file(found: Any, tmp_path: Path, toy: Path) -> None:
    install(tmp_path, "magic-plugin", {}, {"magic": "magic_package.method:Magic"})
    (tmp_path / "magic_package").mkdir()
    (tmp_path / "magic_package" / "method.py").write_text(source())
    (tmp_path / "magic_package" / "fit.py").write_text("def undone_magic(tensors): ...\n")
    of_magic, of_toy = (plugin.method.computing_module() for plugin in found(tmp_path, toy).found)
    assert of_magic.undone_magic is importlib.import_module("magic_package.fit").undone_magic
    assert of_toy.__name__ == "toy_plugin"


# A plugin as pip installs it


def test_the_toy_is_found_once_pip_has_installed_its_wheel(tmp_path: Path) -> None:
    tree, environment = tmp_path / "tree", tmp_path / "environment"
    tree.mkdir()
    for file in ("pyproject.toml", "toy_plugin.py"):
        (tree / file).write_text((TOY / file).read_text(encoding="utf-8"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}", str(tree)]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(environment, symlinks=True)
    interpreter = environment / "bin" / "python"
    install_it = [*pip, f"--python={interpreter}", "install", "--no-index", "--no-deps", *map(str, tmp_path.glob("*.whl"))]
    subprocess.run(install_it, check=True, capture_output=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    command = [str(interpreter), "-P", "-m", "offcomp.cli", "methods", "--json"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(listed.stdout)[-1]["package"] == "toy-plugin 0.3"
