"""The bundled models are complete and small, load without a network, and perform the tasks they were trained for."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from offcomp.evaluation import open_task
from offcomp.files import read_json
from offcomp.models.bundled_models import MODELS, CatalogueModel
from offcomp.models.catalogue import ModelInfo
from offcomp.models.identity import identify
from offcomp.models.listing import known_info
from offcomp.models.loading import load
from offcomp.models.sources import BUNDLED
from offcomp.planning.data.tasks import find_task
from offcomp.planning.spectra import find

OWN = [entry for entry in MODELS if not entry.package]
ASSETS = Path(__file__).parents[2] / "assets"
MEGABYTES = 25
FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
KNOWS = {
    "offcomp-bert": ("masked-prose", 100.0),
    "offcomp-bert-sentiment": ("sentiment-head", 0.75),
    "offcomp-gpt": ("causal-prose", 300.0),
}
"""Model -> its task, and a score that neither random weights nor constant predictions come close to."""


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.name)
def test_a_bundled_model_is_whole(entry: CatalogueModel) -> None:
    folder = BUNDLED / entry.name
    assert {file.name for file in folder.iterdir()} == FILES
    config = read_json(folder / "config.json")
    assert config is not None
    assert config["dtype"] == "float16"
    assert "licence of the weights" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.name)
def test_its_listing_and_spectra_are_those_of_its_weights(entry: CatalogueModel) -> None:
    info = known_info(entry.name, BUNDLED)
    assert info is not None
    assert info.fingerprint == identify(BUNDLED / entry.name).fingerprint
    assert info == ModelInfo.from_dict(load(entry.name).info.to_dict())
    for spec in info.modules:
        if spec.default:
            assert find(info, (spec,), "rows", BUNDLED / "nowhere") is not None, spec.name


def test_the_masked_models_are_small_together() -> None:
    masked = [BUNDLED / entry.name for entry in OWN if "bert" in entry.name]
    assert sum(file.stat().st_size for folder in masked for file in folder.iterdir()) <= MEGABYTES * 1e6


@pytest.mark.parametrize("name", KNOWS)
def test_it_knows_what_it_was_trained_for(name: str, tmp_path: Path) -> None:
    task, expected = KNOWS[name]
    asked = find_task(task)
    if "prose" in task:  # a fifth of the passages is enough
        pd.read_csv(ASSETS / "tasks" / "prose.csv").iloc[::5].to_csv(tmp_path / "prose.csv", index=False)
        asked = asked.replace(data=str(tmp_path / "prose.csv"))
    score = open_task(asked, load(name)).original()
    better = score.value <= expected if score.direction == "lower" else score.value >= expected
    assert better, f"{task}: {score.value:.3f}"
    assert not score.collapsed
