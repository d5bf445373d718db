"""The base of most JSON documents: pydantic models with named types for numbers and strings. Does not import torch.

Documents are frozen. They keep fields that this version does not know, so that files from newer versions survive being read and
written. The first fault of an invalid document becomes a `Malformed` that says what is wrong and where:

    RowCounts.from_json({"read": 3, "used": -2})      # Malformed: used is -2; it must be a whole number, 0 or greater
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    Strict,
    ValidationError,
)

from offcomp.plain_text import LONGEST, is_plain, text_fault
from offcomp.planning.json_checks import LARGEST, MAX_COUNTED, Malformed, anything

K = TypeVar("K")
T = TypeVar("T")
MAX_NAME_LENGTH = 1_000
SHOWN_OF_A_NAME = 40
STANDARD_WORDS = {
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a JSON object",
    "model_type": "a JSON object",
}
"""Type of a pydantic error -> what the value must be."""


@dataclass(frozen=True, eq=False)
class MustBe:
    """Annotates a type with a description of its valid values, for error messages.

    `schema`, a core schema of pydantic, replaces the validation of the annotated type.
    """

    words: str
    schema: Mapping[str, Any] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        error = {"custom_error_type": "must_be", "custom_error_message": self.words}
        return {"type": "custom-error", "schema": self.schema or handler(source)} | error


def _checked(value: Any) -> Any:
    anything(value)
    return value


def _single_line(text: str) -> str:
    if len(text) > LONGEST or not is_plain(text):
        raise Malformed(f" is {reprlib.repr(text)}, which {text_fault(text)}")
    return text


def _visible_name(name: str) -> str:
    if not name.strip() or len(name) > MAX_NAME_LENGTH or not is_plain(name):
        words = f"one line of at most {MAX_NAME_LENGTH} visible characters"
        raise Malformed(f" contains the name {reprlib.repr(name)}; a name must be {words}")
    return name


def _named(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        _visible_name(name)
    anything(value)
    return value


def _pair(value: Any) -> Any:
    if isinstance(value, Sequence) and len(value) != 2:
        raise Malformed(f" is {reprlib.repr(value)}; it must be a list of length 2")
    return value


Anything = Annotated[Any, AfterValidator(_checked)]
"""Any value that is not nested too deeply and whose numbers are within range."""
Figure = Annotated[float, Strict(), Field(ge=-LARGEST, le=LARGEST), MustBe("a number")]
Amount = Annotated[float, Strict(), Field(ge=0, le=LARGEST), MustBe("a number, 0 or greater")]
Fraction = Annotated[float, Strict(), Field(ge=0, le=1), MustBe("a number, 0 to 1")]
Count = Annotated[int, Strict(), Field(ge=0, le=MAX_COUNTED), MustBe("a whole number, 0 or greater")]
Positive = Annotated[int, Strict(), Field(ge=1, le=MAX_COUNTED), MustBe("a whole number, 1 or greater")]
Flag = Annotated[bool, Strict(), MustBe("true or false")]
Line = Annotated[str, AfterValidator(_single_line)]
"""A single line of visible characters, such as a title."""
Name = Annotated[str, AfterValidator(_visible_name)]
"""A key of an object: one non-empty line of visible characters."""
JsonObject = Annotated[dict[str, Any], AfterValidator(_named)]
"""An object in which each key is a `Name` and each value is `Anything`."""
Fact = Annotated[str | int | float | bool | None, MustBe("a string or a number")]
Items = Annotated[tuple[T, ...], FailFast()]
"""A list. Like `Named`, it is only checked up to the first invalid item, since a file may contain millions."""
Named = Annotated[dict[K, T], FailFast()]
Pair = Annotated[tuple[T, T], BeforeValidator(_pair)]
Interval = Pair[Figure]
"""The lower and the upper end of an interval."""


class Document(BaseModel):
    """A JSON object with known fields."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        use_attribute_docstrings=True,
        validate_by_name=True,
        serialize_by_alias=True,
    )
    __pydantic_extra__: dict[str, Anything] = Field(init=False)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Validate a JSON value. Raises Malformed."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise malformed(error) from None

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values, omitting fields that were not given."""
        return self.model_dump(mode="json", exclude_unset=True)


def malformed(error: ValidationError) -> Malformed:
    """The first fault of an invalid document."""
    fault = error.errors(include_url=False)[0]
    where = list(fault["loc"])
    of_a_name = bool(where) and where[-1] == "[key]"
    if of_a_name:
        where = where[:-2]  # the message quotes the name
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:SHOWN_OF_A_NAME]}" for step in where)
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, Malformed):
        return cause.within(place)
    return Malformed(_what(fault, "contains the name" if of_a_name else "is"), place)


def _what(fault: Mapping[str, Any], verb: str) -> str:
    if fault["type"] == "missing":
        return " is missing"
    words = fault["msg"] if fault["type"] == "must_be" else STANDARD_WORDS.get(fault["type"])
    value = reprlib.repr(fault["input"])
    return f" {verb} {value}; it must be {words}" if words else f" {verb} {value}: {fault['msg']}"
