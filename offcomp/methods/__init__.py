"""The compression methods. Adding one means one file here and one entry in `METHODS`. Importing needs no torch."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any

from offcomp.errors import InputError
from offcomp.methods.autoencoder import Autoencoder, decoded_latents
from offcomp.methods.base import CompressedMatrix, Decode, Method, dense
from offcomp.methods.codebook import CodebookAutoencoder, decoded_codes
from offcomp.methods.kronecker import Kronecker, kronecker_sum
from offcomp.methods.pruning import Pruning, kept_entries
from offcomp.methods.quantization import Quantization, grid_levels
from offcomp.methods.residual import ResidualAutoencoder, residual_columns, residual_rows
from offcomp.methods.svd import SVD, low_rank, low_rank_directions
from offcomp.methods.tucker import Tucker, tucker_product

METHODS: tuple[type[Method], ...] = (
    SVD,
    Autoencoder,
    ResidualAutoencoder,
    CodebookAutoencoder,
    Kronecker,
    Tucker,
    Pruning,
    Quantization,
)
FORMS: tuple[Decode, ...] = (
    dense,
    low_rank,
    low_rank_directions,
    decoded_latents,
    residual_rows,
    residual_columns,
    decoded_codes,
    kronecker_sum,
    tucker_product,
    kept_entries,
    grid_levels,
)
"""Decoders by which stored tensors become a matrix again; `CompressedMatrix.form` is the name of one of them."""


def method_class(name: str, preset: str | None = None) -> type[Method]:
    """The method of this name; of a family the member that has this preset, without one its first. Raises InputError."""
    family = [method for method in METHODS if method.name == name]
    if not family:
        raise InputError(f"unknown method {name!r}; choose one of {', '.join(dict.fromkeys(m.name for m in METHODS))}")
    if preset is None:
        return family[0]
    known = [choice for method in family for choice in presets_of(method)]
    if known and preset not in known:
        raise InputError(f"option 'preset' of {name!r} is {preset!r}; choose one of {', '.join(known)}")
    return next((method for method in family if preset in presets_of(method)), family[0])


def method_of_role(role: str) -> type[Method]:
    """The one method of this role. Raises InputError."""
    for method in METHODS:
        if method.role == role:
            return method
    raise InputError(f"unknown method {role!r}; choose one of {', '.join(method.role for method in METHODS)}")


def role_in_plan(name: str, options: dict[str, Any]) -> str:
    """The role of the method that a plan names so; of one that is not known, as in a plan of another version, its name."""
    try:
        return method_class(name, _preset(options)).role
    except InputError:
        return name


def own_options(method: type[Method]) -> dict[str, Any]:
    """The options that tell a member from the rest of its family: `preset`, where it can have but one value."""
    presets = presets_of(method)
    return {"preset": presets[0]} if len(presets) == 1 else {}


@cache
def presets_of(method: type[Method]) -> tuple[str, ...]:
    """The values that the option `preset` of a method can take; none where it has no such option."""
    return next((option.metadata["choices"] for option in options_of(method) if option.name == "preset"), ())


def make_method(name: str, options: dict[str, Any]) -> Method:
    """A method with its options checked. Raises InputError naming the first option that is wrong."""
    method = method_class(name, _preset(options))
    known = {option.name: option for option in options_of(method)}
    for key, value in options.items():
        if key not in known:
            allowed = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InputError(f"method {name!r} has no option {key!r}; {allowed}")
        _check_option(name, key, value, known[key].default, known[key].metadata)
    return method(**options)


def default_options(name: str, preset: str | None = None) -> dict[str, Any]:
    """Every option of a method with its default."""
    return {option.name: option.default for option in options_of(method_class(name, preset)) if option.default is not MISSING}


def options_of(method: type[Method]) -> tuple[Field[Any], ...]:
    """The fields of a method, each an option with its default, help, and choices or range."""
    return fields(method)  # type: ignore[arg-type]  # every method is a dataclass


def _preset(options: dict[str, Any]) -> str | None:
    """The preset that options name; anything but a text is left to the check of the options."""
    preset = options.get("preset")
    return preset if isinstance(preset, str) else None


def _check_option(method: str, key: str, value: Any, default: Any, metadata: Any) -> None:
    """Compare an option's value with the type of its default and with its choices or range."""
    kind = type(default)
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or (kind is not bool and isinstance(value, bool)):
        raise InputError(f"option {key!r} of {method!r} is {value!r}; it must be of type {kind.__name__}")
    if "choices" in metadata and value not in metadata["choices"]:
        raise InputError(f"option {key!r} of {method!r} is {value!r}; choose one of {', '.join(metadata['choices'])}")
    if "range" in metadata:
        low, high = metadata["range"]
        if not low <= value <= high:
            raise InputError(f"option {key!r} of {method!r} is {value!r}; it must lie between {low} and {high}")


__all__ = [
    "FORMS",
    "METHODS",
    "SVD",
    "Autoencoder",
    "CompressedMatrix",
    "default_options",
    "make_method",
    "method_class",
    "method_of_role",
    "options_of",
    "own_options",
    "presets_of",
    "role_in_plan",
]
