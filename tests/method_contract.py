"""The contract of compression methods. A test file subclasses `MethodContract` and provides the fixture `method`.

New methods in `METHODS` are tested with their default options; add fast or informative variants to `VARIANTS`.
"""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from offcomp.errors import BudgetTooSmall
from offcomp.methods import METHODS, make_method, own_options
from offcomp.methods.base import CompressedMatrix, Method, dense_shapes, smallest_size
from offcomp.methods.decoders import DECODERS
from offcomp.numerics.accounting import STORAGE_DTYPES, UNITS, Budget, budget_for_ratio, storage_layout, stored_size
from offcomp.numerics.storage import unpack

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "svd": [
        {},
        {"preset": "direction"},
        {"preset": "fwsvd_rows"},
        {"preset": "asvd", "shrinkage": 0.1},
        {"preset": "whitened"},
        {"preset": "two_sided", "follow": True},
    ],
    "autoencoder": [
        {"epochs": 2},
        {"epochs": 2, "encoder": "linear", "decoder": "linear"},
        {"epochs": 2, "encoder": "linear", "decoder": "nonlinear"},
        {"epochs": 2, "encoder": "nonlinear", "decoder": "linear", "enforce_norm": False},
        {"epochs": 2, "enforce_norm": False, "l1_weight": 0.5, "batch_size": 7},
        {"epochs": 2, "decoder": "linear", "latent_bits": 3, "refine_epochs": 2},
    ],
    "residual": [  # with these shares, the method's own form beats its fallbacks on `random_matrix`
        {"sparse_share": 0.2, "hidden_share": 0.1, "steps": 20},
        {"sparse_share": 0.0, "hidden_share": 0.0},
        {"sparse_share": 0.2, "hidden_share": 0.0, "rounds": 2},
        {"metric": "whitened", "sparse_share": 0.05},
    ],
    "codebook": [
        {},
        {"codeword_length": 5, "iterations": 3},
        {"codeword_length": 4, "stages": 2, "rank": 2, "outliers": 0.01, "iterations": 3},
        {"codeword_length": 3, "feedback": True, "outliers": 0.0, "iterations": 3},
    ],
    "trellis": [
        {},
        {"state_bits": 5, "rotation": "on"},
        {"feedback": True, "outliers": 4.0},
        {"feedback": True, "state_bits": 2, "column_steps": False, "toward_original": False},
    ],
    "kronecker": [{}, {"left_rows": 7, "left_cols": 3}],
    "tucker": [{}, {"slabs": 5, "slab_rank": 2, "iterations": 1}, {"slabs": 1, "iterations": 0}],
    "pruning": [{}, {"positions": "mask"}, {"positions": "indices"}],
    "quantization": [
        {},
        {"block": 24, "symmetric": True},
        {"block": 16, "rank": 3},
        {"symmetric": True, "search": False},
        {"feedback": True, "rank": 2},
        {"feedback": True, "block": 24, "symmetric": True, "toward_original": False},
    ],
}
"""The options of each variant, by style key."""
ROWS, COLS = 96, 32
SAVING = 0.6
STORAGES = [(dtype, UNITS[(row + column) % 2]) for row in range(2) for column, dtype in enumerate(STORAGE_DTYPES)]
"""Every pair of storage dtype and unit, in an order in which any four consecutive pairs contain every dtype and both units."""


def variants() -> list[Any]:
    """Return a pytest parameter for every variant of every method in `METHODS`."""
    return [
        pytest.param(
            (method.name, own_options(method) | options),
            id="-".join([method.style_key, *(str(value) for value in options.values())]),
        )
        for method in METHODS
        for options in VARIANTS.get(method.style_key, [{}])
    ]


def covering(pairs: int) -> list[Any]:
    """Return parameters (method, dtype, unit) that combine each variant of a method with the next `pairs` entries of STORAGES.

    With two pairs per variant, two variants together cover every dtype and both units, and four variants cover all of STORAGES.
    A method with a single variant gets as many pairs as one with two variants.
    """
    found, seen = [], Counter[str]()
    number = Counter(variant.id.partition("-")[0] for variant in variants())
    for variant in variants():
        style_key = variant.id.partition("-")[0]
        for _ in range(pairs if number[style_key] > 1 else 2 * pairs):
            dtype, unit = STORAGES[seen[style_key] % len(STORAGES)]
            found.append(pytest.param(variant.values[0], dtype, unit, id=f"{variant.id}-{dtype}-{unit}"))
            seen[style_key] += 1
    return found


