"""Patterns, ranges of layers and exclusions select the modules that the user means."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offcomp.errors import InputError
from offcomp.models.catalogue import ModelInfo, StoredWeight, module_specs
from offcomp.planning.selection import layer_numbers, select_modules

PATHS = [
    *("transformer.wte", "transformer.wpe"),
    *(f"transformer.h.{n}.{rest}" for n in range(4) for rest in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
]
SHAPES = {"c_attn": (8, 24), "c_fc": (8, 32), "mlp.c_proj": (32, 8), "wte": (50, 8), "wpe": (16, 8)}


def weight(path: str) -> StoredWeight:
    shape = next((shape for ending, shape in SHAPES.items() if path.endswith(ending)), (8, 8))
    return StoredWeight((path,), shape, transposed=".h." in path)


@pytest.fixture(scope="module")
def gpt() -> ModelInfo:
    specs = module_specs("gpt2", map(weight, PATHS))
    size = sum(spec.num_parameters for spec in specs)
    return ModelInfo("gpt", "folder", "gpt2", "gpt2", "GPT2LMHeadModel", "float32", size, size, 4, "f", specs)


def names(info: ModelInfo, *arguments: object, **options: object) -> list[str]:
    return [spec.name for spec in select_modules(info, *arguments, **options)]  # type: ignore[arg-type]


def test_the_default_is_every_known_kind_but_the_word_embeddings(gpt: ModelInfo) -> None:
    chosen = names(gpt)
    assert len(chosen) == 4 * 6 and "word_embeddings" not in chosen


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("query", ["query.0", "query.1", "query.2", "query.3"]),
        ("query.2", ["query.2"]),
        ("query.1-2", ["query.1", "query.2"]),
        ("*.mlp.*", [f"{kind}.{layer}" for layer in range(4) for kind in ("ffn_in", "ffn_out")]),
        ("*.h.1.mlp.c_fc", ["ffn_in.1"]),
        ("transformer.wte.weight", ["word_embeddings"]),
        ("value.3, query.0", ["value.3", "query.0"]),
        (["value.3", "query.0", "value"], ["value.3", "query.0", "value.0", "value.1", "value.2"]),
    ],
)
def test_patterns_name_kinds_modules_ranges_and_paths(gpt: ModelInfo, patterns: object, expected: list[str]) -> None:
    assert names(gpt, patterns) == expected


def test_layers_and_exclusions_narrow_the_choice(gpt: ModelInfo) -> None:
    assert names(gpt, "query,key", layers="0-1,3", exclude="key.*") == ["query.0", "query.1", "query.3"]
    assert names(gpt, "query", layers=[2]) == ["query.2"]
    assert names(gpt, "ffn_in", exclude=["*.h.0.*", "ffn_in.2-3"]) == ["ffn_in.1"]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("*.mpl.*",), {}, r"'\*\.mpl\.\*' matches no module of gpt; patterns are compared with names and paths"),
        (("quary",), {}, "'quary' matches no module of gpt; did you mean 'query'"),
        (("query",), {"exclude": "nothing"}, "'nothing' matches no module"),
        (("query",), {"layers": "7"}, "no module of gpt matches"),
        (("query",), {"exclude": "query"}, "no module of gpt matches"),
        (("query",), {"layers": "2-0"}, "such as 0-2,5, not '2-0'"),
        (("query",), {"layers": "x"}, "not 'x'"),
    ],
)
def test_what_matches_nothing_is_refused(
    gpt: ModelInfo, arguments: tuple[str, ...], options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        select_modules(gpt, *arguments, **options)  # type: ignore[arg-type]


@given(st.sets(st.integers(0, 99), min_size=1))
def test_layer_numbers_read_what_a_person_writes(numbers: set[int]) -> None:
    assert layer_numbers(",".join(map(str, numbers))) == numbers
    first, last = min(numbers), max(numbers)
    assert layer_numbers(f"{first}-{last}") == set(range(first, last + 1))


@given(pattern=st.text("*?.qtu0123hmlpwe", min_size=1, max_size=12))
def test_a_shell_pattern_selects_exactly_what_fnmatch_does(gpt: ModelInfo, pattern: str) -> None:
    expected = [
        spec.name
        for spec in gpt.modules
        if any(fnmatchcase(name, pattern) for name in (spec.kind, spec.name, spec.path, spec.path.removesuffix(".weight")))
    ]
    try:
        assert names(gpt, [pattern]) == expected
    except InputError:
        assert expected == []
