"""The methods reproduce reference figures of MiniLM-L6, which were measured independently of this code.

The figures of SVD must agree to their last digit; those of the autoencoder, which is trained, within 3 %.
"""

from __future__ import annotations

import pytest

from offcomp.models.loading import LoadedModel, load
from offcomp.numerics.reconstruction_error import reconstruction_error
from offcomp.planning.plan import Group
from offcomp.runs.compress import compress_group
from offcomp.runs.result import GroupResult

LAYERS = range(6)


@pytest.fixture(scope="module")
def minilm() -> LoadedModel:
    return load("minilm-l6")


def all_layers(kind: str) -> tuple[str, ...]:
    return tuple(f"{kind}.{layer}" for layer in LAYERS)


def figures(minilm: LoadedModel, group: Group) -> GroupResult:
    return compress_group(minilm.model, minilm.info, group).figures


@pytest.mark.parametrize(("kind", "relative", "cosine"), [("key", 0.6185, 0.2319), ("value", 0.6478, 0.2629)])
def test_svd_of_six_layers_by_rows_at_ratio_3(minilm: LoadedModel, kind: str, relative: float, cosine: float) -> None:
    found = figures(minilm, Group(name=kind, modules=all_layers(kind), stack="rows", ratio=3.0))
    assert (found.rows, found.cols, found.size) == (2304, 384, 109)
    assert found.num_parameters == 109 * (2304 + 384)
    assert found.relative_error == pytest.approx(relative, abs=5e-4)
    assert found.cosine_distance == pytest.approx(cosine, abs=5e-4)


@pytest.mark.parametrize(("stack", "error"), [("rows", 0.583), ("columns", 0.500)])
def test_svd_of_the_attention_outputs_at_ratio_2_by_stacking(minilm: LoadedModel, stack: str, error: float) -> None:
    found = figures(minilm, Group(name="attention_output", modules=all_layers("attention_output"), stack=stack, ratio=2.0))
    assert found.relative_error == pytest.approx(error, abs=5e-4)


def test_svd_of_the_attention_outputs_at_ratio_2_one_by_one(minilm: LoadedModel) -> None:
    alone = [
        compress_group(minilm.model, minilm.info, Group(name="one", modules=(name,), ratio=2.0))
        for name in all_layers("attention_output")
    ]
    assert {group.figures.size for group in alone} == {96}
    pairs = [
        (minilm.model.get_parameter(spec.path), reconstruction)
        for group in alone
        for spec, reconstruction in group.reconstructions.items()
    ]
    assert reconstruction_error(pairs).relative_error == pytest.approx(0.519, abs=5e-4)


@pytest.mark.parametrize(
    ("network", "ratio", "latent", "relative", "cosine"),
    [("linear", 3.0, 108, 0.670, 0.231), ("nonlinear", 10.0, 21, 0.992, 0.509)],
)
def test_the_autoencoder_of_the_paper_on_the_keys(
    *, minilm: LoadedModel, network: str, ratio: float, latent: int, relative: float, cosine: float
) -> None:
    options = {"preset": "banaei2023", "encoder": network, "decoder": network, "epochs": 30, "batch_size": 16}
    found = figures(
        minilm, Group(name="key", modules=all_layers("key"), stack="rows", method="autoencoder", options=options, ratio=ratio)
    )
    assert found.size == latent
    assert found.compression_ratio >= ratio
    assert found.relative_error == pytest.approx(relative, rel=0.03)
    assert found.cosine_distance == pytest.approx(cosine, rel=0.03)
    assert len(found.history) == 30 and found.history[-1] < found.history[0]
