"""Answer questions about a reconstructed weight matrix: what it looks like, and how one of its entries is computed.

A question is one of these JSON objects:

    {"kind": "picture", "run": RUN_ID, "module": NAME}
        Decodes a module from the stored tensors of a run, and keeps its pictures beside the run (`pictures`).
        The answer is {"kind": "picture", "run": RUN_ID, "module": NAME, "relative_error": NUMBER}.

    {"kind": "entry", "run": RUN_ID, "module": NAME, "cell": [ROW, COLUMN] or null}
    {"kind": "entry", "rank": RANK, "module": NAME, "cell": [ROW, COLUMN] or null}
        Computes an entry step by step, as a run reconstructs it or by truncated SVD; without a cell, the entry with the largest
        error. The answer is {"kind": "entry", "module": NAME, "row", "col", "row_name", "original", "entry",
        "steps": [[label, numbers, value or null], ...]}; the last value is the entry. There are no steps for some methods.

The resident's forks answer; see `live_answers` for how. If the model is not loaded, only the matrix is read from its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from offcomp.errors import InputError, OffcompError, RunError, StorageError
from offcomp.methods import SVD
from offcomp.methods.autoencoder.arithmetic import latent_steps
from offcomp.methods.base import CompressedMatrix
from offcomp.methods.codebook.arithmetic import code_steps
from offcomp.methods.steps import Step
from offcomp.methods.svd.arithmetic import direction_steps, low_rank_steps
from offcomp.methods.trellis.arithmetic import trellis_steps
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.checkpoint import LIBRARY_FAULTS
from offcomp.models.loading import LoadedModel
from offcomp.models.offloading import StoredMatrices, read_matrix
from offcomp.models.row_names import row_names
from offcomp.numerics.accounting import Budget
from offcomp.numerics.chunks import squared_norm
from offcomp.numerics.storage import unpack
from offcomp.planning.grouping import is_transposed
from offcomp.planning.matrix_view import ORDERS, Picture, sampled_rows
from offcomp.planning.matrix_view_fit import Side, block_means
from offcomp.planning.plan import members
from offcomp.runs.compress import in_own_dtype, load_group, written_back
from offcomp.runs.manifest import StoredGroup, ledger_faults
from offcomp.runs.pictures import group_of, save_pictures
from offcomp.runs.store import Run, RunStore

STEPS = {
    "low_rank": low_rank_steps,
    "low_rank_directions": direction_steps,
    "decoded_latents": latent_steps,
    "decoded_codes": code_steps,
    "decoded_trellis": trellis_steps,
}
"""Decoder -> function that lists the steps by which it computes an entry."""


class _Decoded(NamedTuple):
    """A reconstructed module, and the compressed matrix in which its first entry is at (`start`, 0).

    matrix          (rows, cols), in float32
    compressed      the compressed matrix of the module's group
    start           index of the module's first row in the stacked matrix
    transposed      whether the module is transposed in the stacked matrix
    """

    matrix: Tensor
    compressed: CompressedMatrix
    start: int
    transposed: bool


def answer(question: Mapping[str, Any], model: LoadedModel | StoredMatrices, info: ModelInfo, runs: RunStore) -> dict[str, Any]:
    """Answer a question; see the module docstring. Raises InputError, ModelError, RunError and StorageError."""
    spec = info.module(str(question.get("module")))
    original = read_matrix(model.model if isinstance(model, LoadedModel) else model, spec)
    if question.get("kind") == "picture":
        run = stored_run(info, question.get("run"), runs)
        decoded = _decoded(run, info, spec)
        pictures = pictures_of(original, decoded.matrix)
        save_pictures(run, spec, pictures)
        error = pictures["stored"].lost ** 0.5
        return {"kind": "picture", "run": run.id, "module": spec.name, "relative_error": error}
    if question.get("run") is not None:
        decoded = _decoded(stored_run(info, question["run"], runs), info, spec)
    else:
        decoded = _truncated(original, question.get("rank"))
    return {"kind": "entry", "module": spec.name} | _entry(model, spec, original, decoded, question.get("cell"))


def stored_run(info: ModelInfo, name: Any, runs: RunStore) -> Run:
    """A run of this model with stored weights. Raises InputError and RunError."""
    run = runs.get(str(name))
    if run.result is None or run.result.model is None or not run.has_weights:
        raise InputError(f"run {run.id} has no stored weights; run its plan again")
    if run.result.model.reads != info.reads:
        raise RunError(f"run {run.id} belongs to another model, or the model's files have changed; run its plan again")
    return run


def _decoded(run: Run, info: ModelInfo, spec: ModuleSpec) -> _Decoded:
    """Decode a module from a run's stored tensors. Raises InputError, and StorageError if they are damaged."""
    group = group_of(run, spec.name)
    specs = tuple(members(group, info))
    _check_ledger(run, group.name)
    try:
        _, compressed = load_group(run.group_file(group.name))
        matrix = written_back(compressed, specs, group.stack)[spec]
    except OffcompError:
        raise
    except LIBRARY_FAULTS as error:
        raise StorageError(f"run {run.id} is damaged: {spec.name} cannot be decoded ({error}); run its plan again") from None
    before = specs[: specs.index(spec)]
    start = sum(each.cols if is_transposed(each, group.stack) else each.rows for each in before)
    return _Decoded(matrix, compressed, start, is_transposed(spec, group.stack))


