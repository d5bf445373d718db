"""Tables, names and sentences about finished runs, and the figures that are drawn from the tables, in both themes."""

from __future__ import annotations

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from offcomp.methods import METHODS, default_options, own_options, presets_of
from offcomp.methods.base import Method
from offcomp.numerics.paired_tests import accuracy_interval
from offcomp.planning.data.scores import Score
from offcomp.results.bundled import FILES, bundled_runs
from offcomp.results.charts.dots import shortened
from offcomp.results.charts.runs import error_figure, error_table, size_figure, size_table
from offcomp.results.charts.scores import score_figure, score_table
from offcomp.results.charts.theme import MARKERS, PALETTES
from offcomp.results.paired import flip_count_table, flip_table, paired_difference, same_test
from offcomp.results.runs import (
    default_selection,
    difference_table,
    label,
    method_title,
    run_table,
    short_names,
    style_key_of,
    unfinished_siblings,
    with_provenance,
)
from offcomp.results.scores import METRICS, brief_difference, difference_text, score_text
from offcomp.results.sentences import answer, megabytes, smaller
from offcomp.runs.inputs import RESULTS_VERSION, run_id
from offcomp.runs.result import GroupResult, Inputs, overall_cosine, overall_error
from offcomp.runs.store import Run
from tests.made_runs import made_group, made_run, made_score, with_result

SVD = made_run("aaaaaaaaaaaa", [made_group("query", 0.5), made_group("key", 0.25)], made_score(["a", "b"], ["x"]))
AUTOENCODER = made_run(
    "bbbbbbbbbbbb",
    [made_group(name, 0.75, method="autoencoder") for name in ("query", "key")],
    made_score(["a", "c", "d"], []),
)
UNSCORED = made_run("cccccccccccc", [made_group("query", 0.5)])
BASELINE = made_run("dddddddddddd", [], made_score([], []))
OTHER_MODEL = made_run("eeeeeeeeeeee", [made_group("query", 0.5)], made_score([], []), model="other")
EVERYTHING = [SVD, AUTOENCODER, UNSCORED, BASELINE, OTHER_MODEL]


def figures(name: str, error: float, **fields: Any) -> GroupResult:
    return GroupResult.from_json(made_group(name, error, **fields))


def test_overall_error_is_that_of_all_weights_together() -> None:
    # Squared norms: 4, 9 and 3 for the residuals (entries * rmse^2), 16, 36 and 3 for the weights (divided by error^2).
    groups = [
        figures("a", 0.5, rmse=1.0, rows=2, cols=2),
        figures("b", 0.5, rmse=1.5, rows=2, cols=2),
        figures("c", 1.0, rmse=1.0, rows=3, cols=1),
    ]
    assert overall_error(groups) == pytest.approx(sqrt((4 + 9 + 3) / (16 + 36 + 3)))
    assert overall_error(groups[:1]) == 0.5


def test_exact_groups_count_among_all_weights() -> None:
    exact = figures("exact", 0.0, rmse=0.0, squared_norm=3.0)
    assert overall_error([exact]) == 0
    assert overall_error([]) == 0
    assert overall_error([exact, figures("a", 0.5, rmse=1.0, rows=2, cols=2)]) == pytest.approx(sqrt(4 / (16 + 3)))
    assert overall_cosine([]) == 0


def test_overall_cosine_is_the_mean_over_all_rows() -> None:
    assert overall_cosine([figures("a", 0.4, rows=30), figures("b", 0.8, rows=10)]) == pytest.approx((3 * 0.2 + 0.4) / 4)


def test_run_table() -> None:
    table = run_table([SVD, UNSCORED])
    assert table["stored_parameters"].tolist() == [40, 20]
    assert table["sentiment_score"].tolist()[0] == pytest.approx(0.79)
    assert table["sentiment_score"].isna().tolist() == [False, True]


