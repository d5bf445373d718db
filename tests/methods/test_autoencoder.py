"""The autoencoder equals a plain PyTorch script, has the sizes that its docstring states, and trains as its options say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from offcomp.errors import InputError
from offcomp.methods import Autoencoder
from offcomp.methods.autoencoder.coefficients import group_coefficients
from offcomp.methods.autoencoder.fit import learning_rate
from offcomp.methods.autoencoder.latent_codes import stored_latents
from offcomp.methods.autoencoder.method import FAST
from offcomp.methods.base import CompressedMatrix, choose_size, dense_shapes
from offcomp.methods.hints import ModuleStatistics
from offcomp.numerics.accounting import Budget, budget_for_ratio, stored_size
from offcomp.numerics.training import SMALL_BATCH, one_thread_if
from tests.synthetic_hints import SyntheticHints, synthetic_hints

NETWORKS = [(e, d) for e in ("linear", "nonlinear") for d in ("linear", "nonlinear")]


def randn(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def low_rank_matrix(rows: int = 128, cols: int = 32, rank: int = 3) -> Tensor:
    return 0.2 * randn(rows, rank) @ randn(rank, cols, seed=1)


def budget_of(method: Autoencoder, rows: int, cols: int, latent: int, dtype: str = "float32") -> Budget:
    """A budget of exactly the parameters that this latent width stores."""
    return Budget(stored_size(method.tensor_shapes(rows, cols, latent), dtype).num_parameters, "parameters", dtype)


def relative_error(original: Tensor, reconstruction: Tensor) -> float:
    return ((original - reconstruction).norm() / original.norm()).item()


# The plain script


class Rows(Dataset):
    """The rows of a matrix as samples."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, index: int) -> Tensor:
        return self.matrix[index]


