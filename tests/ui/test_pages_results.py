"""Compare and Runs without a browser: what they show of bundled runs, the user's own runs, and missing runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from offcomp.files import read_json
from offcomp.results import bundled
from offcomp.ui.runs.page import outcome_text
from tests.made_runs import made_group, made_run, made_score, made_value_score, put_in_home
from tests.pages import home, opened, step, texts

__all__ = ["home"]  # a fixture
pytestmark = pytest.mark.usefixtures("home")


def documents() -> list[dict[str, Any]]:
    """Return the bundled run.json documents of SVD and of the autoencoder."""
    return [read_json(bundled.FOLDER / file) for file in bundled.FILES]


@pytest.fixture
def own(home: Path) -> tuple[str, str]:
    """The ids of two finished runs in the home, one of SVD and one of the autoencoder."""
    svd, autoencoder = documents()
    first = put_in_home(home, svd, "111111111111", submitted=1.0)
    return first, put_in_home(home, autoencoder, "222222222222", submitted=2.0)


def metrics(app: AppTest, label: str) -> list[str]:
    return [metric.value for metric in app.metric if metric.label == label]


def test_every_page_says_how_many_runs_are_compared(own: tuple[str, str]) -> None:
    app = opened("compare", runs=",".join(own))
    assert "Compared: 2 runs" in texts(app)
    app.multiselect(key="compare_runs").set_value([own[0]]).run()
    assert "Compared: 1 run\n" in texts(app)
    step(app, "inspect")
    assert "Compared: 1 run\n" in texts(app)


def test_what_was_read_is_said_where_a_score_is_shown(home: Path) -> None:
    svd = documents()[0]
    rows = {"read": 300, "used": 298, "left_out": {"empty": 2}}
    svd["scores"]["sentiment"] |= {"rows": rows, "cut": {"texts": 40, "of": 298, "tokens": 126}}
    svd["groups"][0]["calibration"] = {"rows": {"read": 60, "used": 60, "left_out": {}}}
    name = put_in_home(home, svd, "333333333333", submitted=3.0)
    for page in ("runs", "compare"):
        said = texts(opened(page, runs=name))
        assert "300 rows read, 298 used: 2 empty; 40 of 298 texts truncated to 126 tokens." in said
    assert "Calibration: 60 texts read, all used." in said


def test_compare_shows_the_bundled_runs_in_an_empty_home() -> None:
    app = opened("compare")
    assert "You have no finished runs yet" in texts(app)
    assert app.button(key="compare_compress").label == "Compress something"
    assert len(app.multiselect(key="compare_runs").value) == 2
    assert app.multiselect(key="compare_runs").options[0].endswith(", bundled")
    assert "SVD has the lower reconstruction error" in texts(app)
    assert "within noise" in texts(app)


def test_compare_starts_with_the_newest_pair(own: tuple[str, str]) -> None:
    app = opened("compare")
    assert app.multiselect(key="compare_runs").value == [own[1], own[0]]
    assert app.query_params["runs"] == f"{own[1]},{own[0]}"
    assert (
        "Default selection: the newest run of each method at one ratio on the same weights. 2 more can be chosen above."
        in texts(app)
    )
    assert "no finished run" not in texts(app)
    assert metrics(app, "Relative error")[1] == "0.621"
    assert metrics(app, "Cosine distance")[1] == "0.230"
    assert metrics(app, "Stored parameters") == ["579,584", "585,984"]
    assert metrics(app, "Accuracy")[1] == "83.9 % ± 3.8"
    assert metrics(app, "Stored bytes")[1] == "2.34 MB"
    assert len(app.get("plotly_chart")) == 4
    assert "2 of 2 runs shown." in texts(app)
    assert len(app.get("download_button")) == 7


def test_the_selection_is_in_the_url(own: tuple[str, str]) -> None:
    app = opened("compare", runs=own[0])
    assert app.multiselect(key="compare_runs").value == [own[0]]
    app.multiselect(key="compare_runs").set_value([own[0], own[1]]).run()
    assert not app.exception
    assert app.query_params["runs"] == ",".join(own)
    app.multiselect(key="compare_runs").set_value([]).run()
    assert "runs" not in app.query_params
    assert "Choose at least one run" in app.info[0].value


def test_unknown_runs_in_the_url_are_named_until_the_choice_changes(own: tuple[str, str]) -> None:
    app = opened("compare", runs=f"{own[0]},nonsense,../../etc")
    assert app.multiselect(key="compare_runs").value == [own[0]]
    assert ["'nonsense'" in app.warning[0].value, "'../../etc'" in app.warning[1].value] == [True, True]
    app.multiselect(key="compare_runs").set_value([own[1]]).run()
    assert not app.warning
    app = opened("compare", runs="nonsense")
    assert len(app.multiselect(key="compare_runs").value) == 2


def test_a_failed_sibling_is_mentioned(own: tuple[str, str], home: Path) -> None:
    failed = documents()[1]
    put_in_home(home, failed, "333333333333", submitted=3.0, status="failed", error="It grew too large.")
    app = opened("compare")
    assert "Not shown: Autoencoder, query+key, 3.0x, 333333, failed. It grew too large." in texts(app)
    app = opened("compare", runs="333333333333")
    assert "has no result to compare (failed). It grew too large." in app.warning[0].value


def test_a_run_without_scores(home: Path) -> None:
    unscored = documents()[0]
    unscored["plan"]["tasks"], unscored["scores"] = [], {}
    name = put_in_home(home, unscored, "444444444444", submitted=1.0)
    app = opened("compare", runs=name)
    assert metrics(app, "Score") == ["not scored"]
    assert "No task was scored" in texts(app)


def test_tasks_of_every_metric_have_a_chart_each(home: Path) -> None:
    several = documents()[0]
    several["plan"]["tasks"] += ["similarity", "masked-prose"]
    several["scores"]["sentiment"] |= {"unchanged": True}
    several["scores"]["similarity"] = made_value_score("spearman", 0.82, 0.79, collapsed=True)
    several["scores"]["masked-prose"] = made_value_score("masked perplexity", 12.0, 15.0)
    name = put_in_home(home, several, "888888888888", submitted=1.0)
    app = opened("compare", runs=name)
    assert metrics(app, "Similarity") == ["0.790 ± 0.039"]
    assert metrics(app, "Masked words in prose") == ["15.0 ± 0.039"]
    assert len(app.get("plotly_chart")) == 6
    assert "% of answers unchanged" in texts(app)
    assert "masked perplexity on masked words in prose is 15.0 (lower is better), +3.00 from the original" in texts(app)
    assert "a true difference of 0.020 would be detected" in texts(app)
    told = [warning.value for warning in app.warning]
    assert ["to the last bit" in told[0], "apart: all outputs are alike" in told[1]] == [True, True]
    app.segmented_control(key="compare_measure").set_value("masked-prose").run()
    app.segmented_control(key="compare_unit").set_value("parameters").run()
    assert not app.exception
    assert "masked perplexity on masked words in prose 15.0" in texts(app)
    assert "M parameters (1.05x smaller)" in texts(app)


def test_runs_of_different_models_are_not_ranked(own: tuple[str, str], home: Path) -> None:
    other = documents()[0]
    other["plan"]["model"] = "another"
    other["model"] |= {"fingerprint": "another", "reads": "another"}
    name = put_in_home(home, other, "555555555555", submitted=1.0)
    app = opened("compare", runs=f"{own[0]},{name}")
    assert "not ranked because they are of different models (minilm-l6, another)" in texts(app)
    assert "1 of 2 runs shown. 1 left out because" in texts(app)
    app.selectbox(key="compare_model").set_value("another").run()
    assert not app.exception


def test_a_collapsed_model_is_flagged_and_many_runs_become_a_table(home: Path) -> None:
    names = []
    for index in range(6):
        document = documents()[index % 2]
        document["plan"]["seed"] = index
        document["scores"]["sentiment"]["collapsed"] = index == 0
        names.append(put_in_home(home, document, f"{index}" * 12, submitted=float(index)))
    app = opened("compare", runs=",".join(names))
    assert len(app.warning) == 1
    assert "same answer to every sentiment sentence" in app.warning[0].value
    assert not app.metric
    assert len(app.dataframe[1].value) == 6


def test_a_group_with_a_long_name_and_the_equal_properties(home: Path) -> None:
    document = documents()[0]
    long = "n" * 100
    document["plan"]["groups"], document["groups"] = document["plan"]["groups"][:1], document["groups"][:1]
    document["plan"]["groups"][0]["name"] = document["groups"][0]["name"] = long
    names = [put_in_home(home, document, digit * 12, submitted=1.0) for digit in "67"]
    app = opened("compare", runs=",".join(names))
    app.toggle(key="compare_show_all").set_value(True).run()
    assert not app.exception
    assert any(long in table.value.to_string(max_colwidth=None) for table in app.dataframe)


def test_where_the_command_takes_fewer_runs_than_are_chosen_it_is_said(
    own: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened("compare", runs=",".join(own))
    assert "On the command line:" in texts(app)
    monkeypatch.setattr("offcomp.ui.downloads.MAX_IN_DETAIL", 1)
    app.run()
    assert "On the command line (the first 1 of these 2 runs):" in texts(app)


def test_every_card_says_whose_run_it_is_and_where_its_numbers_come_from(own: tuple[str, str]) -> None:
    bundled_id = documents()[0]["id"]
    app = opened("compare", runs=f"{bundled_id},{own[1]}")
    for run, whose, said in ((bundled_id, "bundled", "Bundled measurement"), (own[1], "yours", "Your run")):
        (title,) = [m for m in app.markdown if m.value.startswith("**") and run[:6] in m.value]
        assert title.value.endswith(f", {whose}")
        assert title.help.startswith(f"{said} {run}: minilm-l6, seed 0, 2026-")
        for part in (
            "torch 2.",
            "Linux",
            "threads",
            "query, key, at 3.0x in parameters, stored as float32",
            "Scored on sentiment",
        ):
            assert part in title.help
        assert f"{said} {run}" in texts(app)  # in a collapsed section, for every run


def test_a_finished_run_is_listed_with_outcome_text() -> None:
    run = made_run("a", [made_group("query", 0.25)], made_score(["lost"] * 9, []))
    assert outcome_text(run) == "Relative error 0.250; accuracy on sentiment 71.0 % (-9.0 points)"
    assert outcome_text(made_run("b", [])) == ""


def test_scores_of_other_libraries_are_shown_like_any_other(home: Path) -> None:
    """An accuracy with flips, a perplexity that is lower, and a score without an interval."""
    svd = documents()[0]
    lower = "lm-eval word_perplexity (lower is better)"
    accuracy = made_score(["a"], ["b", "c"]) | {"metric": "lm-eval acc", "family": "lm-eval", "title": "arc_easy (lm-eval)"}
    bare = made_value_score("mteb ndcg_at_10", 0.61, 0.5) | {"family": "mteb", "title": "NFCorpus (mteb)", "changes": []}
    bare["paired"] = {"difference": bare["paired"]["difference"], "interval": None}
    for which in ("original", "compressed"):
        bare[which] = bare[which] | {"standard_error": None}
    bare["note"] = ["mteb:NFCorpus: the score has no interval, since the library reports no results per example."]
    perplexity = made_value_score(lower, 31.5, 40.25) | {"family": "lm-eval", "title": "wikitext (lm-eval)"}
    svd["scores"] = {"lm-eval-arc_easy": accuracy, "lm-eval-wikitext": perplexity, "mteb-NFCorpus": bare}
    svd["plan"]["tasks"] = ["lm-eval:arc_easy", "lm-eval:wikitext", "mteb:NFCorpus"]
    name = put_in_home(home, svd, "444444444444", submitted=4.0)
    said = texts(opened("compare", runs=name))
    assert "the score has no interval" in said
    assert "word_perplexity" in texts(opened("runs", runs=name))
    for task in svd["scores"]:
        opened("examples", runs=name, task=task)
    for page in ("atlas", "inspect", "compress", "groups"):
        opened(page, runs=name)