def test_error_table_by_group_and_module() -> None:
    table = error_table([SVD, AUTOENCODER])
    assert table["row"].tolist() == ["query", "key", "query", "key"]
    assert table["relative_error"].tolist() == [0.5, 0.25, 0.75, 0.75]
    assert table["name"].tolist() == ["SVD", "SVD", "Autoencoder", "Autoencoder"]
    assert error_table([SVD], "module")["row"].tolist() == ["query.0", "key.0"]
    assert error_table([BASELINE]).empty


def test_the_table_of_scores_names_the_original_once() -> None:
    table = score_table([SVD, AUTOENCODER])
    assert table["row"].tolist() == ["Original", "SVD", "Autoencoder"]
    assert table["value"].tolist() == pytest.approx([0.8, 0.79, 0.77])
    margin = 1.959964 * sqrt(0.8 * 0.2 / 100)
    assert (table["low"][0], table["high"][0]) == pytest.approx((0.8 - margin, 0.8 + margin))
    assert score_table([UNSCORED]).empty
    assert score_table([SVD, OTHER_MODEL])["row"].tolist()[::2] == ["Original, tiny", "Original, other"]


def test_where_every_answer_is_right_or_wrong_the_interval_still_has_a_width() -> None:
    perfect = score_table([made_run("1" * 12, [], made_score([], [], right=100))])
    assert perfect["low"].tolist() == pytest.approx([1 / (1 + 1.959964**2 / 100)] * 2)  # Wilson's, for 100 of 100
    assert perfect["high"].tolist() == [1.0, 1.0]
    scores = [Score.from_json(made_score([], [], right=right)) for right in (100, 0)]
    assert list(map(score_text, scores)) == ["100 % (≥ 96.3)", "0 % (≤ 3.7)"]


def test_size_table_has_three_denominators_in_two_units() -> None:
    table = size_table([SVD])
    assert len(table) == 6
    row = table[(table["row"] == "whole model") & (table["unit"] == "bytes")].iloc[0]
    assert (row["before"], row["after"], row["share"]) == (720, 560, pytest.approx(560 / 720))
    assert size_table([BASELINE])["share"].tolist() == [1.0] * 6


@pytest.mark.parametrize("runs", [[SVD], [SVD, AUTOENCODER], EVERYTHING, [SVD] * 1 + [UNSCORED]])
@pytest.mark.parametrize("theme", PALETTES)
def test_figures_say_what_is_better(runs: list[Run], theme: str) -> None:
    palette = PALETTES[theme]
    accuracies = score_table(runs)
    figures = [error_figure(error_table(runs), palette), size_figure(size_table(runs), palette, "bytes")]
    figures += [score_figure(accuracies, palette)] if len(accuracies) else []
    for figure in figures:
        json.loads(figure.to_json())
        assert figure.layout.title.text.endswith("?")
        assert any(words in figure.layout.xaxis.title.text for words in ("is better", "is smaller"))


def test_a_method_keeps_its_shape_and_several_of_its_runs_differ() -> None:
    runs = [made_run(f"{i}" * 12, [made_group("query", 0.1 * i, ratio=float(i))]) for i in range(1, 6)]
    table = error_table([*runs, AUTOENCODER])
    assert table["symbol"].str.startswith("circle").tolist() == [True] * 5 + [False] * 2
    assert table["symbol"][:5].is_unique
    assert set(table["symbol"][5:]) == {"diamond"}


def test_a_hundred_groups_with_long_names_stay_apart() -> None:
    names = [f"{'long-name-' * 9}{i:03d}" for i in range(100)]
    figure = error_figure(error_table([made_run("9" * 12, [made_group(name, 0.5) for name in names])]), PALETTES["light"])
    ticks = figure.layout.yaxis.ticktext
    assert len(set(ticks)) == 100
    assert max(map(len, ticks)) <= 26
    assert figure.layout.height > 2000
    assert shortened("key") == "key"