def _check_ledger(run: Run, name: str) -> None:
    """Raise StorageError if the file of a group does not contain the tensors that the run's result lists."""
    figures = next((group for group in run.result.groups if group.name == name), None) if run.result else None
    if figures is None:
        raise StorageError(f"run {run.id} is damaged: its result lacks the group {name!r}; run its plan again")
    values = {field: getattr(figures, field) for field in StoredGroup.model_fields if field != "file"}
    file = run.group_file(name)
    if faults := ledger_faults(run.folder, StoredGroup(**values, file=file.relative_to(run.folder).as_posix())):
        raise StorageError(f"run {run.id} is damaged: {faults[0]}; run its plan again")


def _truncated(original: Tensor, rank: Any) -> _Decoded:
    """The truncated SVD of a matrix, in float32. Raises InputError if the rank does not exist."""
    largest = min(original.shape)
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= largest:
        raise InputError(f"the rank must be between 1 and {largest}, not {str(rank)[:20]}")
    compressed = SVD().fit(original, Budget(original.numel(), "parameters", "float32"), size=rank)
    return _Decoded(compressed.reconstruct(), compressed, 0, transposed=False)


def pictures_of(original: Tensor, reconstruction: Tensor) -> dict[str, Picture]:
    """Order -> picture of a reconstruction (rows, cols) of a matrix."""
    squares = (original - reconstruction).square_()
    sides = Side(_norms(original, 1)), Side(_norms(original, 0))
    rows = torch.from_numpy(sampled_rows(*original.shape)).long()
    exact, found = original[rows].double(), reconstruction[rows].double()
    lengths, new_lengths = exact.norm(dim=1), found.norm(dim=1)
    known = torch.where(lengths > 0, lengths, torch.nan)
    cosines = (exact * found).sum(1) / (known * torch.where(new_lengths > 0, new_lengths, 1.0))
    lost = float(squares.sum(dtype=torch.float64)) / (squared_norm(original) or 1.0)
    pictures = {}
    for order in ORDERS:
        energies = block_means(squares, sides, order) * sides[0].sizes * sides[1].sizes.T
        pictures[order] = Picture(
            reconstruction=block_means(reconstruction, sides, order).float().numpy(),
            residual=block_means(squares, sides, order).sqrt().float().numpy(),
            rows_lost=energies.sum(1).float().numpy(),
            columns_lost=energies.sum(0).float().numpy(),
            cosines=cosines.clamp(-1, 1).numpy(),
            norm_ratios=(new_lengths / known).numpy(),
            lost=lost,
        )
    return pictures


def _norms(matrix: Tensor, dim: int) -> Tensor:
    return torch.linalg.vector_norm(matrix, dim=dim, dtype=torch.float64)


def _entry(
    model: LoadedModel | StoredMatrices, spec: ModuleSpec, original: Tensor, decoded: _Decoded, cell: Any
) -> dict[str, Any]:
    """Compute an entry step by step. Raises InputError if the cell does not exist."""
    row, col = _checked_cell(cell, spec) or divmod(int((original - decoded.matrix).abs().argmax()), spec.cols)
    down, across = (col, row) if decoded.transposed else (row, col)
    entry = float(decoded.matrix[row, col])
    list_steps = STEPS.get(decoded.compressed.decoder)
    steps = list_steps(unpack(decoded.compressed.tensors), decoded.start + down, across) if list_steps else []
    if steps and spec.dtype != "float32":
        rounded = in_own_dtype({spec: torch.tensor([steps[-1].value])})[spec]
        steps.append(Step(f"entry: rounded to {spec.dtype}, the dtype of the weights", "", float(rounded)))
    config = model.model.config if isinstance(model, LoadedModel) else model.checkpoint.config
    return {
        "row": row,
        "col": col,
        "row_name": row_names(model.tokenizer, config, spec, [row])[0],
        "original": float(original[row, col]),
        "entry": entry,
        "steps": [list(step) for step in steps],
    }


def _checked_cell(cell: Any, spec: ModuleSpec) -> tuple[int, int] | None:
    """The row and column of a cell; None if the cell is None. Raises InputError if it does not exist."""
    if cell is None:
        return None
    if isinstance(cell, list) and len(cell) == 2 and all(isinstance(place, int) for place in cell):
        row, col = cell
        if 0 <= row < spec.rows and 0 <= col < spec.cols:
            return row, col
    raise InputError(f"{spec.name} has rows 0 to {spec.rows - 1} and columns 0 to {spec.cols - 1}; {str(cell)[:40]} is outside")
