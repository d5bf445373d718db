"""Determine where a model comes from and check that it is safe to load. Requires neither torch nor transformers.

No part of a model is instantiated before `check_folder` has passed, because the model's JSON files could request
remote code, other files, or sizes that exhaust memory.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from offcomp.errors import ModelError
from offcomp.files import assets_folder
from offcomp.models.bundled_models import MODELS, CatalogueModel, catalogue_model
from offcomp.models.catalogue import ModelInfo
from offcomp.models.families import MODULE_NAME
from offcomp.models.folder_faults import CONFIG, check_is_complete, check_tokenizer_settings
from offcomp.models.identity import file_digest, readable
from offcomp.models.safetensors_files import PICKLES, read_json, stored_dtype, weight_files

TOKENIZER_CONFIG = "tokenizer_config.json"
BUNDLED = assets_folder() / "models"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
MAX_HUB_ID = 96

MAX_SIZE = 10**7
LIMITS = {"layers": 1000, "n_layer": 1000, "groups": 1000, "group_num": 1000, "num_labels": 10**5, "theta": 10**12}
"""Maximum values for config keys with these suffixes; the maximum for all other keys is `MAX_SIZE`."""

MAX_DEPTH = 8
SHARES = ("dropout", "pdrop", "dropout_prob", "dropout_rate")

OWN_CODE = (
    "requests custom code; if transformers supports the model_type natively, remove the key from the file to load the model "
    "without that code; otherwise the model is not supported"
)
REFUSED = {
    "auto_map": OWN_CODE,
    "trust_remote_code": OWN_CODE,
    "transformers_weights": "redirects the weights to another file; rename that file to 'model.safetensors' and remove the key",
    "fusion_config": "requests patched modules; remove the key to load the unpatched model",
    "quantization_config": "describes weights that are already quantised; use the unquantised model",
}
"""Config keys that are rejected at any depth, and why."""

REFUSED_PREFIXES = ("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation")
HARMLESS = "_attn_implementation_autoset"  # a flag that transformers 4.46 to 4.51 wrote into every config

WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True)
class Source:
    """Where a model comes from. `folder` is None for a hub id, which is not necessarily downloaded."""

    model: str
    source: Literal["catalogue", "folder", "hub"]
    folder: Path | None = None


def resolve(model: str) -> Source:
    """Resolve a model given as a catalogue name, a folder or a hub id, tried in this order. Nothing is read or downloaded.

    Raises:
        ModelError: the model cannot be resolved, or the package of a catalogue model is not installed.
    """
    entry = catalogue_model(model)
    if entry:
        return Source(model, "catalogue", _folder_of(entry))
    path = _existing(model)
    if path and path.is_dir():
        return Source(model, "folder", path)
    if path:
        raise ModelError(f"'{model}' is a file; specify the folder that contains it and its '{CONFIG}'.")
    names = [entry.name for entry in MODELS]
    close = difflib.get_close_matches(model, names, n=1, cutoff=0.75)
    if close:
        raise ModelError(f"There is no model '{model}'; did you mean '{close[0]}'?")
    if MODULE_NAME.fullmatch(model):
        raise ModelError(
            f"'{model}' is the name of a module, not of a model; specify a catalogue name ({', '.join(names)}), an existing "
            "folder, or a hub id such as 'owner/name' (modules are selected in a plan's groups, or with --modules)."
        )
    is_hub_id = HUB_ID.fullmatch(model) and ".." not in model and len(model) <= MAX_HUB_ID
    if is_hub_id and not model.endswith((*PICKLES, ".safetensors", ".json")):
        return Source(model, "hub")
    raise ModelError(
        f"'{model[:200]}' is not a model; specify a catalogue name ({', '.join(names)}), an existing folder, "
        "or a hub id such as 'owner/name'."
    )


def may_have_tokenizer(info: ModelInfo) -> bool:
    """Return False only for a local folder without tokenizer files; other models must be loaded to find out."""
    folder = _existing(info.model) if info.source == "folder" else None
    return folder is None or any((folder / name).is_file() for name in TOKENIZER_FILES)


def _existing(model: str) -> Path | None:
    """The path if it exists, otherwise None."""
    try:
        path = Path(model).expanduser()
        return path if model.strip() and path.exists() else None
    except (OSError, ValueError, RuntimeError):  # path too long, NUL character, no such home folder
        return None


def _folder_of(entry: CatalogueModel) -> Path:
    """The folder of a catalogue model, bundled with offcomp or named `model` in an installed package (never imported)."""
    if not entry.package:
        return BUNDLED / entry.name
    package = importlib.util.find_spec(entry.package)
    if package is None or not package.submodule_search_locations:
        raise ModelError(f"The model '{entry.name}' is not installed; install it with `{entry.install}`.")
    return Path(package.submodule_search_locations[0]) / "model"


def check_folder(folder: Path) -> dict[str, Any]:
    """Check that a model folder is complete and safe to load, and return its config.

    Raises:
        ModelError: the folder, its config or its weights are missing, damaged, unsafe or unsupported.
    """
    with readable(folder):
        if not folder.is_dir():
            raise ModelError(f"The folder '{folder}' does not exist.")
        check_is_complete(folder)
        config = read_json(folder / CONFIG)
        check_config(config)
        stored_dtype(folder)
        if (folder / TOKENIZER_CONFIG).is_file():
            settings = read_json(folder / TOKENIZER_CONFIG)
            _check_keys(settings, TOKENIZER_CONFIG)
            check_tokenizer_settings(settings, TOKENIZER_CONFIG)
    return config


def check_config(config: Mapping[str, Any]) -> None:
    """Reject a config that requests custom code or kernels, or specifies an unreasonable size, also of a model nested in it.

    Raises:
        ModelError: the config is rejected; the message names the offending key and value.
    """
    _check_keys(config, CONFIG)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ModelError(f"'{CONFIG}' has no valid 'model_type' ({model_type!r}); set it to the name used in transformers.")
    for part in (config, *(value for _, value in _items(config) if isinstance(value, Mapping))):
        _check_sizes(part)


def _check_keys(document: Mapping[str, Any], file: str) -> None:
    """Reject forbidden keys at any depth. Raises ModelError."""
    for key, value in _items(document):
        if key in REFUSED and value is not None:
            raise ModelError(f"'{file}' has the key '{key}', which {REFUSED[key]}.")
        if key.startswith(REFUSED_PREFIXES) and not (key == HARMLESS and isinstance(value, bool)):
            raise ModelError(f"'{file}' has the key '{key}', which selects the code to run; remove it to load the model.")


def _items(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All keys and values in nested JSON."""
    if depth > MAX_DEPTH:
        raise ModelError(f"A JSON file in the model folder is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, Mapping):
        for key, nested in value.items():
            yield str(key), nested
            yield from _items(nested, depth + 1)
    elif isinstance(value, list):
        for nested in value:
            yield from _items(nested, depth + 1)


def _check_sizes(config: Mapping[str, Any]) -> None:
    """Check that sizes are positive and not too large, numbers finite, and dropout rates between 0 and 1. Raises ModelError."""
    for key, value in config.items():
        is_share = key.endswith(SHARES) and isinstance(value, int | float)
        if (isinstance(value, float) and not isfinite(value)) or (is_share and not 0 <= value <= 1):
            allowed = "a number from 0 to 1" if is_share else "a finite number"
            raise ModelError(f"'{CONFIG}' sets {key} to {value}; it must be {allowed}.")
        limit = next((limit for suffix, limit in LIMITS.items() if key.endswith(suffix)), MAX_SIZE)
        if isinstance(value, int) and abs(value) > limit:
            raise ModelError(f"'{CONFIG}' sets {key} to {value}; at most {limit} is supported.")
        if key in (*WIDTHS, *DEPTHS, "vocab_size") and (not isinstance(value, int) or value < 1 or value is True):
            raise ModelError(f"'{CONFIG}' sets {key} to {value!r}; it must be a positive integer.")


def check_checksum(entry: CatalogueModel, folder: Path) -> None:
    """Check that the installed weights match the pinned checksum.

    Raises:
        ModelError: the checksum does not match.
    """
    (file,) = weight_files(folder)
    with readable(folder):
        checksum = file_digest(file)
    if checksum != entry.sha256:
        raise ModelError(
            f"The weights of '{entry.name}' have the checksum {checksum[:12]}..., not "
            f"{entry.sha256[:12]}...; reinstall them with `{entry.install}`."
        )


def bundled_info(model: str) -> ModelInfo | None:
    """The description of a catalogue model, shipped with offcomp to avoid loading torch; None for other models."""
    file = BUNDLED / f"{model}.json"
    return ModelInfo.from_dict(read_json(file)) if catalogue_model(model) and file.is_file() else None
