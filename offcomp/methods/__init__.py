"""The compression methods. Adding one means one file here and one entry in `METHODS`. Importing needs no torch."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from offcomp.errors import InputError
from offcomp.methods.autoencoder import Autoencoder, decoded_latents
from offcomp.methods.base import CompressedMatrix, Decode, Method, dense
from offcomp.methods.svd import SVD, low_rank

METHODS: tuple[type[SVD] | type[Autoencoder], ...] = (SVD, Autoencoder)
FORMS: tuple[Decode, ...] = (dense, low_rank, decoded_latents)
"""Decoders by which stored tensors become a matrix again; `CompressedMatrix.form` is the name of one of them."""


def method_class(name: str) -> type[SVD] | type[Autoencoder]:
    """The method of this name. Raises InputError."""
    for method in METHODS:
        if method.name == name:
            return method
    raise InputError(f"unknown method {name!r}; choose one of {', '.join(m.name for m in METHODS)}")


def make_method(name: str, options: dict[str, Any]) -> Method:
    """A method with its options checked. Raises InputError naming the first option that is wrong."""
    method = method_class(name)
    known = {option.name: option for option in fields(method)}
    for key, value in options.items():
        if key not in known:
            allowed = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InputError(f"method {name!r} has no option {key!r}; {allowed}")
        _check_option(name, key, value, known[key].default, known[key].metadata)
    return method(**options)


def default_options(name: str) -> dict[str, Any]:
    """Every option of a method with its default."""
    return {option.name: option.default for option in fields(method_class(name)) if option.default is not MISSING}


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
]
