"""What is wrong with a folder that somebody else made, and how to mend it. Neither torch nor transformers is needed here."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from offcomp.errors import ModelError
from offcomp.models.catalogue import KINDS, OTHER_KINDS
from offcomp.models.safetensors_files import read_json

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
SENTENCE_MODULES = "modules.json"
LAYERS = ("layers", "n_layer", "groups", "group_num")
SHARED_LAYERS = 48  # an ALBERT has one set of tensors for all its layers
MODULE_NAME = re.compile(rf"((encoder|decoder|cross)\.)?({'|'.join((*KINDS, *OTHER_KINDS))})(\.\d+)?")


def is_module_name(model: str) -> bool:
    """Whether a text is the name of a weight matrix, such as `query.0`, and so no model."""
    return MODULE_NAME.fullmatch(model) is not None


def check_is_whole(folder: Path) -> None:
    """The folder holds a config, and neither an adapter nor the layout of an old sentence-transformers.

    Raises:
        ModelError: with what to give instead.
    """
    if (folder / ADAPTER_CONFIG).exists():
        base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        named = f" ('{base}')" if isinstance(base, str) and base else ""
        raise ModelError(
            f"'{folder}' holds an adapter, not a whole model; merge it into its base model{named} first: peft's "
            "`merge_and_unload`, then `save_pretrained`."
        )
    inside = _old_sentence_model(folder)
    if inside:
        raise ModelError(
            f"'{folder}' has the layout of an old sentence-transformers, whose transformer lies in '{inside.name}'; save it "
            f"anew with a current one (`SentenceTransformer('{folder}').save_pretrained('NEW')`) and give that folder, or give "
            f"'{inside}' for the transformer alone."
        )
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"The folder '{folder}' has no '{CONFIG}'; give the folder of a saved transformers model{_below(folder)}."
        )


def _old_sentence_model(folder: Path) -> Path | None:
    """The sub-folder of the transformer (`0_Transformer`) where the folder's own config is none of a model."""
    if not (folder / SENTENCE_MODULES).is_file():
        return None
    if (folder / CONFIG).is_file() and "model_type" in read_json(folder / CONFIG):
        return None
    return next((file.parent for file in sorted(folder.glob(f"0_*/{CONFIG}"))), None)


def _below(folder: Path) -> str:
    """The sub-folder that was probably meant."""
    found = sorted(file.parent.name for file in folder.glob(f"*/{CONFIG}"))
    return f", such as '{folder / found[0]}'" if found else ""


def check_tokenizer_settings(settings: Mapping[str, Any], file: str) -> None:
    """The settings that are computed with have a type that can be.

    Raises:
        ModelError: with the key and the value at fault.
    """
    longest = settings.get("model_max_length")
    is_number = isinstance(longest, int | float) and not isinstance(longest, bool)
    if longest is not None and not (is_number and longest >= 1):
        raise ModelError(
            f"'{file}' sets model_max_length to {_short(longest)}; a number of tokens is needed, or remove the key to let the "
            "model's own length hold."
        )


def _short(value: Any) -> str:
    """A value as text, of a length that fits a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_depth(config: Mapping[str, Any], tensors: Collection[str]) -> None:
    """The files hold a tensor at least for each layer of the config, since even a layer without values takes time to build.

    Raises:
        ModelError: with the key and the value at fault.
    """
    for key, value in config.items():
        if key.endswith(LAYERS) and isinstance(value, int) and value > len(tensors) + SHARED_LAYERS:
            raise ModelError(
                f"'{CONFIG}' sets {key} to {value}, but the files hold {len(tensors)} tensors, less than one a layer; restore "
                "the config of this model."
            )
