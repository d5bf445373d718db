"""Statistics do not depend on splitting the text into parts or on the number of passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offcomp.models.loading import load
from offcomp.models.weights import read
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.calibration.batches import token_batches
from offcomp.runs.calibration.forward import run
from offcomp.runs.calibration.moments import InputMoments, output_errors, sum_magnitudes, sum_moments
from tests import tiny_models
from tests.calibration_texts import PLENTY, TEXTS, calibrate, spec_of
from tests.tiny_models import Tiny


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record each later pass that gathers moments. Returns a list with the number of modules of each pass."""
    gathered: list[int] = []

    def counted(model: Any, wanted: Any, *rest: Any, **named: Any) -> Any:
        gathered.append(len(wanted))
        return sum_moments(model, wanted, *rest, **named)

    monkeypatch.setattr("offcomp.runs.calibration.passes.sum_moments", counted)
    return gathered


@pytest.mark.parametrize(("cache_bytes", "passes"), [(PLENTY, 1), (2 * 8 * 24**2, 2), (0, 4)])
def test_statistics_that_outweigh_the_cache_take_more_passes_and_are_the_same(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, cache_bytes: int, passes: int
) -> None:
    loaded = tiny("bert")
    specs = [spec_of(loaded, name) for name in ("query.0", "key.0", "query.1", "key.1")]
    gathered = count_passes(monkeypatch)
    calibration = Calibration(loaded, TEXTS)
    with GroupHints(calibration, specs, "rows") as hints:
        hints.cache_bytes = cache_bytes
        found = [hints.statistics(index).column_moment for index in range(4)]
    alone = [sum_moments(loaded.model, [spec], calibration.batches, "output").means(spec).second for spec in specs]
    assert len(gathered) == passes and sum(gathered) == 4
    assert sum(8 * width**2 for width in [24] * len(calibration._kept.values)) <= max(cache_bytes, 0)
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


@pytest.mark.parametrize(("ahead", "passes"), [(True, 1), (False, 4)])
def test_one_pass_serves_all_groups_where_the_cache_holds_their_statistics(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, ahead: bool, passes: int
) -> None:
    loaded = tiny("bert")
    specs = [spec_of(loaded, name) for name in ("query.0", "key.0", "query.1", "key.1")]
    gathered = count_passes(monkeypatch)
    calibration = Calibration(loaded, TEXTS, cache_bytes=PLENTY if ahead else 0, ahead=specs if ahead else ())
    for spec in specs:
        with GroupHints(calibration, [spec], "rows") as hints:
            found = hints.statistics(0).column_moment
            calibration.output_errors({spec: read(loaded.model, spec)}, held_out=True)  # does not drop what later groups need
            hints.release()
        assert found is not None
        alone = sum_moments(loaded.model, [spec], calibration.batches, "output").means(spec).second
        assert torch.equal(found, alone)
    assert len(gathered) == passes and sum(gathered) == 4


def test_statistics_of_a_changed_model_are_gathered_anew_and_those_of_the_original_after_it(tiny: Tiny) -> None:
    loaded = tiny("bert")
    first, second = (spec_of(loaded, name) for name in ("query.0", "query.1"))
    calibration = Calibration(loaded, TEXTS, cache_bytes=PLENTY, ahead=[first, second])
    with GroupHints(calibration, [first, second], "rows") as hints:
        before = hints.statistics(1).column_moment
        hints.substitute(0, torch.zeros(first.rows, first.cols))
        changed = hints.statistics(1).column_moment
        hints.restore()
        after = hints.statistics(1).column_moment
    assert before is not None and changed is not None and after is not None
    assert torch.equal(before, after) and not torch.equal(before, changed)


@pytest.mark.parametrize("name", ["fisher", "row_moment"])
def test_gradients_are_the_same_in_one_pass_and_in_several(tiny: Tiny, name: str) -> None:
    loaded = tiny("bert")
    specs = [spec_of(loaded, module) for module in ("query.0", "key.0", "query.1")]

    def found(cache_bytes: int) -> list[Tensor]:
        with calibrate(loaded, TEXTS, specs, "rows") as hints:
            hints.cache_bytes = cache_bytes
            return [getattr(hints.statistics(index), name) for index in range(3)]

    assert all(torch.equal(one, other) for one, other in zip(found(PLENTY), found(0), strict=True))


@pytest.mark.parametrize(("limit", "heights"), [(1000, [6]), (16, [2, 2, 2]), (1, [1] * 6)])
def test_a_batch_comes_apart_into_whole_texts(tiny: Tiny, limit: int, heights: list[int]) -> None:
    (batch,) = token_batches(tiny("bert"), TEXTS, 6, False)
    parts = list(batch.parts(limit))
    assert [len(part.counted) for part in parts] == heights
    assert torch.equal(torch.cat([part.counted for part in parts]), batch.counted)
    for name, tensor in batch.inputs.items():
        assert torch.equal(torch.cat([part.inputs[name] for part in parts]), tensor)


