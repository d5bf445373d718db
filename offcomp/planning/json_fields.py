"""Pydantic models of JSON documents. Each field states in words which values are valid, so that a fault becomes one sentence.

class Probe(JsonModel):
    noun = "probe"
    epochs: Annotated[int, whole(1)]

Probe(epochs=0)      # PlanError: probe has epochs 0; it must be a whole number, 1 or greater.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from offcomp.errors import PlanError
from offcomp.plain_text import quoted, text_fault
from offcomp.planning.document import STANDARD_WORDS, MustBe

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
NAME_WORDS = "1 to 100 letters, digits, dots, dashes, plus signs or underscores, starting with a letter or digit"
NAMED, DESCRIBED = "<name>", "<object>"
"""The tags of a union of names and objects that pydantic tells apart. Pydantic lists them in the location of a fault."""


def is_name(value: Any) -> bool:
    """Whether the value is a name that is safe in file names, links and command lines."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def is_number(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


class Fault(ValueError):
    """Raised by validators. Depending on `kind`, `words` is a sentence or ends one: "it must be ..." or "..., which ..."."""

    def __init__(self, kind: Literal["must_be", "which", "sentence"], words: str):
        super().__init__(words)
        self.kind, self.words = kind, words


def whole(least: int, most: int | None = None) -> MustBe:
    """Whole numbers in a range."""
    words = f"a whole number, {least} or greater" if most is None else f"a whole number from {least} to {most}"
    return MustBe(words, {"type": "int", "strict": True, "ge": least} | ({} if most is None else {"le": most}))


def one_of(choices: Collection[str]) -> MustBe:
    """One of these strings."""
    return MustBe(f"one of {', '.join(choices)}", {"type": "literal", "expected": [*choices]})


def parts_of(words: str) -> BeforeValidator:
    """A list of other models. Faults within them are reported separately; `words` describes the list."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise Fault("must_be", words)
        return tuple(value)

    return BeforeValidator(check)


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
"""JSON lists are accepted as tuples."""
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$"), MustBe(NAME_WORDS)]
Number = Annotated[float, MustBe("a number")]
Object = Annotated[dict[str, Any], MustBe("a JSON object")]


class JsonModel(BaseModel):
    """An immutable model with strict types; its strings must not contain invisible characters, at any nesting depth.

    noun     what error messages call the object, followed by its `name` or index if the model has a field `name`
    parts    field -> model of the objects in this field
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, serialize_by_alias=True, use_attribute_docstrings=True
    )
    noun: ClassVar[str] = "it"
    parts: ClassVar[Mapping[str, type[JsonModel]]] = {}

    def __init__(self, /, **values: Any) -> None:
        """Raises PlanError with one sentence for each fault."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise PlanError(_sentences(type(self), values, error)) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # so that objects in `parts` are not created by it

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: Any, info: ValidationInfo) -> Any:
        checked_otherwise = info.field_name in cls.parts or info.field_name == "name"  # see `Name`
        if not checked_otherwise and (fault := text_fault(value)):
            raise Fault("which", fault)
        return value

    def replace(self, **changes: Any) -> Self:
        """A copy in which some fields have other values, which are not validated."""
        if unknown := changes.keys() - type(self).model_fields.keys():
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        return self.model_copy(update=changes)

    def to_dict(self) -> dict[str, Any]:
        """The object as JSON values."""
        return self.model_dump(mode="json")


def _sentences(kind: type[JsonModel], values: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Describe each fault in the values of a model in one sentence, starting with those of the outermost objects."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: len(fault["loc"]))
    return [_sentence(kind, values, _path(fault), fault) for fault in faults]


def _path(fault: Mapping[str, Any]) -> list[int | str]:
    """The fields and indices that lead to a fault, without the tags that pydantic adds for unions.

    The last one is kept unless it is the tag of a name, since it may be an unknown field that is named like a tag.
    """
    *steps, last = fault["loc"]
    steps = [step for step in steps if step not in (NAMED, DESCRIBED)]
    return steps if last == NAMED and fault["type"] != "extra_forbidden" else [*steps, last]


def _sentence(
    kind: type[JsonModel],
    values: Mapping[str, Any],
    path: Sequence[int | str],
    fault: Mapping[str, Any],
    index: int | None = None,
) -> str:
    """Describe a fault at this path within the values of a model; `index` is the model's position in a list, or None."""
    field, *rest = path
    if not rest:
        return _about(kind, values, str(field), fault, index)
    part, inner, index = kind.parts[str(field)], values[str(field)], None
    if isinstance(rest[0], int):
        index, inner, rest = rest[0], inner[rest[0]], rest[1:]
    if rest:
        return _sentence(part, inner, rest, fault, index)
    return f"{part.noun} {index} is {quoted(inner)}; it must be {_wanted(fault)}."


def _wanted(fault: Mapping[str, Any]) -> str:
    cause = fault.get("ctx", {}).get("error")
    return cause.words if isinstance(cause, Fault) else STANDARD_WORDS.get(fault["type"], fault["msg"])


def _about(kind: type[JsonModel], values: Mapping[str, Any], field: str, fault: Mapping[str, Any], index: int | None) -> str:
    """Describe a fault in one field of a model."""
    where = kind.noun
    if "name" in kind.model_fields:
        name = index if values.get("name") is None else values["name"]
        where += "" if name is None else f" {quoted(name)}"
    value, wanted = quoted(fault["input"]), _wanted(fault)
    known = ", ".join(each.alias or name for name, each in kind.model_fields.items())
    sentences = {
        "missing": f"{where} lacks the field {field!r}.",
        "extra_forbidden": f"{where} has an unknown field {quoted(field)}; the known fields are {known}.",
        "which": f"{where} has {field} {value}, which {wanted}.",
        "sentence": wanted,
    }
    if field == "schema" and fault["type"] not in sentences:
        return f"{where} schema {value} is unknown; this version reads schema {wanted}."
    cause = fault.get("ctx", {}).get("error")
    kind_of_fault = cause.kind if isinstance(cause, Fault) else fault["type"]
    return sentences.get(kind_of_fault, f"{where} has {field} {value}; it must be {wanted}.")
