"""JSON Schemas of the files that offcomp reads and writes. Does not import torch.

`python -m offcomp.runs.schemas docs/schema` rewrites the schemas in that folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from offcomp.planning.plan import Plan
from offcomp.runs.manifest import Manifest
from offcomp.runs.result import RunResult

DOCUMENTS: dict[str, type[BaseModel]] = {"plan": Plan, "run": RunResult, "manifest": Manifest}
"""Name of a schema -> the model of its documents."""


class _WithoutTitles(GenerateJsonSchema):
    """Omits titles of fields, which only repeat their names."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def schema_text(name: str) -> str:
    """The JSON Schema of a kind of document, as the text of a file."""
    schema = DOCUMENTS[name].model_json_schema(schema_generator=_WithoutTitles)
    return json.dumps({"$schema": GenerateJsonSchema.schema_dialect, **schema}, indent=2, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> None:
    """Write every schema to NAME.schema.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in DOCUMENTS:
        (folder / f"{name}.schema.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