def test_names_are_as_long_as_needed() -> None:
    assert list(short_names([SVD, AUTOENCODER]).values()) == ["SVD", "Autoencoder"]
    twice = made_run("f" * 12, [made_group("query", 0.5), made_group("key", 0.5)], seed=1)
    assert list(short_names([SVD, twice]).values()) == ["SVD aaaaaa", "SVD ffffff"]
    smaller_run = made_run("f" * 12, [made_group("query", 0.5, ratio=4.0)])
    assert list(short_names([UNSCORED, smaller_run]).values()) == ["SVD at 2.0x", "SVD at 4.0x"]
    assert list(short_names([SVD, UNSCORED]).values()) == ["SVD query+key", "SVD query.0"]
    assert list(short_names([SVD, OTHER_MODEL]).values())[1].startswith("other SVD")


def test_label_and_style_key() -> None:
    assert label(SVD) == "SVD, query+key, 2.0x, aaaaaa"
    assert label(BASELINE) == "Original, nothing compressed, dddddd"
    mixed = made_run("1" * 12, [made_group("query", 0.1), made_group("key", 0.1, method="autoencoder", ratio=12.5)])
    assert label(mixed) == "SVD + Autoencoder, query+key, 2.0x to 12.5x, 111111"
    assert [style_key_of(run) for run in (SVD, AUTOENCODER, BASELINE, mixed)] == ["svd", "autoencoder", "original", "reference"]
    many = made_run("1" * 12, [made_group(kind, 0.1) for kind in ("query", "key", "value", "ffn_in")])
    assert "4 kinds" in label(many)


@pytest.mark.parametrize("method", METHODS, ids=[method.style_key for method in METHODS])
def test_a_member_of_a_family_has_its_own_title_and_style_key(method: type[Method]) -> None:
    run = made_run("1" * 12, [made_group("query", 0.5, method=method.name, options=own_options(method))])
    assert (method_title(run), style_key_of(run)) == (method.title, method.style_key)
    for palette in PALETTES.values():
        assert method.style_key in palette.series
    assert method.style_key in MARKERS


def test_an_unusual_preset_is_named_and_a_method_of_another_version_too() -> None:
    presets = [(method, preset) for method in METHODS for preset in presets_of(method)]
    for method, preset in presets:
        run = made_run("1" * 12, [made_group("query", 0.5, method=method.name, options={"preset": preset})])
        usual = default_options(method.name, preset)["preset"] == preset
        assert method_title(run) == (method.title if usual else f"{method.title} {preset}")
    unknown = made_run("1" * 12, [made_group("query", 0.5, method="magic")])
    assert method_title(unknown) == "magic"


def test_corrections_are_part_of_the_name_of_a_run() -> None:
    plain = made_run("1" * 12, [made_group("query", 0.5)])
    corrected = replace(made_run("2" * 12, [made_group("query", 0.5)]), plan=plain.plan.replace(correct="biases"))
    assert [*short_names([plain, corrected]).values()] == ["SVD", "SVD, biases corrected"]
    table = difference_table([plain, corrected]).set_index("Property")
    assert list(table.loc["corrected"]) == ["nothing", "biases"]


def test_methods_that_share_colour_and_shape_differ_by_fill() -> None:
    alike = [
        made_run(str(i) * 12, [made_group("query", 0.5, method=method)])
        for i, method in enumerate(["kronecker", "tucker", "pruning"])
    ]
    assert list(dict.fromkeys(error_table(alike)["symbol"])) == ["cross", "cross-open", "cross-open-dot"]


def test_default_is_the_newest_pair_on_the_same_weights() -> None:
    newer = made_run("2" * 12, [made_group("value", 0.5)])
    assert default_selection([newer, AUTOENCODER, SVD], []) == [AUTOENCODER.id, SVD.id]
    assert default_selection([newer], [SVD, AUTOENCODER]) == [newer.id]
    assert default_selection([SVD], [AUTOENCODER, newer]) == [SVD.id, AUTOENCODER.id]
    assert default_selection([], [SVD, AUTOENCODER]) == [SVD.id, AUTOENCODER.id]
    assert default_selection([], []) == []