def random_matrix(rows: int, cols: int, seed: int = 0) -> Tensor:
    """Return Gaussian entries times decaying column scales: neither close to rank one nor with equal singular values."""
    entries = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    return entries * torch.linspace(1.0, 0.05, cols)


def share_of_dense(share: float, unit: str, dtype: str, rows: int = ROWS, cols: int = COLS) -> Budget:
    """Return a budget of `share` times the size of the dense matrix in this dtype."""
    return Budget(int(share * stored_size(dense_shapes(rows, cols), dtype).in_unit(unit)), unit, dtype)


def smallest_share(method: Method, unit: str, dtype: str, rows: int = ROWS, cols: int = COLS) -> float:
    """Return the size of the smallest form of a method, as a share of the dense matrix in this unit."""
    dense = stored_size(dense_shapes(rows, cols), dtype)
    return smallest_size(method, rows, cols, dtype).in_unit(unit) / dense.in_unit(unit)


def attainable(method: Method, share: float, unit: str, dtype: str, *shape: int) -> Budget:
    """Return a budget of `share` times the dense matrix, or of the method's smallest form if that is larger.

    If the method saves little or nothing in this unit (each code counts as one parameter), the budget is in the other unit.
    """
    rows, cols = shape or (ROWS, COLS)
    unit = next(counted for counted in (unit, *UNITS) if smallest_share(method, counted, dtype, rows, cols) <= SAVING)
    smallest = smallest_size(method, rows, cols, dtype).in_unit(unit)
    return Budget(max(smallest, share_of_dense(share, unit, dtype, rows, cols).limit), unit, dtype)


