"""Detect problems in a model folder and suggest fixes. Requires neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from offcomp.errors import ModelError
from offcomp.models.safetensors_files import read_json
from offcomp.models.sentence_modules import MODULES
from offcomp.plain_text import quoted

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
LAYERS = ("layers", "n_layer", "groups", "group_num")
SHARED_LAYERS = 48  # ALBERT shares one set of tensors among all layers


def check_is_complete(folder: Path) -> None:
    """Reject a folder that has no config, contains an adapter, or uses an old sentence-transformers layout.

    Raises:
        ModelError: the folder is rejected; the message says what to use instead.
    """
    if (folder / ADAPTER_CONFIG).exists():
        base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        named = f" ('{base}')" if isinstance(base, str) and base else ""
        raise ModelError(
            f"'{folder}' contains an adapter, not a complete model; first merge it into its base model{named} with peft's "
            "`merge_and_unload`, then save the result with `save_pretrained`."
        )
    if inside := _old_sentence_model(folder):
        raise ModelError(
            f"'{folder}' uses an old sentence-transformers layout, with the transformer in '{inside.name}'; save it again with "
            f"a current version (`SentenceTransformer('{folder}').save_pretrained('NEW')`) and use the new folder, or use "
            f"'{inside}' for the transformer alone."
        )
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"The folder '{folder}' has no '{CONFIG}'; specify the folder of a saved model{_subfolder_hint(folder)}."
        )


def _old_sentence_model(folder: Path) -> Path | None:
    """The transformer's subfolder (`0_Transformer`) if the top-level folder has no model config, otherwise None."""
    if not (folder / MODULES).is_file():
        return None
    if (folder / CONFIG).is_file() and "model_type" in read_json(folder / CONFIG):
        return None
    return next((file.parent for file in sorted(folder.glob(f"0_*/{CONFIG}"))), None)


def _subfolder_hint(folder: Path) -> str:
    """A hint that names a subfolder with a config; empty if no subfolder has one."""
    names = sorted(file.parent.name for file in folder.glob(f"*/{CONFIG}"))
    return f", such as '{folder / names[0]}'" if names else ""


def check_tokenizer_settings(settings: Mapping[str, Any], file: str) -> None:
    """Check that the tokenizer's `model_max_length`, if set, is a number of at least 1.

    Raises:
        ModelError: a setting is invalid; the message names the offending key and value.
    """
    longest = settings.get("model_max_length")
    is_number = isinstance(longest, int | float) and not isinstance(longest, bool)
    if longest is not None and not (is_number and longest >= 1):
        raise ModelError(
            f"'{file}' sets model_max_length to {quoted(longest)}; set it to a number of tokens, or remove the key to use the "
            "model's own limit."
        )


def check_depth(config: Mapping[str, Any], tensors: Collection[str]) -> None:
    """Check that the files contain at least one tensor per layer in the config, since even empty layers take time to build.

    Raises:
        ModelError: there are fewer tensors than layers; the message names the offending key and value.
    """
    for key, value in config.items():
        if key.endswith(LAYERS) and isinstance(value, int) and value > len(tensors) + SHARED_LAYERS:
            raise ModelError(
                f"'{CONFIG}' sets {key} to {value}, but the files contain {len(tensors)} tensors, fewer than one per layer; "
                "restore the model's original config."
            )
