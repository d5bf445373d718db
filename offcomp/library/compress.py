"""Compress the weights of a model in memory: a catalogue model, a folder, a hub model, or a live transformers model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any

import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offcomp.errors import InputError
from offcomp.methods import method_of_style_key, own_options
from offcomp.models.live import loaded_from
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import replace
from offcomp.numerics.accounting import STORED
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.grams import Grams
from offcomp.planning.plan import NOTHING, Plan, make_groups, members, validate
from offcomp.planning.ranks import with_ranks
from offcomp.planning.selection import select_modules
from offcomp.results.runs import overall_error
from offcomp.runs.calibration import GroupHints, calibration_of
from offcomp.runs.compress import CompressedGroup, compress_group
from offcomp.runs.corrections import corrections_of
from offcomp.runs.folders import TABLE_COLUMNS
from offcomp.runs.together import FitsTogether

SHOWN = 6


@dataclass(frozen=True, eq=False)
class CompressedModel(Sequence[CompressedGroup]):
    """The compressed groups of a model, in order. Index it with a number or the name of a group.

    groups         the compressed groups, with their stored tensors and figures
    original       the model that was compressed; it already has the new weights if it was compressed in place
    inplace        whether the weights of `original` have been replaced
    corrections    full path of each corrected bias or gain -> its new value
    """

    groups: tuple[CompressedGroup, ...]
    original: PreTrainedModel
    inplace: bool
    corrections: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The compressed model, with its corrections. This is the original if it was compressed in place, otherwise a copy."""
        if self.inplace:
            return self.original
        model = deepcopy(self.original)
        self.write_to(model)
        return model

    def write_to(self, model: PreTrainedModel) -> None:
        """Replace the weights of a model of the same architecture with the compressed ones. Raises ModelError."""
        for group in self.groups:
            replace(model, group.reconstructions)
        replace(model, {}, self.corrections)

    @property
    def relative_error(self) -> float:
        """‖W-Ŵ‖_F / ‖W‖_F over all compressed weights together."""
        return overall_error([group.figures for group in self.groups])

    def table(self) -> pd.DataFrame:
        """One row per group, with its size, compression ratio and relative error."""
        return pd.DataFrame([{name: getattr(group.figures, name) for name in TABLE_COLUMNS} for group in self.groups])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            by_name = {group.name: group for group in self.groups}
            if key not in by_name:
                raise KeyError(f"there is no group {key!r}; the groups are {', '.join(by_name)}")
            return by_name[key]
        return self.groups[key]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[CompressedGroup]:
        return iter(self.groups)

    def __repr__(self) -> str:
        rows = [repr(group) for group in self.groups[:SHOWN]]
        more = [f"... and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        head = f"{len(self)} compressed group{'s' * (len(self) != 1)}, relative error {self.relative_error:.4g}"
        return "\n    ".join([head, *rows, *more])


def compress(
    model: str | LoadedModel | PreTrainedModel,
    modules: str | Iterable[str] | None = None,
    *,
    exclude: str | Iterable[str] = (),
    layers: str | Iterable[int] | None = None,
    together: str = "module",
    stack: str = "best",
    method: str = "svd",
    options: Mapping[str, Any] | None = None,
    ratio: float = 2.0,
    rank: int | None = None,
    energy: float | None = None,
    multiple: int = 1,
    unit: str = "parameters",
    dtype: str = STORED,
    calibration: Sequence[str] | CalibrationText | None = None,
    correct: str = NOTHING,
    tokenizer: PreTrainedTokenizerBase | None = None,
    inplace: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> CompressedModel:
    """Compress weights of a model. Unlike `offcomp.run`, this writes nothing to disk and scores no task.

    Args:
        model: a catalogue name, folder or hub id, a model from `offcomp.load`, or a live transformers model.
        modules: patterns of kinds, module names or parameter paths, such as "query", "query.0-3" or `"*.mlp.*"`; by default
            all known kinds except word embeddings (`offcomp.select_modules`).
        exclude: patterns of modules to leave out.
        layers: layer numbers, or text such as "0-2,5".
        together: which modules to compress as one matrix: "module" (each alone), "kind", "qkv", "blocks" or "all".
        stack: how the modules of a group are stacked: "best", "rows", "columns" or "residual".
        method: "svd", "autoencoder", "residual", "codebook", "trellis", "kronecker", "tucker", "pruning" or "quantization".
        options: options of the method by name.
        ratio: compression ratio, original size / stored size.
        rank: rank, latent width or number of terms, instead of a ratio.
        energy: share of the squared singular values to keep, instead of a ratio (SVD only).
        multiple: round ranks to a multiple of this number.
        unit: what the ratio counts, "parameters" or "bytes".
        dtype: storage dtype; "stored" keeps the dtype of the weights.
        calibration: texts for methods and corrections that need them; the bundled text by default.
        correct: which biases and normalisations to correct afterwards, so that the outputs on the calibration text match those
            of the original: "nothing", "shift" (only the bias of the last normalisation), "biases" (those of compressed modules
            and of normalisations) or "norms" (also the gains of normalisations).
        tokenizer: the tokenizer of a live model, for calibration.
        inplace: whether to replace the weights of a live model; otherwise `CompressedModel.model` is a copy.
        seed: seed of the methods' random generators.
        progress: whether to show a progress bar.

    Raises:
        InputError: a pattern matches nothing, or an argument is out of range.
        PlanError: the groups are invalid; all faults are listed.
        BudgetTooSmall: a group cannot be compressed to its ratio.
        ModelError: the model cannot be loaded or compressed.
    """
    loaded = _loaded(model, tokenizer)
    info, method_class = loaded.info, method_of_style_key(method)
    groups = make_groups(
        select_modules(info, modules, exclude=exclude, layers=layers),
        together,
        stack=stack,
        method=method_class.name,
        options=own_options(method_class) | dict(options or {}),
        ratio=ratio,
        unit=unit,
        dtype=dtype,
        rank=rank,
        energy=energy,
        multiple=multiple,
    )
    text = calibration if isinstance(calibration, CalibrationText) else CalibrationText()
    plan = Plan(model=info.model, groups=groups, tasks=(), seed=seed, calibration=text, correct=correct)
    validate(plan, info)
    grams = Grams.of_model(loaded.model)
    plan = with_ranks(plan, info, lambda group: grams.spectrum(members(group, info), group.stack).values)
    texts = None if calibration is None or isinstance(calibration, CalibrationText) else list(calibration)
    shared = calibration_of(plan, loaded, texts)
    order, compressed = plan.compression_order(info), list[CompressedGroup]()
    ordered = [plan.groups[number] for number in order]
    fits = FitsTogether(loaded.model, info, ordered, seed)
    with shared.keeping_earlier_groups() if shared else nullcontext():
        for group in tqdm(ordered, desc="compress", unit="group", disable=not progress or len(order) == 1):
            hints = GroupHints(shared, members(group, info), group.stack, compressed) if shared else None
            with hints or nullcontext():
                fitted = fits.take(group)
                done = compress_group(loaded.model, info, group, hints=hints, seed=seed, measure_outputs=False, fitted=fitted)
                compressed.append(done)
    compressed = [done for _, done in sorted(zip(order, compressed, strict=True), key=itemgetter(0))]
    corrections = corrections_of(correct, shared, compressed) if shared and plan.corrects else {}
    result = CompressedModel(tuple(compressed), loaded.model, inplace, corrections)
    if inplace:
        result.write_to(loaded.model)
    return result


def _loaded(model: str | LoadedModel | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> LoadedModel:
    if isinstance(model, str):
        return load(model)
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, PreTrainedModel):
        return loaded_from(model, tokenizer)
    raise InputError(f"the model is a {type(model).__name__}; pass a name, a folder, or a transformers model")
