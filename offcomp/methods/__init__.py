"""Registry of the compression methods: those of offcomp (`METHODS`), and those of other installed packages (`plugins`).

To add a method, write its class and add it to `METHODS`; CONTRIBUTING.md has the recipe.

Importing this package neither imports torch nor searches for plugins; both are done only when first needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any

from offcomp.errors import InputError
from offcomp.methods.autoencoder.method import Autoencoder
from offcomp.methods.base import CompressedMatrix, Method
from offcomp.methods.codebook.method import CodebookAutoencoder
from offcomp.methods.kronecker.method import Kronecker
from offcomp.methods.plugins import Plugins, find_plugins
from offcomp.methods.pruning.method import Pruning
from offcomp.methods.quantization.method import Quantization
from offcomp.methods.residual.method import ResidualAutoencoder
from offcomp.methods.svd.method import SVD
from offcomp.methods.trellis.method import TrellisAutoencoder
from offcomp.methods.tucker.method import Tucker

METHODS: tuple[type[Method], ...] = (
    SVD,
    Autoencoder,
    ResidualAutoencoder,
    CodebookAutoencoder,
    TrellisAutoencoder,
    Kronecker,
    Tucker,
    Pruning,
    Quantization,
)
"""The methods of offcomp itself; `all_methods` includes those of plugins."""


@cache
def _plugins() -> Plugins:
    """The plugins of this environment. Cached because what is installed does not change within a process."""
    return find_plugins(METHODS)


def all_methods() -> tuple[type[Method], ...]:
    """All methods: those of offcomp, followed by those of other installed packages."""
    return (*METHODS, *(plugin.method for plugin in _plugins().found))


def plugin_faults() -> tuple[str, ...]:
    """One sentence for each fault in a method of another package, whether or not the method can be used."""
    return _plugins().faults


def packages_of(names: Iterable[str]) -> dict[str, str]:
    """Name -> version of the packages, other than offcomp, that provide the methods with these names."""
    foreign = {*names} - {method.name for method in METHODS}
    return {plugin.package: plugin.version for plugin in _plugins().found if plugin.method.name in foreign} if foreign else {}


def method_class(name: str, preset: str | None = None) -> type[Method]:
    """Look up a method by name and preset; without a preset, return the first method with that name.

    Raises InputError if no method matches.
    """
    family = [method for method in METHODS if method.name == name] or [m for m in all_methods() if m.name == name]
    if not family:
        raise InputError(_unknown(name, dict.fromkeys(method.name for method in all_methods())))
    if preset is None:
        return family[0]
    known = [choice for method in family for choice in presets_of(method)]
    if known and preset not in known:
        raise InputError(f"option 'preset' of {name!r} is {preset!r}; choose one of {', '.join(known)}")
    return next((method for method in family if preset in presets_of(method)), family[0])


def method_of_style_key(style_key: str) -> type[Method]:
    """Look up a method by its style key. Raises InputError if the key is unknown."""
    found = [m for m in METHODS if m.style_key == style_key] or [m for m in all_methods() if m.style_key == style_key]
    if found:
        return found[0]
    raise InputError(_unknown(style_key, (method.style_key for method in all_methods())))


def _unknown(name: str, known: Iterable[str]) -> str:
    faults = "; for packages that cannot be used, see 'offcomp methods'" if plugin_faults() else ""
    return f"unknown method {name!r}; choose one of {', '.join(known)}{faults}"


def style_key_in_plan(name: str, options: dict[str, Any]) -> str:
    """The style key of a method named in a plan.

    Returns the name itself if the method is unknown, for example in a plan from a different version.
    """
    try:
        return method_class(name, _preset(options)).style_key
    except InputError:
        return name


def own_options(method: type[Method]) -> dict[str, Any]:
    """The options that distinguish a method from others of the same name: its `preset` if that has only one allowed value."""
    presets = presets_of(method)
    return {"preset": presets[0]} if len(presets) == 1 else {}


def presets_of(method: type[Method]) -> tuple[str, ...]:
    """The values allowed for a method's `preset` option; empty if the method has no such option."""
    return next((option.metadata["choices"] for option in options_of(method) if option.name == "preset"), ())


def make_method(name: str, options: dict[str, Any]) -> Method:
    """Validate the options and create the method. Raises InputError for the first invalid option."""
    method = method_class(name, _preset(options))
    known = {option.name: option for option in options_of(method)}
    for key, value in options.items():
        if key not in known:
            allowed = f"its options are {', '.join(known)}" if known else "it has no options"
            raise InputError(f"method {name!r} has no option {key!r}; {allowed}")
        _check_option(name, key, value, known[key].default, known[key].metadata)
    return method(**options)


def default_options(name: str, preset: str | None = None) -> dict[str, Any]:
    """The default values of all options of a method."""
    return {option.name: option.default for option in options_of(method_class(name, preset)) if option.default is not MISSING}


def stated_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """All options of a method as plans and run ids state them: the given ones, and the default of each option not given.

    Options with the metadata `omit_default` are left out if they have their default value, so that plans made before such an
    option was added stay the same. Raises InputError if the method is unknown.
    """
    known = options_of(method_class(name, _preset(options)))
    omitted = {option.name: option.default for option in known if option.metadata.get("omit_default")}
    stated = default_options(name, _preset(options)) | options
    return {key: value for key, value in stated.items() if key not in omitted or value != omitted[key]}


def options_of(method: type[Method]) -> tuple[Field[Any], ...]:
    """The options of a method: dataclass fields with help text and, if restricted, choices or a range."""
    return fields(method)


def _preset(options: dict[str, Any]) -> str | None:
    """The preset in these options, or None if it is missing or not a string (`_check_option` reports the error later)."""
    preset = options.get("preset")
    return preset if isinstance(preset, str) else None


def _check_option(method: str, key: str, value: Any, default: Any, metadata: Any) -> None:
    """Check that an option's value has the right type and is one of the choices or within the range."""
    kind = type(default)
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or (kind is not bool and isinstance(value, bool)):
        raise InputError(f"option {key!r} of {method!r} is {value!r}; it must be of type {kind.__name__}")
    if "choices" in metadata and value not in metadata["choices"]:
        raise InputError(f"option {key!r} of {method!r} is {value!r}; choose one of {', '.join(metadata['choices'])}")
    if "range" in metadata:
        low, high = metadata["range"]
        if not low <= value <= high:
            raise InputError(f"option {key!r} of {method!r} is {value!r}; it must be between {low} and {high}")


__all__ = [
    "METHODS",
    "SVD",
    "Autoencoder",
    "CompressedMatrix",
    "all_methods",
    "default_options",
    "make_method",
    "method_class",
    "method_of_style_key",
    "options_of",
    "own_options",
    "packages_of",
    "plugin_faults",
    "presets_of",
    "stated_options",
    "style_key_in_plan",
]