@pytest.mark.parametrize(
    ("texts", "tokens", "heights"), [(6, 16, [2, 2, 2]), (5, 1, [2, 3]), (3, 8, [3]), (1, 1, [1]), (2, 1, [2]), (6, 32, [3, 3])]
)
def test_parts_have_at_least_so_many_texts(tiny: Tiny, texts: int, tokens: int, heights: list[int]) -> None:
    (batch,) = token_batches(tiny("bert"), [TEXTS[0]] * texts, 8, False)
    assert [len(part.counted) for part in batch.parts(tokens, at_least=2)] == heights


@pytest.mark.parametrize("weighting", ["equal", "output"])
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("bert", "ffn_in.0"),
        ("bert", "word_embeddings"),
        ("bert", "bert.embeddings.position_embeddings"),
        ("bert", "pooler"),
        ("deberta_v2", "key.0"),
        ("t5", "encoder.query.0"),
    ],
)
def test_a_batch_says_the_same_in_parts(
    tiny: Tiny,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: str,
    weighting: str,
) -> None:
    """Position embeddings, which a DeBERTa also passes through its key projections, belong to no text and are counted once."""
    shared_keys = name == "deberta_v2"
    loaded = load(str(tiny_models.save(tiny_models.deberta_v2(share_att_key=True), tmp_path))) if shared_keys else tiny(name)
    spec = spec_of(loaded, module)
    batches = token_batches(loaded, TEXTS, 16, special_tokens=False)
    error = {spec: read(loaded.model, spec) * 0.9}

    def found() -> tuple[InputMoments, tuple[float, float]]:
        moments = sum_moments(loaded.model, [spec], batches, weighting).means(spec)
        return moments, output_errors(loaded.model, error, batches, weighting)[spec]

    (whole, whole_error), parts = found(), []
    monkeypatch.setattr("offcomp.runs.calibration.forward.TOKENS_AT_ONCE", 16)
    monkeypatch.setattr("offcomp.runs.calibration.blocks.run", lambda *pass_: (parts.append(pass_), run(*pass_)))
    split, split_error = found()
    assert len(parts) == 6
    assert split.num_tokens == whole.num_tokens
    torch.testing.assert_close(split.second, whole.second, rtol=1e-5, atol=1e-7)
    assert split_error == pytest.approx(whole_error, rel=1e-5)


@pytest.mark.parametrize("weighting", ["output", "equal"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_errors_on_the_text_used_for_fitting_are_the_same_from_moments_as_from_a_pass(
    tiny: Tiny, name: str, weighting: str
) -> None:
    loaded = tiny(name)
    specs = [spec_of(loaded, module) for module in ("word_embeddings", "key.0", "value.0", "ffn_out.1")]
    rounded = {spec: read(loaded.model, spec).half().float() for spec in specs}
    calibration = Calibration(loaded, TEXTS, weighting=weighting, cache_bytes=PLENTY, ahead=specs)
    by_pass = calibration.output_errors(rounded, held_out=False)
    for spec in specs:
        calibration.moments([spec], PLENTY)
    assert by_pass == output_errors(loaded.model, rounded, calibration.batches, weighting)
    for spec, sums in calibration.output_errors(rounded, held_out=False).items():
        assert sums == pytest.approx(by_pass[spec], rel=1e-5)
        assert (sums == by_pass[spec]) == (spec.kind == "word_embeddings"), "moments serve all vectors, and no token ids"


def test_mean_absolute_inputs_take_one_pass_without_second_moments(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny("bert")
    specs = [spec_of(loaded, name) for name in ("word_embeddings", "query.0", "key.0", "ffn_out.1")]
    gathered, passes = count_passes(monkeypatch), []
    monkeypatch.setattr(
        "offcomp.runs.calibration.passes.sum_magnitudes", lambda *rest: (passes.append(rest[1]), sum_magnitudes(*rest))[1]
    )
    calibration = Calibration(loaded, TEXTS, cache_bytes=PLENTY, ahead=specs)
    with GroupHints(calibration, specs[1:], "rows") as hints:
        query, key, _out = (hints.statistics(index).column_magnitude for index in range(3))
    assert query is key, "they have the same input"
    assert gathered == []
    assert passes == [[specs[1], specs[3]]]


@pytest.mark.parametrize(("cache_bytes", "expected"), [(0, 4 * 24 * 24), (100_000, 100_000)])
def test_half_the_matrix_of_a_group_is_kept_or_as_much_as_is_told(tiny: Tiny, cache_bytes: int, expected: int) -> None:
    loaded = tiny("bert")
    specs = [spec_of(loaded, name) for name in ("query.0", "key.0")]
    with GroupHints(Calibration(loaded, TEXTS, cache_bytes=cache_bytes), specs, "rows") as hints:
        assert hints.cache_bytes == expected
