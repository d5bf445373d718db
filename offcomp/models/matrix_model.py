"""Wrap bare matrices in a transformers model, which offcomp can load and compress. The model has no forward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from offcomp.models.catalogue import ModuleSpec, module_specs
from offcomp.models.matrix_files import MODEL_TYPE
from offcomp.models.pieces import StoredWeight


class MatricesConfig(PreTrainedConfig):
    """Config with `matrices` (name, rows and cols of each) and `names_of` (the model type whose naming scheme is used)."""

    model_type = MODEL_TYPE


class Matrices(PreTrainedModel):
    """A model with one weight (rows, cols) for each matrix in the config."""

    config_class = MatricesConfig
    main_input_name = "matrices"

    def __init__(self, config: MatricesConfig):
        super().__init__(config)
        self.matrices = nn.ModuleList(nn.Linear(m["cols"], m["rows"], bias=False) for m in config.matrices)
        self.specs()  # raises ValueError if the names in the config are invalid
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: all weights are loaded from the file."""

    def specs(self) -> tuple[ModuleSpec, ...]:
        """Module specs for the matrices, using the names in the config. Raises ValueError if those names are invalid."""
        entries: list[dict[str, Any]] = self.config.matrices
        weights = [StoredWeight((str(entry["name"]),), (entry["rows"], entry["cols"])) for entry in entries]
        specs = module_specs(self.config.names_of, weights)
        if len(specs) != len(weights) or len({spec.name for spec in specs}) != len(specs):
            raise ValueError("its config lists a matrix name twice, or refers to a family with fused weights")
        return tuple(replace(spec, path=f"matrices.{index}.weight") for index, spec in enumerate(specs))