def of_model(run: Run, identity: str, **plan: Any) -> Run:
    """Return the run with this identity of its model, and with these fields of its plan changed, such as the model's name."""
    return replace(with_result(run, model={"reads": identity}), plan=run.plan.replace(**plan))


def test_a_model_goes_by_its_content_and_not_by_its_name() -> None:
    """A folder that has been overwritten in place is a different model, whereas a copy is the same model."""
    old, new, copy = (
        of_model(SVD, "2-aaaaaaaa"),
        of_model(AUTOENCODER, "2-bbbbbbbb"),
        of_model(AUTOENCODER, "2-aaaaaaaa", model="c"),
    )
    assert default_selection([new, old], []) == [new.id]
    assert default_selection([copy, old], []) == [copy.id, old.id]
    assert list(short_names([old, copy]).values()) == ["SVD", "Autoencoder"]
    assert list(short_names([old, new]).values()) == ["tiny aaaaaa SVD", "tiny bbbbbb Autoencoder"]
    assert "not ranked" not in answer([old, copy])


def test_a_failed_run_has_the_model_that_it_was_submitted_with(tmp_path: Path) -> None:
    failed = replace(SVD, id="3" * 12, status="failed", folder=tmp_path, result=None, inputs=Inputs(model="2-aaaaaaaa"))
    assert unfinished_siblings([of_model(SVD, "2-aaaaaaaa")], [failed]) == [failed]
    assert unfinished_siblings([of_model(SVD, "2-bbbbbbbb")], [failed]) == []


def test_a_failed_sibling_is_named() -> None:
    failed = made_run("3" * 12, [made_group(name, 0.5, method="autoencoder") for name in ("query", "key")], status="failed")
    elsewhere = made_run("4" * 12, [made_group("value", 0.5)], status="failed")
    assert unfinished_siblings([SVD], [failed, elsewhere, SVD]) == [failed]


def test_paired_difference_agrees_with_counting_sentence_by_sentence() -> None:
    # Among 100 sentences, "a" becomes wrong in both runs; "b" becomes wrong and "x" right only with SVD; "c" and "d" become
    # wrong only with the autoencoder.
    assert paired_difference(SVD, AUTOENCODER, "sentiment") == pytest.approx((0.02, *accuracy_interval(1, 3, 100)))
    again = made_run("2" * 12, [made_group("query", 0.5)], made_score(["a", "b"], ["x"]))
    value, low, high = paired_difference(SVD, again, "sentiment") or (1, 1, 1)
    assert value == 0 and low < -0.03 and high > 0.03  # equal flips on 100 sentences do not prove equality


def test_paired_difference_from_the_original_is_the_recorded_one() -> None:
    paired = SVD.result.scores["sentiment"].paired
    assert paired_difference(SVD, BASELINE, "sentiment") == pytest.approx((paired.difference, *paired.interval))


def test_paired_difference_on_real_runs_equals_the_difference_of_accuracies() -> None:
    first, second = bundled_runs()
    accuracies = [run.result.scores["sentiment"].compressed.value for run in (first, second)]
    assert paired_difference(first, second, "sentiment")[0] == pytest.approx(accuracies[0] - accuracies[1])


def test_flips_are_sorted_by_their_change() -> None:
    table = flip_table([SVD, AUTOENCODER])
    assert len(table) == 6
    assert table["difference"].abs().is_monotonic_decreasing
    assert table.iloc[0]["text"] == "d"
    counts = flip_count_table([SVD, AUTOENCODER])
    assert counts[["right_to_wrong", "wrong_to_right"]].values.tolist() == [[2, 1], [3, 0]]
    assert flip_table([UNSCORED]).empty


