"""Statistics of a model with substituted weights, and the restoring and offloading of that model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offcomp.models.loading import LoadedModel
from offcomp.models.weights import read, substituted
from offcomp.runs.calibration import Calibration, GroupHints
from tests.calibration_texts import TEXTS, calibrate, spec_of
from tests.tiny_models import Tiny


def bits_of(loaded: LoadedModel) -> dict[str, Tensor]:
    return {path: parameter.clone() for path, parameter in loaded.model.named_parameters()}


def test_later_statistics_see_a_settled_member_and_the_model_is_restored_bit_by_bit(
    tiny: Tiny,
) -> None:
    loaded = tiny("bert")
    before = bits_of(loaded)
    specs = [spec_of(loaded, name) for name in ("ffn_out.0", "query.1", "ffn_in.0")]
    calibration = Calibration(loaded, TEXTS)
    with GroupHints(calibration, specs, "residual") as hints:
        assert hints.transposed == (True, False, False)
        assert hints.heights == (40, 24, 40)
        assert hints.order == (2, 0, 1) or [specs[i].name for i in hints.order] == ["ffn_in.0", "ffn_out.0", "query.1"]
        query, ffn_in = hints.statistics(1).column_moment, hints.statistics(2).column_moment
        settled = read(loaded.model, specs[0]).T * 0.3
        hints.substitute(0, settled)
        assert torch.equal(read(loaded.model, specs[0]), settled.T)
        changed = hints.statistics(1).column_moment
        assert (changed - query).norm() > 1e-3 * query.norm()
        torch.testing.assert_close(hints.statistics(2).column_moment, ffn_in)
        hints.substitute(0, settled * 0.5)
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())
    with GroupHints(calibration, specs, "residual") as hints:
        torch.testing.assert_close(hints.statistics(1).column_moment, query, rtol=0, atol=0)


def test_a_group_that_follows_sees_the_groups_before_it_and_others_do_not(tiny: Tiny) -> None:
    loaded = tiny("bert")
    weights = bits_of(loaded)
    earlier, spec = spec_of(loaded, "ffn_out.0"), spec_of(loaded, "query.1")
    before = {earlier: read(loaded.model, earlier) * 0.3}
    with GroupHints(Calibration(loaded, TEXTS), [spec], "rows", lambda: [before]) as hints:
        alone = hints.statistics(0).column_moment
        hints.use_compressed_predecessors()
        following = hints.statistics(0).column_moment
    with calibrate(loaded, TEXTS, [spec], "rows") as hints:
        torch.testing.assert_close(hints.statistics(0).column_moment, alone, rtol=0, atol=0)
    with substituted(loaded.model, before), calibrate(loaded, TEXTS, [spec], "rows") as hints:
        torch.testing.assert_close(hints.statistics(0).column_moment, following, rtol=0, atol=0)
    assert (following - alone).norm() > 1e-3 * alone.norm()
    assert all(torch.equal(weights[path], parameter) for path, parameter in loaded.model.named_parameters())


def is_offloaded(loaded: LoadedModel) -> bool:
    return all(parameter.numel() == 0 for parameter in loaded.model.parameters())


def test_an_offloaded_model_has_what_was_settled_each_time_it_is_in_memory(tiny: Tiny) -> None:
    loaded = tiny("gpt2")
    before = bits_of(loaded)
    names = ("key.0", "ffn_out.0", "ffn_in.1", "query.1")
    spec, transposed, earlier, other = (spec_of(loaded, name) for name in names)
    matrices = {each: factor * read(loaded.model, each) for factor, each in enumerate((spec, transposed, earlier, other), 2)}
    decoded: list[int] = []
    calibration = Calibration(loaded, TEXTS)

    def groups_before() -> list[dict[ModuleSpec, Tensor]]:
        decoded.append(1)
        return [{earlier: matrices[earlier]}, {other: matrices[other]}]

    with calibration.offloaded():
        with GroupHints(calibration, [spec, transposed], "residual", groups_before) as hints:
            assert hints.transposed == (False, True)
            hints.use_compressed_predecessors()
            hints.substitute(0, matrices[spec])
            assert is_offloaded(loaded) and not decoded
            hints.substitute(1, matrices[transposed].T)
            for _ in range(2):
                with calibration.model_loaded():
                    assert all(torch.equal(read(loaded.model, each), matrix) for each, matrix in matrices.items())
                assert is_offloaded(loaded)
            assert len(decoded) == 2
            with calibration.model_loaded():
                hints.restore()
                assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())
            assert is_offloaded(loaded)
            hints.substitute(0, matrices[spec])
        with calibration.model_loaded():
            assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())


def test_an_offloaded_model_says_what_one_in_memory_says(tiny: Tiny) -> None:
    loaded = tiny("bert")
    before, spec = bits_of(loaded), spec_of(loaded, "ffn_in.0")
    half = 0.5 * read(loaded.model, spec)

    def found(calibration: Calibration, *, offloaded: bool) -> list[Tensor | float | None]:
        with GroupHints(calibration, [spec], "rows") as hints:
            values: list[Tensor | float | None] = []
            for _ in range(2):
                statistics = hints.statistics(0)
                values += [statistics.column_moment, statistics.row_moment, statistics.fisher]
                assert is_offloaded(loaded) == offloaded
                hints.substitute(0, half)
            return [*values, hints.output_error({spec: half}, held_out=True)]

    expected = found(Calibration(loaded, TEXTS), offloaded=False)
    calibration = Calibration(loaded, TEXTS)
    with calibration.offloaded():
        assert is_offloaded(loaded)
        again = found(calibration, offloaded=True)
        assert is_offloaded(loaded)
    for one, other in zip(expected, again, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=0, atol=0)
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())


def test_an_offloaded_model_is_whole_after_an_exception(tiny: Tiny) -> None:
    loaded = tiny("bert")
    before, spec = bits_of(loaded), spec_of(loaded, "ffn_in.0")
    calibration = Calibration(loaded, TEXTS)
    with pytest.raises(KeyError), calibration.offloaded(), GroupHints(calibration, [spec], "rows") as hints:
        hints.substitute(0, torch.zeros(spec.shape))
        raise KeyError
    with GroupHints(calibration, [spec], "rows") as hints:
        assert hints.statistics(0).column_moment is not None
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())


def test_an_exception_restores_the_model_too(tiny: Tiny) -> None:
    loaded = tiny("gpt2")
    before = bits_of(loaded)
    spec = spec_of(loaded, "key.0")
    with pytest.raises(KeyError), calibrate(loaded, TEXTS, [spec], "columns") as hints:
        hints.substitute(0, read(loaded.model, spec).T * 2)
        raise KeyError
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())
