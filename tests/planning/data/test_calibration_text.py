"""Calibration text: its description in plans, the reading of files, and its use in runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from offcomp.errors import InputError, PlanError
from offcomp.models.loading import LoadedModel, load
from offcomp.models.sources import bundled_info, may_have_tokenizer
from offcomp.models.weights import read
from offcomp.planning.data.calibration_text import CalibrationText, digest
from offcomp.planning.data.row_counts import RowCounts
from offcomp.planning.plan import Group, Plan, validate
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.compress import compress_group, stack
from tests import tiny_models
from tests.cli.test_main import Command

SENTENCES = ["One fine day.", "Two fine days.", "Three of them."]
WHITENED = Group(name="key", modules=("key.0",), options={"preset": "whitened"})
PLAIN = Group(name="value", modules=("value.0",))


def info_of_minilm() -> Any:
    return bundled_info("minilm-l6")


# --------------------------------------------------------------------------------------------------------------- plans


def test_the_bundled_text_is_not_written_so_that_plans_without_it_keep_their_names() -> None:
    assert "calibration" not in Plan(model="minilm-l6", groups=(WHITENED,)).to_dict()
    assert Plan(model="minilm-l6").calibration == CalibrationText()


def test_another_text_is_written_in_full_and_read_back() -> None:
    plan = Plan(model="minilm-l6", groups=(WHITENED,), calibration=CalibrationText(text="some.txt", num_texts=7))
    written = json.loads(plan.to_json())
    assert written["calibration"] == {
        "text": "some.txt",
        "column": "",
        "num_texts": 7,
        "max_tokens": 128,
        "special_tokens": False,
        "weighting": "output",
    }
    assert Plan.from_dict(written).calibration == plan.calibration
    assert Plan.from_dict({"model": "m", "calibration": {"max_tokens": 9}}).calibration == CalibrationText(max_tokens=9)


@pytest.mark.parametrize(
    "calibration, parts",
    [
        (3, ["calibration", "3", "JSON object"]),
        ({"texts": "a.txt"}, ["'texts'", "num_texts"]),
        ({"num_texts": 0}, ["num_texts", "0", "1 to 100000"]),
        ({"num_texts": True}, ["num_texts", "True"]),
        ({"max_tokens": 2}, ["max_tokens", "2", "3 to 8192"]),
        ({"special_tokens": 1}, ["special_tokens", "true or false"]),
        ({"weighting": "norm"}, ["weighting", "'norm'", "output, equal"]),
        ({"text": ""}, ["text", "'bundled' or a file"]),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(calibration: Any, parts: list[str]) -> None:
    with pytest.raises(PlanError) as raised:
        Plan.from_dict({"model": "minilm-l6", "calibration": calibration})
    assert len(raised.value.faults) == 1
    assert all(part in raised.value.faults[0] for part in parts)


def test_a_file_that_is_not_there_is_a_fault_only_of_a_plan_that_reads_it() -> None:
    lost = CalibrationText(text="/nowhere/text.txt")
    validate(Plan(model="minilm-l6", groups=(PLAIN,), calibration=lost), info_of_minilm())
    with pytest.raises(PlanError, match=r"'/nowhere/text\.txt' does not exist"):
        validate(Plan(model="minilm-l6", groups=(WHITENED, PLAIN), calibration=lost), info_of_minilm())
    with pytest.raises(PlanError, match=r"'text\.docx' must be 'bundled' or a file with one of the extensions \.txt"):
        validate(Plan(model="minilm-l6", groups=(WHITENED,), calibration=CalibrationText(text="text.docx")), info_of_minilm())


def test_a_calibrated_method_needs_a_tokenizer(tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.shared("bert"), tmp_path / "bare", tokenizer=False)
    info = load(str(folder)).info
    assert not may_have_tokenizer(info)
    validate(Plan(model=str(folder), groups=(PLAIN,), tasks=()), info)
    with pytest.raises(PlanError, match="has no tokenizer"):
        validate(Plan(model=str(folder), groups=(WHITENED,), tasks=()), info)
    with_one = load(str(tiny_models.save(tiny_models.shared("bert"), tmp_path / "whole"))).info
    validate(Plan(model=with_one.model, groups=(WHITENED,), tasks=()), with_one)


def test_the_command_line_names_a_file(offcomp: Command, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one\n", encoding="utf-8")
    flags = ["plan", "minilm-l6", "--modules", "key.0", "--json", "--option", "preset=whitened", "--calibration"]
    assert json.loads(offcomp(*flags, str(path))[1])["calibration"]["text"] == str(path)
    status, _, err = offcomp(*flags, str(tmp_path / "lost.csv"))
    assert status == 2
    assert "does not exist" in err


# --------------------------------------------------------------------------------------------------------------- files


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"texts{suffix}"
    table = pd.DataFrame({"number": range(3), "sentence": SENTENCES})
    {
        ".txt": lambda: path.write_text("\n".join(SENTENCES) + "\n\n", encoding="utf-8"),
        ".csv": lambda: table.to_csv(path, index=False),
        ".tsv": lambda: table.to_csv(path, index=False, sep="\t"),
        ".jsonl": lambda: table.to_json(path, orient="records", lines=True),
        ".parquet": lambda: table.to_parquet(path),
    }[suffix]()
    return path


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_sort_of_file_is_read(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    assert CalibrationText(text=str(path)).read(0).texts == SENTENCES
    if suffix != ".txt":
        assert CalibrationText(text=str(path), column="sentence").read(0).texts == SENTENCES
        with pytest.raises(InputError, match="has no column 'text'; choose one of number, sentence"):
            CalibrationText(text=str(path), column="text").read(0)


def test_a_column_named_text_comes_first_and_several_others_are_ambiguous(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    pd.DataFrame({"title": ["A", "B"], "text": ["one", None], "number": [1, 2]}).to_csv(path, index=False)
    assert CalibrationText(text=str(path)).read(0).texts == ["one"]
    pd.DataFrame({"title": ["A", "B"], "body": ["one", "two"]}).to_csv(path, index=False)
    with pytest.raises(InputError, match="several columns that could contain the texts; choose one of title, body"):
        CalibrationText(text=str(path)).read(0)


def test_texts_are_drawn_by_the_seed_and_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "numbers.txt"
    path.write_text("\n".join(f"{number:03}" for number in range(100)), encoding="utf-8")
    drawn = [CalibrationText(text=str(path), num_texts=20).read(seed).texts for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert drawn[0] != drawn[2]
    assert len(set(drawn[0])) == 20
    assert digest(drawn[0]) != digest(drawn[2])


def test_the_bundled_text_is_the_training_split() -> None:
    table = pd.read_csv(Path(__file__).parents[3] / "assets" / "tasks" / "sentiment.csv")
    texts = CalibrationText(num_texts=10_000).read(0).texts
    assert sorted(texts) == sorted(table[table["split"] == "train"]["text"])
    assert not set(texts) & set(table[table["split"] == "test"]["text"])


@pytest.mark.parametrize(
    "name, content, part",
    [
        ("empty.txt", b"\n \n", "contains no text"),
        ("broken.txt", b"\xff\xfe\xfa", "cannot be read"),
        ("broken.jsonl", b"{", "cannot be read"),
        ("broken.parquet", b"no parquet", "cannot be read"),
        ("empty.csv", b"", "cannot be read"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=part) as raised:
        CalibrationText(text=str(tmp_path / name)).read(0)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


# -------------------------------------------------------------------------------------------------------------- groups


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(tiny_models.save(tiny_models.shared("bert"), tmp_path_factory.mktemp("bert"))))


@pytest.fixture(scope="module")
def calibration(tiny: LoadedModel) -> Calibration:
    generator = torch.Generator().manual_seed(0)
    texts = [" ".join(f"w{n}" for n in torch.randint(2, 61, (9,), generator=generator).tolist()) for _ in range(60)]
    return Calibration(tiny, texts, weighting="equal", rows=RowCounts(read=61, used=60, left_out={"empty": 1}))


def inputs_of(calibration: Calibration, path: str, held_out: bool) -> Tensor:
    """Inputs (tokens, width) of a module, recorded without the code under test."""
    seen: list[Tensor] = []
    model = calibration.loaded.model
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    for batch in calibration.held_out if held_out else calibration.batches:
        model(**batch.inputs)
        seen[-1] = seen[-1][batch.counted]
    handle.remove()
    return torch.cat(seen).double()


def compressed(calibration: Calibration, group: Group) -> Any:
    loaded = calibration.loaded
    specs = [loaded.info.module(name) for name in group.modules]
    with GroupHints(calibration, specs, group.stack) as hints:
        return compress_group(loaded.model, loaded.info, group, hints=hints)


@pytest.mark.parametrize("held_out", [True, False])
def test_the_output_error_is_that_of_outputs_on_text(calibration: Calibration, held_out: bool) -> None:
    group = Group(
        name="pair", modules=("ffn_out.0", "query.1"), stack="residual", options={"preset": "whitened", "shrinkage": 0.05}
    )
    result = compressed(calibration, group)
    errors = energies = 0.0
    for name in group.modules:
        spec = calibration.loaded.info.module(name)
        inputs = inputs_of(calibration, spec.path.removesuffix(".weight"), held_out)
        original = read(calibration.loaded.model, spec).double()
        errors += ((original - result.reconstructions[spec].double()) @ inputs.T).square().sum().item()
        energies += (original @ inputs.T).square().sum().item()
    figures = result.figures
    found = figures.output_error if held_out else figures.calibration.output_error_fitted
    assert found == pytest.approx((errors / energies) ** 0.5, rel=1e-4)


def test_a_calibrated_group_says_what_it_rests_on_and_others_give_the_output_error_alone(calibration: Calibration) -> None:
    whitened = compressed(
        calibration, Group(name="k", modules=("key.0", "key.1"), options={"preset": "whitened", "shrinkage": 0.1})
    )
    plain = compressed(calibration, Group(name="k", modules=("key.0", "key.1")))
    about = whitened.figures.calibration
    assert (about.num_texts, about.num_held_out, about.num_tokens) == (48, 12, 48 * 9)
    assert about.tokens_per_dimension == 48 * 9 / 24
    assert len(about.digest) == 12
    assert about.rows.to_dict() == {"read": 61, "used": 60, "left_out": {"empty": 1}}
    assert about.shrinkage == 0.1
    assert 1 < about.column_condition < 1e6
    assert "row_condition" not in about.to_dict()
    assert whitened.figures.output_error < plain.figures.output_error
    assert whitened.figures.relative_error > plain.figures.relative_error
    assert plain.figures.calibration is None
    json.dumps(whitened.figures.to_dict())


def test_a_group_of_turned_members_is_weighed_by_the_inputs_of_each(calibration: Calibration) -> None:
    """Transposed members share the output side: Σ ‖(W_i - Ŵ_i) H_i^½‖² is minimised here by whitening each with Cholesky."""
    loaded = calibration.loaded
    group = Group(name="out", modules=("ffn_out.0", "ffn_out.1"), stack="columns", options={"preset": "whitened"}, ratio=2.0)
    result = compressed(calibration, group)
    originals = {spec: read(loaded.model, spec).double() for spec in (loaded.info.module(name) for name in group.modules)}
    factors = []
    for spec in originals:
        inputs = inputs_of(calibration, spec.path.removesuffix(".weight"), held_out=False)
        moment = inputs.T @ inputs
        factors.append(torch.linalg.cholesky(moment / moment.trace()).T)  # U with UᵀU = H
    whitening = torch.block_diag(*factors)
    left, values, right = torch.linalg.svd(whitening @ stack(originals, "columns"), full_matrices=False)
    rank = result.compressed.size
    best = torch.linalg.solve(whitening, left[:, :rank] * values[:rank] @ right[:rank])
    for spec, part in zip(originals, best.split(40), strict=True):
        assert (result.reconstructions[spec].double() - part.T).norm() <= 1e-4 * part.norm()


def test_errors_of_a_method_that_settles_members_are_against_the_original_weights(calibration: Calibration) -> None:
    options = {"preset": "codebook", "feedback": True, "codeword_length": 4}
    group = Group(
        name="all",
        modules=("query.0", "ffn_out.0"),
        stack="residual",
        method="autoencoder",
        options=options,
        ratio=5.0,
        unit="bytes",
    )
    originals = {name: read(calibration.loaded.model, calibration.loaded.info.module(name)) for name in group.modules}
    result = compressed(calibration, group)
    gap = energy = 0.0
    for spec, matrix in result.reconstructions.items():
        assert torch.equal(read(calibration.loaded.model, spec), originals[spec.name])
        gap += (originals[spec.name] - matrix).double().square().sum().item()
        energy += originals[spec.name].double().square().sum().item()
    assert result.figures.relative_error == pytest.approx((gap / energy) ** 0.5, rel=1e-6)
    assert result.figures.relative_error > 0.05
    assert result.figures.squared_norm == pytest.approx(energy, rel=1e-6)


def test_without_hints_a_calibrated_group_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(InputError, match="SVD with these options needs calibration text; provide some"):
        compress_group(tiny.model, tiny.info, WHITENED)