def plain_decoder(kind: str, latent: int, cols: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(latent, cols)
    layers = [nn.Linear(latent, 2 * latent), nn.Linear(2 * latent, 4 * latent), nn.Linear(4 * latent, cols)]
    return nn.Sequential(layers[0], nn.LeakyReLU(), layers[1], nn.LeakyReLU(), layers[2], nn.Tanh())


def plain_encoder(kind: str, latent: int, cols: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(cols, latent)
    layers = [nn.Linear(cols, 8 * latent), nn.Linear(8 * latent, 4 * latent), nn.Linear(4 * latent, latent)]
    return nn.Sequential(layers[0], nn.LeakyReLU(), layers[1], nn.LeakyReLU(), layers[2], nn.LeakyReLU())


def plain_script(matrix: Tensor, method: Autoencoder, latent: int, seed: int) -> tuple[Tensor, list[float]]:
    """A plain implementation of the paper, with the global generator. Returns the reconstruction and the loss of each epoch."""
    torch.manual_seed(1 + seed)
    decoder = plain_decoder(method.decoder, latent, matrix.shape[1])
    encoder = plain_encoder(method.encoder, latent, matrix.shape[1])
    loader = DataLoader(Rows(matrix), batch_size=16, shuffle=True)
    optimizer = torch.optim.Adam([*decoder.parameters(), *encoder.parameters()], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.8)

    def autoencode(batch: Tensor) -> Tensor:
        output = decoder(encoder(batch))
        if method.enforce_norm:
            output = output / output.norm(dim=1, keepdim=True) * batch.norm(dim=1, keepdim=True)
        return output

    history = []
    for epoch in range(method.epochs):
        losses = []
        for batch in loader:
            output = autoencode(batch)
            cosine = nn.functional.cosine_similarity(output, batch, dim=1)
            loss = 0.9091 * (1 - cosine).mean() + 0.0909 * (output - batch).square().mean().sqrt()
            if method.l1_weight:
                exponent = 1 - 0.9 * min(1.0, epoch / (method.epochs * 2 / 3))
                loss = loss + method.l1_weight * ((output - batch).abs() + 1e-10).pow(exponent).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
        history.append(sum(losses) / len(losses))
    with torch.no_grad():
        return autoencode(matrix), history


@pytest.fixture
def global_generator() -> Iterator[None]:
    """Restore the global generator, which the plain script seeds, after the test."""
    before = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(before)


def assert_equals_the_plain_script(matrix: Tensor, method: Autoencoder, latent: int, seed: int) -> None:
    compressed = method.fit(matrix, budget_of(method, *matrix.shape, latent), seed=seed)
    assert compressed.size == latent
    expected, history = plain_script(matrix, method, latent, seed)
    assert relative_error(expected, compressed.reconstruct()) < 1e-4
    assert list(compressed.history) == pytest.approx(history, rel=1e-4)


@pytest.mark.usefixtures("global_generator")
@pytest.mark.parametrize("enforce_norm", [True, False], ids=["norms", "free"])
@pytest.mark.parametrize("encoder, decoder", NETWORKS)
def test_a_fit_equals_a_plain_pytorch_script(encoder: str, decoder: str, enforce_norm: bool) -> None:
    method = Autoencoder(encoder=encoder, decoder=decoder, enforce_norm=enforce_norm, epochs=4)
    assert_equals_the_plain_script(0.3 * randn(96, 24), method, latent=3, seed=0)


@pytest.mark.usefixtures("global_generator")
@pytest.mark.parametrize("seed", [1, 7])
def test_seed_s_is_the_stream_of_a_script_seeded_with_one_more(seed: int) -> None:
    assert_equals_the_plain_script(0.3 * randn(96, 24), Autoencoder(epochs=2), latent=2, seed=seed)


@pytest.mark.usefixtures("global_generator")
def test_the_learning_rate_falls_every_ten_epochs_as_in_the_script() -> None:
    method = Autoencoder(encoder="linear", decoder="linear", epochs=23)
    assert_equals_the_plain_script(0.3 * randn(96, 24), method, latent=4, seed=0)


@pytest.mark.usefixtures("global_generator")
def test_a_last_batch_that_is_not_full_is_trained_on_as_in_the_script() -> None:
    assert_equals_the_plain_script(0.3 * randn(91, 24), Autoencoder(epochs=3), latent=2, seed=0)


@pytest.mark.usefixtures("global_generator")
def test_the_power_l1_term_is_annealed_as_in_the_script() -> None:
    method = Autoencoder(epochs=6, l1_weight=0.02)  # a larger weight would amplify rounding: |e|^0.1 is steep at 0
    assert_equals_the_plain_script(0.3 * randn(96, 24), method, latent=3, seed=0)


# Sizes


@pytest.mark.parametrize(
    "rows, cols, ratio, decoder, latent",
    [
        (768, 768, 10.0, "nonlinear", 14),
        (9216, 768, 10.0, "nonlinear", 54),
        (2304, 384, 3.0, "nonlinear", 64),
        (2304, 384, 3.0, "linear", 108),
        (2304, 384, 10.0, "nonlinear", 21),
    ],
)
def test_latent_widths_at_known_ratios(rows: int, cols: int, ratio: float, decoder: str, latent: int) -> None:
    budget = budget_for_ratio(stored_size(dense_shapes(rows, cols), "float32"), ratio, "parameters", "float32")
    assert choose_size(Autoencoder(decoder=decoder), rows, cols, budget) == latent


@pytest.mark.parametrize("enforce_norm", [True, False], ids=["norms", "free"])
@pytest.mark.parametrize("encoder, decoder", NETWORKS)
def test_stored_parameters_follow_the_formula_of_the_docstring(encoder: str, decoder: str, enforce_norm: bool) -> None:
    n, m, d = 70, 30, 3
    if decoder == "linear":
        expected = n * d + (d * m + m) + n
    else:
        expected = n * d + (2 * d**2 + 2 * d) + (8 * d**2 + 4 * d) + (4 * d * m + m) + n
    expected -= 0 if enforce_norm else n
    method = Autoencoder(encoder=encoder, decoder=decoder, enforce_norm=enforce_norm, epochs=1)
    compressed = method.fit(randn(n, m), Budget(expected))
    assert compressed.size == d
    assert compressed.stored.num_parameters == expected
    assert ("row_norms" in compressed.tensors) == enforce_norm


@pytest.mark.parametrize("decoder", ["linear", "nonlinear"])
def test_the_encoder_is_thrown_away(decoder: str) -> None:
    method = Autoencoder(epochs=1, decoder=decoder)
    tensors = method.fit(randn(70, 30), budget_of(method, 70, 30, 2)).tensors
    layers = {"linear": 1, "nonlinear": 3}[decoder]
    of_decoder = {f"decoder.{i}.{part}" for i in range(layers) for part in ("weight", "bias")}
    assert set(tensors) == {"latents", "row_norms"} | of_decoder


# Row norms


@pytest.mark.parametrize("encoder, decoder", NETWORKS)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e4])
def test_every_row_of_the_reconstruction_has_the_norm_of_the_original(encoder: str, decoder: str, scale: float) -> None:
    matrix = randn(60, 24) * torch.linspace(0.01, 1, 60)[:, None] * scale
    method = Autoencoder(encoder=encoder, decoder=decoder, epochs=1)
    reconstruction = method.fit(matrix, budget_of(method, 60, 24, 2)).reconstruct()
    norms, expected = reconstruction.double().norm(dim=1), matrix.double().norm(dim=1)
    torch.testing.assert_close(norms, expected, rtol=1e-5, atol=0)


