"""The sizes of a model before and after compression. No torch."""

from __future__ import annotations

from collections.abc import Iterable

from offcomp.models.catalogue import ModelInfo
from offcomp.numerics.accounting import Size
from offcomp.planning.document import Amount, Count, Document


class SizeChange(Document):
    """The size of a set of weights before and after compression. A ratio is the original size divided by the stored size."""

    parameters_before: Count
    parameters_after: Count
    bytes_before: Count
    bytes_after: Count
    parameter_ratio: Amount
    byte_ratio: Amount

    @staticmethod
    def between(before: Size, after: Size) -> SizeChange:
        """The change from one size to another. If nothing is stored, the ratios are 1."""
        return SizeChange(
            parameters_before=before.num_parameters,
            parameters_after=after.num_parameters,
            bytes_before=before.num_bytes,
            bytes_after=after.num_bytes,
            parameter_ratio=before.num_parameters / after.num_parameters if after.num_parameters else 1.0,
            byte_ratio=before.num_bytes / after.num_bytes if after.num_bytes else 1.0,
        )

    def before(self, unit: str) -> int:
        """The original size in "parameters" or "bytes"."""
        return self.bytes_before if unit == "bytes" else self.parameters_before

    def after(self, unit: str) -> int:
        """The stored size in "parameters" or "bytes"."""
        return self.bytes_after if unit == "bytes" else self.parameters_after

    def ratio(self, unit: str) -> float:
        """The compression ratio in "parameters" or "bytes"."""
        return self.byte_ratio if unit == "bytes" else self.parameter_ratio


class ModelSizes(Document):
    """The sizes of three sets of weights. Uncompressed weights keep their original dtype."""

    chosen: SizeChange
    """The modules in the plan."""
    matrices: SizeChange
    """All linear and embedding weights."""
    whole: SizeChange
    """The whole model."""

    def of(self, denominator: str) -> SizeChange:
        """The sizes of the "chosen" modules, all "matrices" or the "whole" model."""
        return {"chosen": self.chosen, "matrices": self.matrices, "whole": self.whole}[denominator]


def model_sizes(groups: Iterable[tuple[Size, Size]], info: ModelInfo) -> ModelSizes:
    """Sizes of a model before and after compression; `groups` yields (original size, stored size) for each group."""
    pairs = list(groups)
    replaced = sum((original for original, _ in pairs), Size(0, 0))
    stored = sum((size for _, size in pairs), Size(0, 0))
    matrices, whole = Size(info.matrix_parameters, info.matrix_bytes), Size(info.num_parameters, info.num_bytes)
    return ModelSizes(
        chosen=SizeChange.between(replaced, stored),
        matrices=SizeChange.between(matrices, matrices - replaced + stored),
        whole=SizeChange.between(whole, whole - replaced + stored),
    )
