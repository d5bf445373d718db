"""Models of the Hugging Face hub: the local cache first, else a download of JSON, tokenizer and safetensors files."""

from __future__ import annotations

from pathlib import Path

from offcomp.errors import ModelError
from offcomp.models.catalogue import MODELS
from offcomp.models.safetensors_files import read_json
from offcomp.models.sources import check_config, check_folder

SMALL_FILES = ("*.json", "*.txt", "*.model")
WEIGHTS = ("model*.safetensors",)


def snapshot(model: str) -> Path:
    """The folder of a hub model, from the cache where it is complete, else downloaded.

    The config is fetched and checked before any weights are.

    Raises:
        ModelError: it is neither cached nor reachable, or its files are unsafe or incomplete.
    """
    cached = cached_folder(model)
    if cached:
        return cached
    folder = _download(model, SMALL_FILES)
    if (folder / "config.json").is_file():
        check_config(read_json(folder / "config.json"))
    return _download(model, (*SMALL_FILES, *WEIGHTS))


def is_cached(model: str) -> bool:
    """Whether a hub model can be loaded without the network."""
    return cached_folder(model) is not None


def cached_folder(model: str) -> Path | None:
    """The cached folder if its files are complete and safe; None otherwise."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model, allow_patterns=[*SMALL_FILES, *WEIGHTS], local_files_only=True))
        check_folder(folder)
    except (OSError, ValueError, ModelError):
        return None
    return folder


def _download(model: str, patterns: tuple[str, ...]) -> Path:
    """The snapshot with the files of these patterns."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError, RevisionResolutionError

    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except (OSError, ValueError, RuntimeError, HTTPError, RevisionResolutionError) as error:
        raise ModelError(
            f"'{model}' is no catalogue name and no folder, and it cannot be fetched from the hub "
            f"({type(error).__name__}); check the name and the network, or give a folder or one of: "
            f"{', '.join(entry.name for entry in MODELS)}."
        ) from error
