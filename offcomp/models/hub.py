"""Find Hugging Face models in the local cache, or download their JSON, tokenizer and safetensors files from the hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from offcomp.errors import ModelError
from offcomp.models.bundled_models import MODELS
from offcomp.models.safetensors_files import read_json
from offcomp.models.sentence_modules import dense_files
from offcomp.models.sources import check_config, check_folder

SMALL_FILES = tuple(
    f"*{suffix}" for suffix in (".json", ".txt", ".model", ".bpe", ".codes", ".vocab", ".tiktoken", ".tokenizer", ".spm")
)
"""Config and tokenizer files."""
WEIGHTS = ("model*.safetensors",)  # in the top-level folder; weights of Dense modules are requested by name
FIRST_ANSWER_SECONDS = 4.0
MISSING = (401, 403, 404)  # the hub returns 401 for missing repositories unless the user is signed in


def snapshot(model: str) -> Path:
    """Return the folder of a hub model: the cached copy if it is complete, otherwise a fresh download.

    The config is downloaded and checked before any weights are downloaded. An unreachable hub or a missing model is reported
    within seconds, whereas huggingface_hub keeps retrying.

    Raises:
        ModelError: the model is neither cached nor reachable, or its files are unsafe or incomplete.
    """
    cached, fault = _cached(model)
    if cached and not fault:
        return cached
    try:
        _check_reachable(model)
    except ModelError as error:
        raise (fault or error) from error
    folder = _download(model, SMALL_FILES)
    if (folder / "config.json").is_file():
        check_config(read_json(folder / "config.json"))
    folder = _download(model, (*SMALL_FILES, *WEIGHTS))
    for file in _missing_dense_files(model, folder):
        _download_one(model, folder, file)
    return folder


def cached_folder(model: str) -> Path | None:
    """The cached folder if its files are complete and safe, so that the model can be loaded offline; otherwise None."""
    folder, fault = _cached(model)
    return None if fault else folder


def _cached(model: str) -> tuple[Path | None, ModelError | None]:
    """The cached folder, if any, and an error if that folder is unusable."""
    patterns = [*SMALL_FILES, *WEIGHTS]
    try:
        folder = Path(huggingface_hub.snapshot_download(model, allow_patterns=patterns, local_files_only=True))
    except (OSError, ValueError):
        return None, None
    try:
        check_folder(folder)
    except ModelError as fault:
        return folder, fault
    missing = _missing_dense_files(model, folder)
    return folder, _missing_file_error(model, missing[0]) if missing else None


def _missing_file_error(model: str, file: str) -> ModelError:
    return ModelError(
        f"The cached copy of '{model}' lacks '{file}', which its modules.json requires, and the file cannot be downloaded; "
        "connect to the network once, or specify a folder that contains all the files."
    )


def _missing_dense_files(model: str, folder: Path) -> list[str]:
    """Weight files of Dense modules that are missing from the snapshot, except those known to be missing from the hub too."""
    absent = [file for file in dense_files(folder) if not (folder / file).is_file()]
    cached = {file: huggingface_hub.try_to_load_from_cache(model, file, revision=folder.name) for file in absent}
    return [file for file, answer in cached.items() if answer is not huggingface_hub._CACHED_NO_EXIST]


def _check_reachable(model: str) -> None:
    """Check with a single request, without retries, that the hub is reachable and has the model. Raises ModelError."""
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.is_offline_mode():
        return  # the client itself fails immediately
    address = f"{constants.ENDPOINT}/api/models/{model}"
    try:
        answer = get_session().head(address, headers=build_hf_headers(), timeout=FIRST_ANSWER_SECONDS, follow_redirects=True)
    except (HTTPError, OSError, ValueError) as error:
        raise ModelError(_cannot_fetch(model, type(error).__name__)) from error
    if answer.status_code in MISSING:
        raise ModelError(_cannot_fetch(model, "there is no such model, or you do not have access to it"))


def _cannot_fetch(model: str, reason: str) -> str:
    """Error message that says why the model is unavailable and what to use instead."""
    form = "" if "/" in model else " (a hub id has the form 'owner/name')"
    network = "unset HF_HUB_OFFLINE, which blocks access to the hub" if constants.is_offline_mode() else "your network"
    return (
        f"'{model}' is neither a catalogue name nor a folder, and it cannot be downloaded from the hub ({reason}); check the "
        f"name{form} and {network}, or specify a folder or one of these models: {', '.join(entry.name for entry in MODELS)}."
    )


def _download(model: str, patterns: tuple[str, ...]) -> Path:
    """Download the files matching `patterns` and return the snapshot folder."""
    from huggingface_hub.errors import HTTPError, RevisionResolutionError

    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=list(patterns)))
    except (OSError, ValueError, RuntimeError, HTTPError, RevisionResolutionError) as error:
        raise ModelError(_cannot_fetch(model, type(error).__name__)) from error


def _download_one(model: str, folder: Path, file: str) -> None:
    """Download one file. If the hub lacks it, its absence is cached, and an error is raised only once the file is needed."""
    from huggingface_hub.errors import HTTPError, RemoteEntryNotFoundError

    try:
        huggingface_hub.hf_hub_download(model, file, revision=folder.name)
    except RemoteEntryNotFoundError:
        return
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise _missing_file_error(model, file) from error
