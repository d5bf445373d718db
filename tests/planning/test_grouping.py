"""Grouping presets and stackings for every family: each module is in one group, names are valid file names, shapes fit."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from offcomp.errors import InputError, PlanError
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KINDS
from offcomp.models.loading import describe
from offcomp.models.sources import bundled_info
from offcomp.planning.grouping import GROUPINGS, STACK_HELP, STACKS, best_stack, blocks_of_layers, group_shape, is_transposed
from offcomp.planning.json_fields import is_name
from offcomp.planning.plan import Plan, make_groups, validate
from tests import tiny_models

MINILM = "minilm-l6"
MODELS = (MINILM, *tiny_models.TINY)
SELECTIONS: dict[str, Callable[[ModuleSpec], bool]] = {
    "default kinds": lambda spec: spec.default,
    "layers": lambda spec: spec.default and spec.layer is not None,
    "every weight": lambda spec: bool(spec.kind),
}


@pytest.fixture(scope="module")
def info_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelInfo]:
    """A function that describes MiniLM, or a tiny model that it saves to a folder."""

    @functools.cache
    def described(name: str) -> ModelInfo:
        if name == MINILM:
            bundled = bundled_info(name)
            assert bundled is not None
            return bundled
        folder = tiny_models.save(tiny_models.shared(name), tmp_path_factory.mktemp(name), tokenizer=False)
        return describe(str(folder))

    return described


def named(info: ModelInfo, *names: str) -> list[ModuleSpec]:
    return [info.module(name) for name in names]


def by_preset(info: ModelInfo, preset: str, block: int = 2) -> dict[str, tuple[str, ...]]:
    """The modules of each group that a preset forms from the modules that are compressed by default."""
    specs = [spec for spec in info.modules if spec.default]
    return {group.name: group.modules for group in make_groups(specs, preset, block=block)}


def fits(specs: list[ModuleSpec], stack: str) -> bool:
    try:
        group_shape(specs, stack)
    except InputError:
        return False
    return True


def layers(kind: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{kind}.{number}" for number in numbers)


# ------------------------------------------------------------------------------------------- every preset, every family


@pytest.mark.parametrize("preset", GROUPINGS)
@pytest.mark.parametrize("name", MODELS)
def test_each_module_is_in_exactly_one_group_of_a_unique_valid_name(
    info_of: Callable[[str], ModelInfo], name: str, preset: str
) -> None:
    for selected in SELECTIONS.values():
        specs = [spec for spec in info_of(name).modules if selected(spec)]
        groups = make_groups(specs, preset)
        assert sorted(module for group in groups for module in group.modules) == sorted(spec.name for spec in specs)
        assert len({group.name for group in groups}) == len(groups)
        assert all(is_name(group.name) for group in groups)
        assert all(group.modules for group in groups)


@pytest.mark.parametrize("preset", GROUPINGS)
@pytest.mark.parametrize("name", MODELS)
def test_the_best_stacking_fits_wherever_one_does_and_says_clearly_where_none_does(
    info_of: Callable[[str], ModelInfo], name: str, preset: str
) -> None:
    info = info_of(name)
    for selected in SELECTIONS.values():
        for group in make_groups([spec for spec in info.modules if selected(spec)], preset, stack="best"):
            plan = Plan(model=info.model, groups=(group,))
            specs = named(info, *group.modules)
            if any(fits(specs, stack) for stack in STACKS):
                validate(plan, info)
            else:
                assert preset == "all"  # the other presets never mix widths
                with pytest.raises(PlanError, match=r"cannot be stacked by .* columns versus \d+; choose a different stacking"):
                    validate(plan, info)


@pytest.mark.parametrize("name", ["albert", "electra", "opt"])
def test_all_together_is_refused_where_the_embeddings_are_narrower_than_the_layers(
    info_of: Callable[[str], ModelInfo], name: str
) -> None:
    info = info_of(name)
    groups = make_groups([spec for spec in info.modules if spec.default], "all")
    with pytest.raises(PlanError, match=r"word_embeddings \(61, 14\) and (query|key)\.0 .* 14 columns versus 24"):
        validate(Plan(model=info.model, groups=groups), info)
    validate(
        Plan(model=info.model, groups=make_groups([s for s in info.modules if s.default and s.layer is not None], "all")), info
    )


@pytest.mark.parametrize("preset", GROUPINGS)
def test_no_modules_make_no_groups(preset: str) -> None:
    assert make_groups([], preset) == ()


@pytest.mark.parametrize("preset", GROUPINGS)
def test_groups_do_not_depend_on_where_other_kinds_stand_in_the_list(info_of: Callable[[str], ModelInfo], preset: str) -> None:
    specs = [spec for spec in info_of(MINILM).modules if spec.default]
    by_kind = sorted(specs, key=lambda spec: spec.kind)  # a stable sort: layers stay in order
    listed, shuffled = ({group.name: group.modules for group in make_groups(s, preset)} for s in (specs, by_kind))
    assert listed.keys() == shuffled.keys()
    assert {name: set(modules) for name, modules in listed.items()} == {name: set(m) for name, m in shuffled.items()}


# --------------------------------------------------------------------------------------------------------- by example


def test_minilm_by_kind(info_of: Callable[[str], ModelInfo]) -> None:
    kinds = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
    expected = {"word_embeddings": ("word_embeddings",)} | {kind: layers(kind, *range(6)) for kind in kinds}
    assert by_preset(info_of(MINILM), "kind") == expected


def test_minilm_by_module(info_of: Callable[[str], ModelInfo]) -> None:
    groups = by_preset(info_of(MINILM), "module")
    assert len(groups) == 37
    assert all(modules == (name,) for name, modules in groups.items())


def test_minilm_by_attention_inputs(info_of: Callable[[str], ModelInfo]) -> None:
    groups = by_preset(info_of(MINILM), "qkv")
    assert groups["qkv.4"] == ("query.4", "key.4", "value.4")
    assert len(groups) == 6 + 3 * 6 + 1
    assert groups["ffn_in.2"] == ("ffn_in.2",)


def test_minilm_all_together(info_of: Callable[[str], ModelInfo]) -> None:
    ((name, modules),) = by_preset(info_of(MINILM), "all").items()
    assert (name, len(modules)) == ("all", 37)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (1, [(0,), (1,), (2,), (3,), (4,), (5,)]),
        (2, [(0, 1), (2, 3), (4, 5)]),
        (4, [(0, 1, 2, 3), (4, 5)]),
        (5, [(0, 1, 2, 3, 4), (5,)]),
        (6, [(0, 1, 2, 3, 4, 5)]),
        (99, [(0, 1, 2, 3, 4, 5)]),
    ],
)
def test_blocks_hold_neighbouring_layers_and_the_last_one_what_is_left(
    info_of: Callable[[str], ModelInfo], block: int, expected: list[tuple[int, ...]]
) -> None:
    groups = by_preset(info_of(MINILM), "blocks", block)
    of_keys = [modules for modules in groups.values() if modules[0].startswith("key")]
    assert of_keys == [layers("key", *numbers) for numbers in expected]
    assert groups["word_embeddings"] == ("word_embeddings",)
    assert len(groups) == 6 * len(expected) + 1


def test_blocks_of_chosen_layers_count_from_the_first_layer_of_the_model(info_of: Callable[[str], ModelInfo]) -> None:
    specs = named(info_of(MINILM), "key.1", "key.2", "key.3")
    assert [[spec.name for spec in part] for _, part in blocks_of_layers(specs, 2)] == [["key.1"], ["key.2", "key.3"]]


@pytest.mark.parametrize("block", [0, -1])
def test_a_block_below_one_layer_is_refused(info_of: Callable[[str], ModelInfo], block: int) -> None:
    with pytest.raises(InputError, match=f"block of {block} layers.*1 or more"):
        make_groups(info_of(MINILM).modules, "blocks", block=block)


def test_keys_and_values_with_fewer_heads_share_a_group_with_queries_by_rows(info_of: Callable[[str], ModelInfo]) -> None:
    info = info_of("llama")
    assert (info.module("query.0").shape, info.module("key.0").shape) == ((24, 24), (12, 24))
    (group,) = make_groups(named(info, "query.1", "key.1", "value.1"), "qkv")
    assert (group.name, group.stack) == ("qkv.1", "rows")
    assert group_shape(named(info, *group.modules), group.stack) == (24 + 12 + 12, 24)
    assert by_preset(info, "kind")["ffn_gate"] == layers("ffn_gate", 0, 1)


def test_keys_with_fewer_heads_do_not_fit_queries_by_columns(info_of: Callable[[str], ModelInfo]) -> None:
    with pytest.raises(InputError, match=r"query\.0 \(24, 24\) and key\.0 \(12, 24\).*columns: 24 columns versus 12"):
        group_shape(named(info_of("llama"), "query.0", "key.0"), "columns")


def test_the_parts_of_an_encoder_decoder_are_kept_apart(info_of: Callable[[str], ModelInfo]) -> None:
    info = info_of("t5")
    groups = by_preset(info, "kind")
    assert groups["encoder-key"] == ("encoder.key.0", "encoder.key.1")
    assert groups["decoder-key"] == layers("decoder.key", 0, 1, 2)
    assert groups["cross-key"] == layers("cross.key", 0, 1, 2)
    assert groups["word_embeddings"] == ("word_embeddings",)
    assert by_preset(info, "qkv")["cross-qkv.2"] == ("cross.query.2", "cross.key.2", "cross.value.2")
    of_blocks = by_preset(info, "blocks", 2)
    assert [m for m in of_blocks.values() if m[0].startswith("cross.key")] == [layers("cross.key", 0, 1), ("cross.key.2",)]


def test_a_fused_weight_is_grouped_by_its_pieces(info_of: Callable[[str], ModelInfo]) -> None:
    info = info_of("gpt2")
    assert by_preset(info, "kind")["key"] == ("key.0", "key.1")
    assert by_preset(info, "qkv")["qkv.0"] == ("query.0", "key.0", "value.0")


def test_other_weights_are_only_grouped_with_those_of_their_shape(info_of: Callable[[str], ModelInfo]) -> None:
    info = info_of(MINILM)
    others = [spec for spec in info.modules if not spec.default]
    groups = {group.modules for group in make_groups(others, "kind")}
    assert groups == {("embeddings.position_embeddings",), ("embeddings.token_type_embeddings",), ("pooler",)}


def test_unknown_kinds_are_grouped_by_shape() -> None:
    shapes = {"a": (4, 3), "b": (5, 3), "c": (4, 3)}
    specs = [ModuleSpec(name, "other", None, "", f"{name}.weight", *shape) for name, shape in shapes.items()]
    assert [group.modules for group in make_groups(specs, "kind")] == [("a", "c"), ("b",)]


def test_experts_are_grouped_by_layer() -> None:
    places = [(layer, expert) for layer in range(2) for expert in range(3)]
    specs = [
        ModuleSpec(f"expert_in.{layer}.e{expert}", "expert_in", layer, "", "experts.up", 4, 3, expert=expert)
        for layer, expert in places
    ]
    groups = {group.name: group for group in make_groups(specs, "kind")}
    assert {name: group.modules for name, group in groups.items()} == {
        f"expert_in-{layer}": tuple(f"expert_in.{layer}.e{expert}" for expert in range(3)) for layer in range(2)
    }
    (across,) = make_groups(specs, "blocks")
    assert across.modules == tuple(spec.name for spec in specs)


def test_a_kind_of_two_widths_becomes_two_groups() -> None:
    """As in a vision model whose later stages are wider."""
    specs = [ModuleSpec(f"query.{layer}", "query", layer, "", f"{layer}.q.weight", 6, 6 + layer // 2) for layer in range(4)]
    assert [group.modules for group in make_groups(specs, "kind")] == [("query.0", "query.1"), ("query.2", "query.3")]


def test_names_of_weights_by_path_become_safe_file_names() -> None:
    spec = ModuleSpec("odd/../path with space", "other", None, "", "x.weight", 3, 4)
    (group,) = make_groups([spec], "module")
    assert group.modules == (spec.name,)
    assert "/" not in group.name and " " not in group.name


# ----------------------------------------------------------------------------------------------------------- stackings

BEST = {
    "word_embeddings": "rows",
    "query": "rows",
    "key": "rows",
    "value": "rows",
    "attention_output": "columns",
    "ffn_in": "rows",
    "ffn_gate": "rows",
    "ffn_out": "columns",
    "qkv": "rows",
    "query_down": "rows",
    "query_up": "rows",
    "kv_down": "rows",
    "kv_up": "rows",
    "expert_in": "rows",
    "expert_gate": "rows",
    "expert_out": "columns",
    "ssm_in": "rows",
    "ssm_out": "columns",
}


def test_the_best_stacking_is_known_for_every_kind() -> None:
    assert set(BEST) == set(KINDS)


@pytest.mark.parametrize("kind", BEST)
def test_the_best_stacking_of_one_kind_shares_its_residual_side(kind: str) -> None:
    specs = [ModuleSpec(f"{kind}.{i}", kind, i, "", f"{i}.weight", 8, 8) for i in range(2)]
    assert best_stack(specs) == BEST[kind]


@pytest.mark.parametrize(
    ("names", "stack", "shape"),
    [
        (("query.0", "value.3"), "rows", (768, 384)),
        (("attention_output.0", "ffn_out.3"), "columns", (384 + 1536, 384)),
        (("query.0", "attention_output.0"), "residual", (768, 384)),
        (("word_embeddings", "ffn_in.0", "ffn_out.0"), "residual", (30522 + 2 * 1536, 384)),
        (("ffn_out.0",), "columns", (1536, 384)),
        (("pooler",), "rows", (384, 384)),
        (("pooler", "query.0"), "rows", (768, 384)),
    ],
)
def test_the_best_stacking_of_a_mix(
    info_of: Callable[[str], ModelInfo], names: tuple[str, ...], stack: str, shape: tuple[int, int]
) -> None:
    specs = named(info_of(MINILM), *names)
    assert best_stack(specs) == stack
    assert group_shape(specs, stack) == shape


def test_unknown_kinds_of_unequal_width_are_stacked_by_columns() -> None:
    specs = [ModuleSpec("a", "other", None, "", "a.weight", 8, 5), ModuleSpec("b", "other", None, "", "b.weight", 8, 9)]
    assert best_stack(specs) == "columns"
    assert group_shape(specs, "columns") == (14, 8)


@pytest.mark.parametrize(
    ("stack", "transposed"),
    [
        ("rows", {"query.0": False, "attention_output.0": False, "ffn_out.0": False, "word_embeddings": False}),
        ("columns", {"query.0": True, "attention_output.0": True, "ffn_out.0": True, "word_embeddings": True}),
        ("residual", {"query.0": False, "attention_output.0": True, "ffn_out.0": True, "word_embeddings": False}),
    ],
)
def test_which_members_are_turned(info_of: Callable[[str], ModelInfo], stack: str, transposed: dict[str, bool]) -> None:
    assert {name: is_transposed(info_of(MINILM).module(name), stack) for name in transposed} == transposed


def test_every_stacking_and_the_best_one_have_a_help_text() -> None:
    assert set(STACK_HELP) == {"best", *STACKS}


def test_a_group_of_one_may_be_stacked_either_way(info_of: Callable[[str], ModelInfo]) -> None:
    specs = named(info_of(MINILM), "ffn_in.0")
    assert group_shape(specs, "rows") == (1536, 384)
    assert group_shape(specs, "columns") == (384, 1536)