def layout_of(compressed: CompressedMatrix) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and dtype of each tensor that a result actually contains, by name."""
    return {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in compressed.tensors.items()
    }


def assert_equal_tensors(first: CompressedMatrix, second: CompressedMatrix) -> None:
    """Check that both results have the same names in the same order and exactly equal tensors."""
    assert list(first.tensors) == list(second.tensors)
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name


def relative_error(original: Tensor, reconstruction: Tensor) -> float:
    """Return ‖W-Ŵ‖_F / ‖W‖_F, implemented here again so that the tests do not rely on the code that they test."""
    exact, approximate = original.double(), reconstruction.double()
    return ((exact - approximate).norm() / exact.norm()).item()


class Cancelled(Exception):
    """Raised by the callback `report`, as by that of the worker when a run is cancelled."""


class MethodContract:
    """Tests that every method must pass. Those with the parameters `dtype` and `unit` run with twice as many pairs."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        names = [name for name in ("method", "dtype", "unit") if name in metafunc.fixturenames]
        asked = {"dtype", "unit"} <= {*inspect.signature(metafunc.function).parameters}
        cases = [
            pytest.param(
                *(value for name, value in zip(("method", "dtype", "unit"), case.values, strict=True) if name in names),
                id=case.id,
            )
            for case in covering(2 if asked else 1)
        ]
        metafunc.parametrize(names, cases, indirect=["method"])

    @pytest.fixture
    def matrix(self) -> Tensor:
        return random_matrix(ROWS, COLS)

    @pytest.fixture
    def budget(self, method: Method, dtype: str, unit: str) -> Budget:
        """Half of the dense matrix, or the smallest form of the method if that is larger."""
        return attainable(method, 0.5, unit, dtype)

    def test_it_never_stores_more_than_the_budget_and_takes_the_largest_size_within(
        self, method: Method, unit: str, dtype: str
    ) -> None:
        for shape, share in [((ROWS, COLS), 0.55), ((COLS, ROWS), 0.7), ((40, 40), 0.99), ((ROWS, COLS), 0.9)]:
            budget = attainable(method, share, unit, dtype, *shape)
            compressed = method.fit(random_matrix(*shape), budget)
            assert compressed.stored.in_unit(budget.unit) <= budget.limit
            assert compressed.size in method.sizes(*shape)
            if compressed.size + 1 in method.sizes(*shape):
                larger = stored_size(method.tensor_shapes(*shape, compressed.size + 1), dtype)
                assert larger.in_unit(budget.unit) > budget.limit

    def test_a_unit_in_which_nothing_is_saved_has_no_budget_below_the_dense_matrix(
        self, method: Method, matrix: Tensor, unit: str, dtype: str
    ) -> None:
        below = Budget(share_of_dense(1.0, unit, dtype).limit - 1, unit, dtype)
        if smallest_share(method, unit, dtype) < 1:
            assert method.fit(matrix, below).size in method.sizes(ROWS, COLS)
        else:
            with pytest.raises(BudgetTooSmall):
                method.fit(matrix, below)

    def test_what_is_stored_is_what_the_layout_predicts(self, method: Method, matrix: Tensor, unit: str, dtype: str) -> None:
        compressed = method.fit(matrix, attainable(method, 0.5, unit, dtype))
        shapes = method.tensor_shapes(ROWS, COLS, compressed.size)
        assert layout_of(compressed) == storage_layout(shapes, dtype)
        assert compressed.stored == stored_size(shapes, dtype)
        assert sum(entry["bytes"] for entry in compressed.ledger()) == compressed.stored.num_bytes
        ledger = {entry["name"]: (tuple(entry["shape"]), entry["dtype"]) for entry in compressed.ledger()}
        assert ledger == layout_of(compressed)

    def test_stored_tensors_are_plain_cpu_data_and_decode_to_finite_float32_of_the_same_shape(
        self, method: Method, matrix: Tensor, budget: Budget
    ) -> None:
        compressed = method.fit(matrix.requires_grad_(), budget)
        for tensor in compressed.tensors.values():
            assert tensor.device.type == "cpu"
            assert tensor.is_contiguous()
            assert not tensor.requires_grad
        reconstruction = compressed.reconstruct()
        assert reconstruction.shape == matrix.shape
        assert reconstruction.dtype == torch.float32
        assert reconstruction.isfinite().all()
        assert reconstruction.abs().max() > 0

    def test_narrow_storage_costs_little_against_float32(self, method: Method, matrix: Tensor, unit: str, dtype: str) -> None:
        budget = attainable(method, 0.6, unit, dtype)
        stored = method.fit(matrix, budget)
        shapes = method.tensor_shapes(ROWS, COLS, stored.size)
        exact = method.fit(matrix, Budget(stored_size(shapes, "float32").in_unit(budget.unit), budget.unit))
        assert exact.size == stored.size
        worse = {"float32": 0.0, "float16": 2e-3, "bfloat16": 0.02, "int8": 0.05}[dtype]
        if method.style_key == "codebook":  # after rounding, a different codeword can be nearest to a piece
            assert relative_error(matrix, stored.reconstruct()) <= relative_error(matrix, exact.reconstruct()) + worse
        else:
            assert relative_error(exact.reconstruct(), stored.reconstruct()) <= worse

    def test_the_same_seed_gives_equal_tensors_and_global_generators_are_neither_asked_nor_moved(
        self, method: Method, matrix: Tensor, budget: Budget
    ) -> None:
        # Python's own generator is left out, because beartype draws from it when it checks shapes.
        of_torch, of_numpy = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
        first = method.fit(matrix, budget, seed=3)
        assert torch.equal(of_torch, torch.random.get_rng_state())
        assert of_numpy == np.random.get_state()[1].tolist()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(987)
            second = method.fit(matrix, budget, seed=3)
        assert_equal_tensors(first, second)
        assert first.history == second.history

    def test_the_input_is_not_changed(self, method: Method, matrix: Tensor, budget: Budget) -> None:
        copy = matrix.clone()
        method.fit(matrix, budget)
        assert torch.equal(matrix, copy)
        assert not matrix.requires_grad

    @pytest.mark.parametrize("share", [0.5, 1.0], ids=["compressed", "dense"])
    def test_the_result_shares_no_memory_with_the_input_nor_with_what_is_decoded(
        self, *, method: Method, matrix: Tensor, unit: str, dtype: str, share: float
    ) -> None:
        compressed = method.fit(matrix, attainable(method, share, unit, dtype))
        before = compressed.reconstruct().clone()
        matrix.zero_()  # as when the reconstruction overwrites a model's weight
        compressed.reconstruct().zero_()
        assert torch.equal(compressed.reconstruct(), before)

    @pytest.mark.parametrize("given", [torch.bfloat16, torch.float64])
    def test_a_matrix_of_another_float_dtype_is_taken_as_its_float32_copy(
        self, method: Method, matrix: Tensor, budget: Budget, given: torch.dtype
    ) -> None:
        narrow = method.fit(matrix.to(given), budget)
        wide = method.fit(matrix.to(given).float(), budget)
        assert_equal_tensors(narrow, wide)

    def test_a_transposed_view_is_compressed_like_its_copy(self, method: Method, unit: str) -> None:
        view = random_matrix(COLS, ROWS).T
        budget = attainable(method, 0.5, unit, "float32")
        of_view, of_copy = method.fit(view, budget), method.fit(view.contiguous(), budget)
        assert relative_error(of_copy.reconstruct(), of_view.reconstruct()) < 1e-4

    def test_a_budget_below_the_smallest_form_names_both_numbers(
        self, method: Method, matrix: Tensor, unit: str, dtype: str
    ) -> None:
        unit = attainable(method, 0.0, unit, dtype).unit
        smallest = smallest_size(method, ROWS, COLS, dtype).in_unit(unit)
        assert method.fit(matrix, Budget(smallest, unit, dtype)).size == method.sizes(ROWS, COLS).start
        with pytest.raises(BudgetTooSmall) as raised:
            method.fit(matrix, Budget(smallest - 1, unit, dtype))
        for part in (str(smallest), str(smallest - 1), unit, method.size_name, f"({ROWS}, {COLS})"):
            assert part in str(raised.value)

    def test_a_budget_of_nothing_is_too_small(self, method: Method, matrix: Tensor, unit: str, dtype: str) -> None:
        with pytest.raises(BudgetTooSmall):
            method.fit(matrix, Budget(0, unit, dtype))

    def test_ratio_one_in_float32_keeps_the_matrix_exactly(self, method: Method, matrix: Tensor, unit: str) -> None:
        original = stored_size(dense_shapes(ROWS, COLS), "float32")
        compressed = method.fit(matrix, budget_for_ratio(original, 1.0, unit, "float32"))
        assert (compressed.decoder, compressed.size, compressed.history) == ("dense", 0, ())
        assert compressed.stored == original
        assert torch.equal(compressed.reconstruct(), matrix)

    def test_a_budget_that_holds_the_dense_matrix_keeps_it_dense(
        self, method: Method, matrix: Tensor, unit: str, dtype: str
    ) -> None:
        compressed = method.fit(matrix, share_of_dense(1.0, unit, dtype))
        assert compressed.decoder == "dense"
        assert layout_of(compressed) == storage_layout(dense_shapes(ROWS, COLS), dtype)
        worst = {"float32": 0.0, "float16": 1e-3, "bfloat16": 8e-3, "int8": 1e-2}[dtype]
        assert relative_error(matrix, compressed.reconstruct()) <= worst

    @pytest.mark.parametrize("share", [0.5, 1.0], ids=["compressed", "dense"])
    def test_a_safetensors_file_holds_the_ledger_byte_for_byte_and_decodes_to_the_same_matrix(
        self, *, method: Method, matrix: Tensor, unit: str, dtype: str, share: float, tmp_path: Path
    ) -> None:
        compressed = method.fit(matrix, attainable(method, share, unit, dtype))
        path = tmp_path / "matrix.safetensors"
        save_file(dict(compressed.tensors), path)
        content = path.read_bytes()
        header = int.from_bytes(content[:8], "little")
        assert len(content) - 8 - header == compressed.stored.num_bytes
        decode = {form.__name__: form for form in DECODERS}[compressed.decoder]
        assert torch.equal(decode(unpack(load_file(path))), compressed.reconstruct())

    def test_progress_never_goes_back_and_ends_at_one(self, method: Method, matrix: Tensor, budget: Budget) -> None:
        seen: list[float] = []
        method.fit(matrix, budget, report=seen.append)
        assert seen == sorted(seen)
        assert seen[0] >= 0
        assert seen[-1] == 1

    def test_an_exception_of_the_report_stops_the_fit_which_leaves_nothing_behind(
        self, method: Method, matrix: Tensor, budget: Budget
    ) -> None:
        expected = method.fit(matrix, budget)
        for share in (0.0, 0.4):

            def cancel(fraction: float, share: float = share) -> None:
                if fraction >= share:
                    raise Cancelled

            with pytest.raises(Cancelled):
                method.fit(matrix, budget, report=cancel)
        assert_equal_tensors(expected, method.fit(matrix, budget))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_fit_on_cuda_agrees_with_one_on_the_cpu(self, method: Method, matrix: Tensor, budget: Budget) -> None:
        on_cpu, on_cuda = method.fit(matrix, budget), method.fit(matrix.cuda(), budget)
        assert layout_of(on_cuda) == layout_of(on_cpu)
        assert relative_error(on_cpu.reconstruct(), on_cuda.reconstruct()) < 2e-2

    def test_the_method_is_made_by_its_name(self, method: Method) -> None:
        assert type(make_method(method.name, own_options(type(method)))) is type(method)
