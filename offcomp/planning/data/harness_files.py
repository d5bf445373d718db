"""The files that a task of lm-evaluation-harness or MTEB reads, found without importing the library. No torch.

lm-eval     the YAML file of the task (in the folder `include_path`, or else among the library's own), the files that it
            includes, the Python files beside them, and the data files or the hub data set that they name
MTEB        with `include_path`: the files in the folder include_path/NAME. Otherwise the library itself names the revision of
            the data, so its version identifies them
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from offcomp.planning.data.task_families import LM_EVAL
from offcomp.planning.data.tasks import Task

MODULES = {"lm-eval": "lm_eval", "mteb": "mteb"}
"""Library -> the name of its module."""
MAX_INCLUDES = 20  # YAML files that one task may include


@dataclass(frozen=True)
class HarnessFiles:
    """What identifies the data of a task.

    version    version of the library
    files      name -> file, for all local files
    hub        OWNER/NAME[/CONFIG] of the hub data set; "" if there is none or it is not known
    """

    version: str
    files: Mapping[str, Path] = field(default_factory=dict)
    hub: str = ""


def harness_faults(task: Task) -> Iterator[str]:
    """Reasons why a task of another library cannot run, one sentence each; none for any other task."""
    library = task.kind.harness
    if not library:
        return
    folder = task.settings["include_path"]
    if not task.data.startswith(f"{library}:"):
        yield f"task {task.name!r}: data {task.data!r} must be {library}:NAME for a task of the family {task.family!r}."
    elif not installed(library):
        yield f"task {task.data!r} needs the library {library}; install it with: pip install 'offcomp[{library}]'."
    elif folder and not Path(folder).is_dir():
        yield f"task {task.data!r} has the include_path {folder!r}, which is not a folder; enter the folder of its files."


def installed(library: str) -> bool:
    """Whether a library can be imported; it is not imported."""
    return find_spec(MODULES[library]) is not None


def harness_files(task: Task) -> HarnessFiles:
    """The files of a task of another library. Files that cannot be read are left out, since the run reports them."""
    library, name, folder = task.kind.harness, task.data.partition(":")[2], task.settings["include_path"]
    try:
        release = version(library)
    except PackageNotFoundError:
        return HarnessFiles("")
    if library == LM_EVAL:
        return _of_lm_eval(release, name, folder)
    return HarnessFiles(release, _named(_files_in(str(Path(folder, name)))) if folder else {})


def _of_lm_eval(release: str, name: str, folder: str) -> HarnessFiles:
    found = (_definition(Path(folder), name) if folder else None) or _own_definition(name)
    if found is None:
        return HarnessFiles(release)
    config: dict[str, Any] = {}
    files: list[Path] = []
    for file, part in _with_includes(found):
        config = part | config
        files += [file, *sorted(file.parent.glob("*.py"))]
    path = config.get("dataset_path")
    files += [file for text in _strings([path, config.get("dataset_kwargs")]) for file in _files_in(text)]
    is_hub = isinstance(path, str) and path.count("/") == 1 and not Path(path).exists()
    parts = [path, config.get("dataset_name")] if is_hub else []
    return HarnessFiles(release, _named(files), "/".join(part for part in parts if isinstance(part, str)))


def _named(files: Iterable[Path]) -> dict[str, Path]:
    """Name -> file; files of the same name are numbered."""
    named: dict[str, Path] = {}
    for file in dict.fromkeys(files):
        number = sum(each.name == file.name for each in named.values())
        named[f"{file.name} ({number + 1})" if number else file.name] = file
    return named


def _files_in(text: str) -> list[Path]:
    """The file with this path, all files in this folder, or all files that match this pattern; empty if there are none."""
    path = Path(text)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            return sorted(file for file in path.rglob("*") if file.is_file())
        found = glob(text, recursive=True)  # noqa: PTH207  # the path may be absolute
        return sorted(file for each in found if (file := Path(each)).is_file())
    except (OSError, ValueError):
        return []


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings within lists and values of objects."""
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(each)


@lru_cache(maxsize=32)
def _own_definition(name: str) -> Path | None:
    """The YAML file among the library's own that defines a task."""
    spec = find_spec(MODULES[LM_EVAL])
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next(filter(None, (_definition(Path(folder) / "tasks", name) for folder in folders)), None)


def _definition(folder: Path, name: str) -> Path | None:
    """The YAML file in a folder that defines a task."""
    pattern = re.compile(rf"""^task:\s*["']?{re.escape(name)}["']?\s*(#.*)?$""".encode(), re.MULTILINE)
    for file in sorted(folder.rglob("*.yaml")):
        try:
            if pattern.search(file.read_bytes()):
                return file
        except OSError:
            continue
    return None


def _with_includes(file: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a YAML file and those that it includes, with their contents; a file comes before those that it includes."""
    waiting, seen = [file], 0
    while waiting and seen < MAX_INCLUDES:
        each, seen = waiting.pop(0), seen + 1
        config = _yaml(each)
        yield each, config
        included = config.get("include") or []
        waiting += [each.parent / name for name in ([included] if isinstance(included, str) else included)]


def _yaml(file: Path) -> dict[str, Any]:
    """The contents of a YAML file, in which tagged values, such as functions, are None; empty if it cannot be read."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda *_: None)
    try:
        config = yaml.load(file.read_bytes(), Loader)  # noqa: S506  # derived from SafeLoader
    except (OSError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}
