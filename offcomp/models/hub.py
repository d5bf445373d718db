"""Models of the Hugging Face hub: the local cache first, else a download of JSON, tokenizer and safetensors files."""

from __future__ import annotations

from pathlib import Path

from offcomp.errors import ModelError
from offcomp.models.catalogue import MODELS
from offcomp.models.safetensors_files import read_json
from offcomp.models.sources import check_config, check_folder

SMALL_FILES = ("*.json", "*.txt", "*.model")
WEIGHTS = ("model*.safetensors",)
FIRST_ANSWER_SECONDS = 4.0
MISSING = (401, 403, 404)  # the hub says 401 for what is not there, unless one is signed in


def snapshot(model: str) -> Path:
    """The folder of a hub model, from the cache where it is complete, else downloaded.

    The config is fetched and checked before any weights are. Whether the hub can be reached and has such a model is known
    within seconds, as the hub's own client is not: it tries again and again.

    Raises:
        ModelError: it is neither cached nor reachable, or its files are unsafe or incomplete.
    """
    found, fault = _in_cache(model)
    if found and not fault:
        return found
    try:
        _check_reachable(model)
    except ModelError as error:
        raise (fault or error) from error
    folder = _download(model, SMALL_FILES)
    if (folder / "config.json").is_file():
        check_config(read_json(folder / "config.json"))
    return _download(model, (*SMALL_FILES, *WEIGHTS))


def is_cached(model: str) -> bool:
    """Whether a hub model can be loaded without the network."""
    return cached_folder(model) is not None


def cached_folder(model: str) -> Path | None:
    """The cached folder if its files are complete and safe; None otherwise."""
    found, fault = _in_cache(model)
    return found if fault is None else None


def _in_cache(model: str) -> tuple[Path | None, ModelError | None]:
    """The cached folder if there is one, and what is wrong with it."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model, allow_patterns=[*SMALL_FILES, *WEIGHTS], local_files_only=True))
    except (OSError, ValueError):
        return None, None
    try:
        check_folder(folder)
    except ModelError as fault:
        return folder, fault
    return folder, None


def _check_reachable(model: str) -> None:
    """One request, without a second try: the hub answers, and it has such a model. Raises ModelError."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.is_offline_mode():
        return  # the client itself says so at once
    address = f"{constants.ENDPOINT}/api/models/{model}"
    try:
        answer = get_session().head(address, headers=build_hf_headers(), timeout=FIRST_ANSWER_SECONDS, follow_redirects=True)
    except (HTTPError, OSError, ValueError) as error:
        raise ModelError(_cannot_fetch(model, type(error).__name__)) from error
    if answer.status_code in MISSING:
        raise ModelError(_cannot_fetch(model, "it has none of that name that you may read"))


def _cannot_fetch(model: str, reason: str) -> str:
    """Why there is no such model, and what to give instead."""
    from huggingface_hub import constants

    form = "" if "/" in model else " (a hub id has the form 'owner/name')"
    network = "unset HF_HUB_OFFLINE, which forbids to ask it" if constants.is_offline_mode() else "the network"
    return (
        f"'{model}' is no catalogue name and no folder, and it cannot be fetched from the hub ({reason}); check the name{form} "
        f"and {network}, or give a folder or one of: {', '.join(entry.name for entry in MODELS)}."
    )


def _download(model: str, patterns: tuple[str, ...]) -> Path:
    """The snapshot with the files of these patterns."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError, RevisionResolutionError

    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except (OSError, ValueError, RuntimeError, HTTPError, RevisionResolutionError) as error:
        raise ModelError(_cannot_fetch(model, type(error).__name__)) from error