def test_zero_rows_stay_zero_and_do_no_harm_to_the_others() -> None:
    matrix = low_rank_matrix()
    matrix[::3] = 0
    method = Autoencoder(epochs=15, decoder="linear", encoder="linear", learning_rate=1e-2)
    reconstruction = method.fit(matrix, budget_of(method, *matrix.shape, 3)).reconstruct()
    assert reconstruction.isfinite().all()
    assert not reconstruction[::3].any()
    assert relative_error(matrix, reconstruction) < 0.5


def test_without_enforced_norms_rows_are_free() -> None:
    method = Autoencoder(epochs=1, enforce_norm=False)
    matrix = randn(60, 24)
    reconstruction = method.fit(matrix, budget_of(method, 60, 24, 2)).reconstruct()
    assert not torch.allclose(reconstruction.norm(dim=1), matrix.norm(dim=1), rtol=0.05)


# Training


def test_history_has_one_loss_an_epoch_and_falls_on_an_easy_matrix() -> None:
    method = Autoencoder(epochs=20)
    history = method.fit(low_rank_matrix(), budget_of(method, 128, 32, 4)).history
    assert len(history) == 20
    assert all(later < earlier for earlier, later in pairwise(history))
    assert history[-1] < 0.6 * history[0]


@pytest.mark.parametrize("encoder, decoder", NETWORKS)
def test_more_epochs_are_better_on_a_matrix_of_low_rank(encoder: str, decoder: str) -> None:
    matrix = low_rank_matrix()
    errors = []
    for epochs in (1, 8, 40):
        method = Autoencoder(encoder=encoder, decoder=decoder, epochs=epochs, learning_rate=3e-3)
        errors.append(relative_error(matrix, method.fit(matrix, budget_of(method, 128, 32, 4)).reconstruct()))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.6


def test_a_linear_autoencoder_finds_a_matrix_of_low_rank() -> None:
    matrix = low_rank_matrix()
    method = Autoencoder(encoder="linear", decoder="linear", epochs=60, learning_rate=1e-2)
    assert relative_error(matrix, method.fit(matrix, budget_of(method, 128, 32, 3)).reconstruct()) < 0.05


@pytest.mark.parametrize(
    "option, value",
    [("l1_weight", 1.0), ("cosine_weight", 0.0), ("rmse_weight", 0.0), ("learning_rate", 1e-2), ("batch_size", 64)],
)
def test_every_option_of_the_training_changes_the_result(option: str, value: float) -> None:
    matrix = randn(60, 24)
    usual, changed = Autoencoder(epochs=2), Autoencoder(epochs=2, **{option: value})
    budget = budget_of(usual, 60, 24, 2)
    first, second = usual.fit(matrix, budget), changed.fit(matrix, budget)
    assert first.history != second.history
    assert not torch.equal(first.reconstruct(), second.reconstruct())


def first_loss(**options: float) -> float:
    """The loss of the untrained network: one epoch of one batch, recorded before its step."""
    method = Autoencoder(epochs=1, batch_size=60, **options)
    return method.fit(randn(60, 24), budget_of(method, 60, 24, 2)).history[0]


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    cosine = first_loss(cosine_weight=1.0, rmse_weight=0.0)
    rmse = first_loss(cosine_weight=0.0, rmse_weight=1.0)
    l1 = first_loss(cosine_weight=0.0, rmse_weight=0.0, l1_weight=1.0)
    assert 0 < cosine < 2
    assert 0 < l1 < rmse  # the exponent is 1 in the first epoch, and a mean never exceeds a root mean square
    assert first_loss(cosine_weight=2.0, rmse_weight=3.0, l1_weight=0.5) == pytest.approx(
        2 * cosine + 3 * rmse + 0.5 * l1, rel=1e-5
    )
    assert first_loss() == pytest.approx(0.9091 * cosine + 0.0909 * rmse, rel=1e-5)