def test_difference_table_shows_only_what_differs() -> None:
    table = difference_table([SVD, AUTOENCODER])
    assert list(table.columns) == ["Property", "SVD (aaaaaa)", "Autoencoder (bbbbbb)"]
    shown = table.set_index("Property")
    assert shown.loc["group method"].tolist() == ["svd", "autoencoder"]
    assert shown.loc["group relative error"].tolist() == ["0.5, 0.25", "0.75"]
    assert "seed" not in shown.index
    assert "seed" in difference_table([SVD, AUTOENCODER], show_all=True)["Property"].tolist()
    assert "seed" in difference_table([SVD])["Property"].tolist()


def test_every_exported_row_knows_where_it_comes_from() -> None:
    table = with_provenance(error_table([SVD, AUTOENCODER]), [SVD, AUTOENCODER])
    assert len(table) == 4
    assert json.loads(table["plan"][2])["groups"][0]["method"] == "autoencoder"
    assert table["version_torch"].unique().tolist() == ["2.13.0"]
    assert table["seed"].tolist() == [0] * 4


def test_answers() -> None:
    assert "SVD has the lower reconstruction error (relative error 0.316 against 0.75 for Autoencoder)" in answer(
        [SVD, AUTOENCODER]
    )
    assert "SVD differs from Autoencoder by +2.0 points (95 % interval -2.8 to +7.6), within noise" in answer(
        [SVD, AUTOENCODER]
    )
    assert "relative error of 0.316" in answer([SVD])
    same = made_run("6" * 12, [made_group("query", 0.5), made_group("key", 0.25)], made_score(["a", "b"], ["x"]), seed=1)
    assert "+0.0 points (95 % interval -3.7 to +3.7), within noise" in answer([SVD, same])
    swapped = made_run("7" * 12, [made_group("query", 0.5), made_group("key", 0.25)], made_score(["b", "c"], ["y"]), seed=2)
    assert "+0.0 points (95 % interval -5.3 to +5.3), within noise" in answer([SVD, swapped])
    assert "No task was scored" in answer([UNSCORED])
    assert "original model" in answer([BASELINE])
    assert "not ranked" in answer([SVD, OTHER_MODEL])
    assert "different weights" in answer([SVD, UNSCORED])
    trained = with_result(AUTOENCODER, model={"fingerprint": "new"})
    assert "different weights" in answer([SVD, trained])  # under the same name, as after more training
    assert not same_test(SVD, OTHER_MODEL, "sentiment")
    assert not same_test(UNSCORED, UNSCORED, "sentiment")


def test_sizes_that_differ_are_said_to_differ() -> None:
    big = made_run("5" * 12, [made_group("query", 0.1, num_parameters=30, ratio=4 / 3)])
    assert answer([UNSCORED, big]).startswith(
        "Parameter compression ratios range from 1.33x to 2x; SVD at 1.3x has the smallest"
    )


def test_numbers_in_words() -> None:
    assert difference_text(METRICS["accuracy"], 0.05, 0.01, 0.09) == "+5.0 points (95 % interval +1.0 to +9.0)"
    assert brief_difference(Score.from_json(made_score(["a"], []))) == "-1.0 points, within noise"
    assert (smaller(3.0199), smaller(0.5)) == ("3.02x smaller", "2x larger")
    assert (megabytes(86_118_912), megabytes(2_343_936), megabytes(1234)) == ("86.1 MB", "2.34 MB", "1.23 kB")


def test_bundled_runs_are_those_of_this_version() -> None:
    runs = bundled_runs()
    assert [style_key_of(run) for run in runs] == ["svd", "autoencoder"]
    for run in runs:
        assert run.result is not None
        assert run.id == run_id(run.plan, run.result.inputs), "measure again: the plan changed"
        assert run.result.inputs.results == RESULTS_VERSION, "measure again: the version of the results changed"
    assert same_test(*runs, "sentiment")


def test_missing_bundled_files_are_left_out(tmp_path: Path) -> None:
    assert bundled_runs(tmp_path) == []
    (tmp_path / FILES[0]).write_text("{ not json")
    assert bundled_runs(tmp_path) == []
