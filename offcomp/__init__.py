"""offcomp: see what offline compression does to a transformer language model.

    import offcomp

    compressed = offcomp.compress("minilm-l6", "query,key", ratio=3)      # weights in memory
    run = offcomp.run(offcomp.Plan(model="minilm-l6", groups=groups))     # a run, as in the app and on the command line
    offcomp.SVD(rank=64).fit(W)                                           # a bare matrix

Names are imported when they are first used, so `import offcomp` loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offcomp.errors import BudgetTooSmall as BudgetTooSmall
    from offcomp.errors import InputError as InputError
    from offcomp.errors import ModelError as ModelError
    from offcomp.errors import OffcompError as OffcompError
    from offcomp.errors import PlanError as PlanError
    from offcomp.errors import RunError as RunError
    from offcomp.errors import StorageError as StorageError
    from offcomp.library.compress import CompressedModel as CompressedModel
    from offcomp.library.compress import compress as compress
    from offcomp.library.matrices import SVD as SVD
    from offcomp.library.matrices import Autoencoder as Autoencoder
    from offcomp.library.matrices import CodebookAutoencoder as CodebookAutoencoder
    from offcomp.library.matrices import Kronecker as Kronecker
    from offcomp.library.matrices import Pruning as Pruning
    from offcomp.library.matrices import Quantization as Quantization
    from offcomp.library.matrices import ResidualAutoencoder as ResidualAutoencoder
    from offcomp.library.matrices import TrellisAutoencoder as TrellisAutoencoder
    from offcomp.library.matrices import Tucker as Tucker
    from offcomp.library.plots import plot_errors as plot_errors
    from offcomp.library.plots import plot_pareto as plot_pareto
    from offcomp.library.run import run as run
    from offcomp.methods import METHODS as METHODS
    from offcomp.methods.base import CompressedMatrix as CompressedMatrix
    from offcomp.models.catalogue import ModelInfo as ModelInfo
    from offcomp.models.catalogue import ModuleSpec as ModuleSpec
    from offcomp.models.listing import model_info as model_info
    from offcomp.models.loading import LoadedModel as LoadedModel
    from offcomp.models.loading import load as load
    from offcomp.planning.data.calibration_text import CalibrationText as CalibrationText
    from offcomp.planning.data.tasks import Task as Task
    from offcomp.planning.plan import Group as Group
    from offcomp.planning.plan import Plan as Plan
    from offcomp.planning.plan import make_groups as make_groups
    from offcomp.planning.selection import select_modules as select_modules
    from offcomp.planning.sizes import predict as predict
    from offcomp.results.runs import run_table as run_table
    from offcomp.runs.store import Run as Run
    from offcomp.runs.store import RunStore as RunStore

__version__ = "0.1.0"

PUBLIC = {
    "offcomp.errors": ("BudgetTooSmall", "InputError", "ModelError", "OffcompError", "PlanError", "RunError", "StorageError"),
    "offcomp.library.compress": ("CompressedModel", "compress"),
    "offcomp.library.matrices": (
        "SVD",
        "Autoencoder",
        "CodebookAutoencoder",
        "Kronecker",
        "Pruning",
        "Quantization",
        "ResidualAutoencoder",
        "TrellisAutoencoder",
        "Tucker",
    ),
    "offcomp.library.plots": ("plot_errors", "plot_pareto"),
    "offcomp.library.run": ("run",),
    "offcomp.methods": ("METHODS",),
    "offcomp.methods.base": ("CompressedMatrix",),
    "offcomp.models.catalogue": ("ModelInfo", "ModuleSpec"),
    "offcomp.models.listing": ("model_info",),
    "offcomp.models.loading": ("LoadedModel", "load"),
    "offcomp.planning.data.calibration_text": ("CalibrationText",),
    "offcomp.planning.data.tasks": ("Task",),
    "offcomp.planning.plan": ("Group", "Plan", "make_groups"),
    "offcomp.planning.selection": ("select_modules",),
    "offcomp.planning.sizes": ("predict",),
    "offcomp.results.runs": ("run_table",),
    "offcomp.runs.store": ("Run", "RunStore"),
}
"""Module -> the public names that it defines."""
_MODULE_OF = {name: module for module, names in PUBLIC.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604  # names of strings


def __getattr__(name: str) -> Any:
    """Import a public name, or create the compressor of a method from another package, when it is first used."""
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    if name[:1].isupper():
        for method in import_module("offcomp.methods").all_methods():
            if method.__name__ == name:
                return import_module("offcomp.library.matrices").compressor(method)
    raise AttributeError(f"module 'offcomp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