def test_another_seed_gives_another_fit() -> None:
    method = Autoencoder(epochs=1)
    budget = budget_of(method, 60, 24, 2)
    first, second = (method.fit(randn(60, 24), budget, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.tensors["latents"], second.tensors["latents"])


def test_a_batch_larger_than_the_matrix_is_one_step_an_epoch() -> None:
    matrix = randn(60, 24)
    results = []
    for batch_size in (60, 65536):
        method = Autoencoder(epochs=3, batch_size=batch_size)
        results.append(method.fit(matrix, budget_of(method, 60, 24, 2)))
    assert torch.equal(results[0].reconstruct(), results[1].reconstruct())
    assert len(results[0].history) == 3


def test_progress_counts_the_epochs() -> None:
    seen: list[float] = []
    method = Autoencoder(epochs=4, batch_size=16)
    method.fit(randn(60, 24), budget_of(method, 60, 24, 2), report=seen.append)
    assert list(dict.fromkeys(seen)) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_progress_within_an_epoch_is_reported_so_that_a_long_fit_can_be_cancelled() -> None:
    seen: list[float] = []
    method = Autoencoder(epochs=1, batch_size=1)
    method.fit(randn(300, 12), budget_of(method, 300, 12, 1), report=seen.append)
    assert len(seen) >= 5
    assert seen == sorted(seen)
    assert max(later - earlier for earlier, later in pairwise(seen)) < 0.25


# Several matrices together


def stacked_matrices() -> Tensor:
    """Three matrices of one shape; the scale of the last is very different, and it has a row of zeros."""
    matrices = torch.stack([low_rank_matrix() + 0.05 * randn(128, 32, seed=seed) for seed in (7, 8, 9)])
    matrices[2] *= 30
    matrices[2, 5] = 0
    return matrices


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Compute on this number of threads during the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def fitted_alone(method: Autoencoder, matrix: Tensor, budget: Budget, seed: int) -> CompressedMatrix:
    """The fit of one matrix on one thread; otherwise, large batches would use all threads."""
    with one_thread_if(True):
        return method.fit(matrix, budget, seed=seed)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "options",
    [
        {},
        FAST,
        {"decoder": "linear", "encoder": "linear"},
        {"refine_epochs": 5, "latent_bits": 4},
        {"enforce_norm": False, "l1_weight": 0.01},
    ],
    ids=["paper", "fast", "linear", "refined codes", "free norms and l1"],
)
def test_matrices_trained_together_equal_those_trained_alone(options: dict[str, Any]) -> None:
    matrices, method = stacked_matrices(), Autoencoder(**{"epochs": 2} | options)
    assert method.trains_together
    budget = budget_of(method, 128, 32, 4)
    for matrix, together in zip(matrices, method.fit_together(matrices, 4, budget, seed=3), strict=True):
        alone = fitted_alone(method, matrix, budget, 3)
        assert list(together.history) == pytest.approx(list(alone.history), rel=1e-4)
        assert {name: t.shape for name, t in together.tensors.items()} == {name: t.shape for name, t in alone.tensors.items()}
        assert relative_error(alone.reconstruct(), together.reconstruct()) < 1e-2
        assert (together.size, together.stored) == (alone.size, alone.stored)


@pytest.mark.usefixtures("threads")
def test_training_together_is_deterministic_and_leaves_the_matrices() -> None:
    matrices, method = stacked_matrices(), Autoencoder(epochs=2)
    before = matrices.clone()
    first, second = (list(method.fit_together(matrices, 3, budget_of(method, 128, 32, 3))) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    assert torch.equal(matrices, before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("latent_bits", [0, 3])
def test_a_matrix_whose_training_fails_is_reported_at_its_turn_and_does_not_hurt_the_others(latent_bits: int) -> None:
    matrices, method = stacked_matrices(), Autoencoder(epochs=1, latent_bits=latent_bits)
    budget = budget_of(method, 128, 32, 3)
    intact = [fit.reconstruct() for fit in method.fit_together(matrices, 3, budget)]
    matrices[1, 0, 0] = float("nan")
    fits = method.fit_together(matrices, 3, budget)
    assert torch.equal(next(fits).reconstruct(), intact[0])
    with pytest.raises(InputError, match="not finite"):
        next(fits)
    assert torch.equal(next(fits).reconstruct(), intact[2])


@pytest.mark.parametrize("batch_size", [16, 128])
def test_progress_of_training_together_rises_and_may_stop_it(threads: int, batch_size: int) -> None:
    matrices, method = stacked_matrices(), Autoencoder(epochs=4, batch_size=batch_size)
    seen: list[float] = []
    method.fit_together(matrices, 3, budget_of(method, 128, 32, 3), report=seen.append)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert len(seen) >= 4 * (threads if batch_size > SMALL_BATCH else 1)

    def stop(fraction: float) -> None:
        if fraction >= 0.25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.fit_together(matrices, 3, budget_of(method, 128, 32, 3), report=stop)
    assert torch.get_num_threads() == threads


def test_only_training_without_text_is_done_together() -> None:
    assert not Autoencoder(coefficients="fisher_rows").trains_together


# Latents as codes


def coded(bits: int, latent: int = 4, dtype: str = "float32", **options: Any) -> CompressedMatrix:
    """A fit at this latent width; the training is the same for every number of bits."""
    method = Autoencoder(**{"epochs": 3, "latent_bits": bits} | options)
    return method.fit(stacked_matrices()[0], budget_of(method, 128, 32, latent, dtype))


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_codes_take_their_bits_and_each_latent_a_scale_and_a_lowest_level(bits: int) -> None:
    floats, codes = coded(0, dtype="float16"), coded(bits, dtype="float16")
    assert codes.size == floats.size == 4
    assert codes.stored.num_bytes == floats.stored.num_bytes - 2 * 128 * 4 + 128 * 4 * bits // 8 + 2 * 2 * 4 + 8
    assert codes.stored.num_parameters == floats.stored.num_parameters + 2 * 4 + 2


def test_latents_are_rounded_to_the_nearest_level() -> None:
    floats, codes = coded(0), coded(3)
    exact, rounded = floats.tensors["latents"], stored_latents(codes.tensors)
    scales, zeros = codes.tensors["latent_scales"], codes.tensors["latent_zeros"]
    within = (exact >= zeros) & (exact <= zeros + 7 * scales)
    assert within.float().mean() > 0.7
    assert ((exact - rounded).abs() <= 0.501 * scales)[within].all()
    levels = (rounded - zeros) / scales
    torch.testing.assert_close(levels, levels.round().clamp(0, 7))
    assert levels.round().unique().numel() == 8
    weights = {name: tensor for name, tensor in floats.tensors.items() if name != "latents"}
    assert torch.equal(codes.reconstruct(), floats.decode(weights | {"latents": rounded}))


def test_more_bits_come_closer_to_the_latents_as_floats() -> None:
    expected = coded(0).reconstruct()
    errors = [relative_error(expected, coded(bits).reconstruct()) for bits in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


def test_an_equal_number_of_bytes_holds_wider_latents() -> None:
    budget = Budget(6000, "bytes", "float16")
    widths = [choose_size(Autoencoder(latent_bits=bits), 1000, 32, budget) for bits in (0, 8, 4, 2)]
    assert widths == sorted(set(widths))


def test_the_decoder_is_refined_on_rounded_latents() -> None:
    options: dict[str, Any] = {"init": "svd", "epochs": 10, "batch_size": 32, "schedule": "cosine"}
    before, after = coded(2, **options), coded(2, **options, refine_epochs=40)
    matrix = stacked_matrices()[0]
    assert after.relative_error(matrix) < 0.95 * before.relative_error(matrix)
    assert after.history[-1] < after.history[10]


# Starting from the SVD, refining latents, coefficients


def test_a_linear_autoencoder_that_starts_at_the_svd_has_its_error() -> None:
    matrix = low_rank_matrix(rank=8) + 0.05 * randn(128, 32, seed=9)
    method = Autoencoder(encoder="linear", decoder="linear", enforce_norm=False, init="svd", epochs=1, learning_rate=1e-6)
    compressed = method.fit(matrix, budget_of(method, 128, 32, 5))
    assert relative_error(svd(matrix, 5), compressed.reconstruct()) < 1e-3


@pytest.mark.parametrize("encoder, decoder", NETWORKS)
def test_a_start_at_the_svd_of_directions_has_its_cosines(encoder: str, decoder: str) -> None:
    matrix = low_rank_matrix(rank=8) + 0.05 * randn(128, 32, seed=9)
    method = Autoencoder(
        encoder=encoder, decoder=decoder, init="svd", epochs=1, batch_size=128, cosine_weight=1.0, rmse_weight=0.0
    )
    compressed = method.fit(matrix, budget_of(method, 128, 32, 4))
    projected = svd(nn.functional.normalize(matrix, dim=1), 4)
    expected = (1 - nn.functional.cosine_similarity(projected, matrix)).mean().item()
    assert compressed.history[0] == pytest.approx(expected, rel=0.02)


def svd(matrix: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank]


def test_a_start_at_the_svd_needs_fewer_epochs() -> None:
    matrix = low_rank_matrix(rank=8) + 0.05 * randn(128, 32, seed=9)
    budget = budget_of(Autoencoder(), 128, 32, 4)
    usual, fast = Autoencoder().fit(matrix, budget), Autoencoder(**FAST | {"epochs": 6}).fit(matrix, budget)
    assert fast.history[-1] < usual.history[-1]


@pytest.mark.parametrize("enforce_norm", [True, False], ids=["norms", "free"])
@pytest.mark.parametrize("decoder", ["linear", "nonlinear"])
def test_refining_latents_lowers_the_loss(decoder: str, enforce_norm: bool) -> None:
    matrix = low_rank_matrix(rank=8)
    plain = Autoencoder(epochs=3, decoder=decoder, enforce_norm=enforce_norm)
    budget = budget_of(plain, 128, 32, 3)
    refined = replace(plain, refine_epochs=30, learning_rate=3e-3)
    before, after = plain.fit(matrix, budget), refined.fit(matrix, budget)
    assert len(after.history) == 33
    assert after.history[-1] < after.history[3]
    assert relative_error(matrix, after.reconstruct()) < relative_error(matrix, before.reconstruct())


def test_the_cosine_schedule_ends_near_zero() -> None:
    rates = [learning_rate(Autoencoder(schedule="cosine", epochs=10), epoch) for epoch in range(10)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1e-3
    assert rates[-1] < 1e-4


def hints_with(statistic: Tensor, name: str) -> SyntheticHints:
    """Hints of one member with this statistic, a tensor (rows, cols)."""
    return SyntheticHints((len(statistic),), (False,), [ModuleStatistics(1, **{name: statistic})])


@pytest.mark.parametrize("of", ["rows", "entries"])
@pytest.mark.parametrize("name", ["fisher", "sensitivity"])
def test_coefficients_that_are_all_alike_change_nothing(name: str, of: str) -> None:
    matrix = 0.3 * randn(60, 24)
    plain, weighted = Autoencoder(epochs=3), Autoencoder(epochs=3, coefficients=f"{name}_{of}")
    budget = budget_of(plain, 60, 24, 3)
    expected = plain.fit(matrix, budget)
    found = weighted.fit(matrix, budget, hints=hints_with(torch.full((60, 24), 7.0), name))
    assert relative_error(expected.reconstruct(), found.reconstruct()) < 1e-4


@pytest.mark.parametrize("of", ["rows", "entries"])
def test_rows_with_a_larger_coefficient_are_fitted_better(of: str) -> None:
    matrix, important = 0.3 * randn(80, 24), torch.full((80, 24), 0.01)
    important[:20] = 1.0
    plain = Autoencoder(epochs=40, encoder="linear", decoder="linear", learning_rate=5e-3)
    budget = budget_of(plain, 80, 24, 5)
    weighted = replace(plain, coefficients=f"fisher_{of}").fit(matrix, budget, hints=hints_with(important, "fisher"))
    usual = plain.fit(matrix, budget)
    assert relative_error(matrix[:20], weighted.reconstruct()[:20]) < 0.9 * relative_error(
        matrix[:20], usual.reconstruct()[:20]
    )


def test_coefficients_of_a_transposed_member_are_transposed() -> None:
    hints = synthetic_hints(10, 6)
    expected = torch.cat([hints.members[0].fisher, hints.members[1].fisher.T])
    torch.testing.assert_close(group_coefficients(hints, "fisher_entries"), expected / expected.mean())
    rows = expected.mean(1, keepdim=True)
    torch.testing.assert_close(group_coefficients(hints, "fisher_rows"), rows / rows.mean())


def test_coefficients_ask_for_text_and_for_their_statistic() -> None:
    method = Autoencoder(coefficients="fisher_rows")
    assert method.calibrated
    with pytest.raises(InputError, match="needs calibration text"):
        method.fit(randn(60, 24), budget_of(method, 60, 24, 3))
    with pytest.raises(InputError, match="no fisher"):
        method.fit(randn(60, 24), budget_of(method, 60, 24, 3), hints=hints_with(torch.ones(60, 24), "sensitivity"))
