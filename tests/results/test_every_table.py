"""Every column of a table of runs contains what its name says.

The tables are made from a run in which no two figures are equal, and all of their columns are compared, so figures in the
wrong column are noticed, as are new columns that no test covers.
"""

from __future__ import annotations

import ast
import re
from math import isnan
from typing import Any

import pytest
from scipy.stats import binomtest

from offcomp.cli.export import stored_text
from offcomp.cli.text import run_text
from offcomp.results.charts.examples import joint_table, outcome_table, score_of, shift_table
from offcomp.results.charts.runs import error_table, size_table
from offcomp.results.charts.scores import score_table
from offcomp.results.paired import change_table, flip_count_table, flip_table
from offcomp.results.pareto import front_table
from offcomp.results.report import figures_table
from offcomp.results.runs import run_table
from offcomp.runs.manifest import Manifest, StoredGroup
from offcomp.runs.store import Run
from tests.drawn import public_functions
from tests.made_runs import made_group, made_run, with_result
from tests.minilm import minilm_info

ELSEWHERE = {"comparison_table", "continuation_table", "difference_table", "reference_table"}
"""Tables of runs that are tested elsewhere."""
Z = 1.959964
ID, OTHER = "a" * 12, "b" * 12


def numbers(**figures: Any) -> dict[str, Any]:
    return figures


def score(**fields: Any) -> dict[str, Any]:
    """Return a score on sentiment in which no two figures are equal."""
    made = {
        "original": numbers(value=0.83, standard_error=0.011, n=1200),
        "compressed": numbers(value=0.71, standard_error=0.023, n=1100),
        "majority_baseline": 0.52,
        "paired": numbers(difference=-0.12, interval=[-0.15, -0.08], agreement=0.87, right_to_wrong=31, wrong_to_right=17)
        | numbers(smallest_difference=0.042, divergence=0.19),
        "flips": {
            "right_to_wrong": [flip("lost", 0.64, 0.27), flip("lost too", 0.55, 0.46)],
            "wrong_to_right": [flip("won", 0.33, 0.78)],
        },
        "rows": numbers(read=300, used=298, left_out={"empty": 2}),
        "cut": numbers(texts=40, of=297, tokens=126),
        "version": "1",
        "split": "test",
    }
    return made | fields


def flip(text: str, before: float, after: float) -> dict[str, Any]:
    return {
        **{"text": text, "label": "positive", "predicted": "negative"},
        **{"original_probability": before, "compressed_probability": after},
    }


def value_score() -> dict[str, Any]:
    """Return a score on pairs of sentences."""
    changes = [
        numbers(text="one", truth=3.5, original=0.61, compressed=0.21),
        numbers(text="two", truth=1.5, original=0.1, compressed=0.4),
    ]
    return {
        "metric": "spearman",
        "direction": "higher",
        "original": numbers(value=0.82, standard_error=0.012, n=900),
        "compressed": numbers(value=0.74, standard_error=0.024, n=800),
        "baseline": None,
        "paired": numbers(difference=-0.08, interval=[-0.11, -0.06]),
        "changes": changes,
    }


def made(name: str = ID, method: str = "svd", **fields: Any) -> Run:
    """Return a run with one group of two modules."""
    errors = [numbers(relative_error=0.43, rmse=0.11, mae=0.09, cosine_distance=0.17)]
    errors.append(numbers(relative_error=0.57, rmse=0.13, mae=0.08, cosine_distance=0.29))
    group = made_group("query", 0.53, modules=["query.0", "query.1"], method=method, rmse=0.12, cosine_distance=0.23)
    group |= numbers(num_parameters=7_000, num_bytes=30_000, compression_ratio=2.3, parameter_ratio=2.4, byte_ratio=3.6)
    group |= {
        "size_name": "rank",
        "size": 19,
        "seconds": 1.25,
        "module_errors": dict(zip(group["modules"], errors, strict=True)),
    }
    run = made_run(name, [group], score(**fields), others={"pairs": value_score()})
    sizes = {
        denominator: {
            **{"parameters_before": 16_000 * step, "parameters_after": 7_000 * step, "parameter_ratio": 2.1 + step},
            **{"bytes_before": 64_000 * step, "bytes_after": 29_000 * step, "byte_ratio": 2.7 + step},
        }
        for step, denominator in enumerate(("chosen", "matrices", "whole"), 1)
    }
    return with_result(run, model={"sizes": sizes})


RUN = made()
SECOND = made(OTHER, "autoencoder", flips={"right_to_wrong": [flip("lost", 0.64, 0.38)], "wrong_to_right": []})
ABOUT = {"run": ID, "name": "SVD"}
SERIES = ABOUT | {"style_key": "svd", "symbol": "circle"}


def sizes() -> list[dict[str, Any]]:
    rows = []
    for step, title in enumerate(("chosen modules", "all linear and embedding weights", "whole model"), 1):
        for unit, before, after, ratio in (("parameters", 16_000, 7_000, 2.1), ("bytes", 64_000, 29_000, 2.7)):
            figures = {"before": before * step, "after": after * step, "ratio": ratio + step, "share": after / before}
            rows.append(SERIES | {"row": title, "unit": unit} | figures)
    return rows


def flipped(text: str, change: str, before: float, after: float) -> dict[str, Any]:
    told = {"task": "sentiment", "change": change, "text": text, "label": "positive", "predicted": "negative"}
    return ABOUT | told | {"before": before, "after": after, "difference": after - before}


def changed(text: str, truth: float, before: float, after: float) -> dict[str, Any]:
    return {"text": text, "truth": truth, "before": before, "after": after, "difference": after - before}


def scored(which: str, value: float, error: float, n: int, about: str) -> dict[str, Any]:
    series = SERIES if which == "SVD" else {"run": "", "name": "Original", "style_key": "original", "symbol": "star"}
    kind = {"task": "sentiment", "title": "Sentiment", "metric": "accuracy", "row": which, "baseline": 0.52}
    ends = {"value": value, "low": value - Z * error, "high": value + Z * error, "n": n}
    return series | kind | ends | {"baseline_name": "always the same answer", "about": about}


def correlated(which: str, value: float, error: float, n: int, about: str) -> dict[str, Any]:
    figures = scored(which, value, error, n, about)
    return figures | {"task": "pairs", "title": "pairs", "metric": "spearman", "baseline": None, "baseline_name": ""}


def placed(**figures: Any) -> dict[str, Any]:
    return {"title": "Sentiment", "metric": "accuracy", "unit": "parameters", "on_front": True} | figures


EXPECTED: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "run_table": (
        run_table([RUN]),
        [
            ABOUT
            | {"model": "tiny", "relative_error": 0.53, "cosine_distance": 0.23}
            | {"stored_parameters": 7_000, "parameter_ratio": 3.1, "stored_bytes": 29_000, "byte_ratio": 3.7}
            | {"sentiment_metric": "accuracy", "sentiment_score": 0.71, "sentiment_standard_error": 0.023}
            | {"sentiment_n": 1100, "sentiment_original_score": 0.83, "sentiment_difference": -0.12}
            | {"sentiment_difference_low": -0.15, "sentiment_difference_high": -0.08, "sentiment_smallest_difference": 0.042}
            | {"sentiment_baseline": 0.52, "sentiment_rows_read": 300, "sentiment_rows_used": 298, "sentiment_texts_cut": 40}
            | {"sentiment_agreement": 0.87, "sentiment_right_to_wrong": 31, "sentiment_wrong_to_right": 17}
            | {"sentiment_divergence": 0.19, "pairs_metric": "spearman", "pairs_score": 0.74, "pairs_standard_error": 0.024}
            | {"pairs_n": 800, "pairs_original_score": 0.82, "pairs_difference": -0.08, "pairs_difference_low": -0.11}
            | {"pairs_difference_high": -0.06}
        ],
    ),
    "error_table": (
        error_table([RUN]),
        [
            SERIES
            | {"row": "query", "relative_error": 0.53, "cosine_distance": 0.23}
            | {"about": "2 modules, 7,000 parameters, 2.4x smaller"}
        ],
    ),
    "error_table of modules": (
        error_table([RUN], "module"),
        [
            SERIES | {"row": "query.0", "relative_error": 0.43, "cosine_distance": 0.17, "about": "in group query"},
            SERIES | {"row": "query.1", "relative_error": 0.57, "cosine_distance": 0.29, "about": "in group query"},
        ],
    ),
    "size_table": (size_table([RUN]), sizes()),
    "score_table": (
        score_table([RUN]),
        [
            scored("Original", 0.83, 0.011, 1200, "not compressed"),
            scored("SVD", 0.71, 0.023, 1100, "agrees with the original on 87.0%"),
            correlated("Original", 0.82, 0.012, 900, "not compressed"),
            correlated("SVD", 0.74, 0.024, 800, "-0.080 from the original"),
        ],
    ),
    "flip_table": (
        flip_table([RUN]),
        [
            flipped("won", "wrong to right", 0.33, 0.78),
            flipped("lost", "right to wrong", 0.64, 0.27),
            flipped("lost too", "right to wrong", 0.55, 0.46),
        ],
    ),
    "change_table": (
        change_table([RUN]),
        [
            ABOUT | {"task": "pairs"} | changed("one", 3.5, 0.61, 0.21),
            ABOUT | {"task": "pairs"} | changed("two", 1.5, 0.1, 0.4),
        ],
    ),
    "flip_count_table": (
        flip_count_table([RUN]),
        [ABOUT | {"task": "sentiment", "right_to_wrong": 31, "wrong_to_right": 17, "p": binomtest(17, 48).pvalue}],
    ),
    "shift_table": (
        shift_table(RUN, "pairs").drop(columns=["run", "name", "task", "change", "predicted"]),
        [changed("one", 3.5, 0.61, 0.21), changed("two", 1.5, 0.1, 0.4)],
    ),
    "joint_table": (
        joint_table(RUN, SECOND, "sentiment"),
        [
            {
                "text": text,
                "truth": "positive",
                "original": original,
                "first": first,
                "second": second,
                "difference": difference,
            }
            | {"first_flip": flip, "second_flip": flip if second else "same as the original"}
            for text, original, first, second, difference, flip in (
                ("won", 0.33, 0.78, None, 0.33 - 0.78, "wrong to right"),
                ("lost", 0.64, 0.27, 0.38, 0.38 - 0.27, "right to wrong"),
                ("lost too", 0.55, 0.46, None, 0.55 - 0.46, "right to wrong"),
            )
        ],
    ),
    "outcome_table": (
        outcome_table(score_of(RUN, "sentiment")),
        [
            {"change": change, "before": before, "after": after, "count": count, "share": count / 1100, "listed": listed}
            for change, before, after, count, listed in (
                ("stayed right", "right", "right", 913 - 31, 0),
                ("right to wrong", "right", "wrong", 31, 2),
                ("wrong to right", "wrong", "right", 17, 1),
                ("stayed wrong", "wrong", "wrong", 1100 - 913 - 17, 0),
            )
        ],
    ),
    "front_table": (
        front_table([RUN], "sentiment", "parameters", {ID: "SVD"}),
        [
            placed(
                run="", name="Original", style_key="original", grouping="", size=0.048, ratio=1.0, relative_error=0.0, n=1200
            )
            | {
                "value": 0.83,
                "low": 0.83 - Z * 0.011,
                "high": 0.83 + Z * 0.011,
                "about": "not compressed",
                "within_noise": True,
            },
            placed(run=ID, name="SVD", style_key="svd", grouping="stacked", size=0.021, ratio=5.1, relative_error=0.53, n=1100)
            | {"value": 0.71, "low": 0.71 - Z * 0.023, "high": 0.71 + Z * 0.023, "within_noise": False}
            | {"about": "-12.0 points from the original (95 % interval -15.0 to -8.0)"},
        ],
    ),
    "figures_table": (
        figures_table([RUN]),
        [
            {"Figure": figure, "SVD": said}
            for figure, said in {
                "Run id": ID,
                "Stored parameters": "7,000",
                "By parameters": "3.1x smaller",
                "Stored bytes": "29 kB",
                "By bytes": "3.7x smaller",
                "Relative error": "0.530",
                "Cosine distance": "0.230",
                "Accuracy on sentiment": "71.0 % ± 4.5",
                "Accuracy on sentiment, change from original": "-12.0 points",
                "Agreement on sentiment": "87.0 %",
                "Read for sentiment": "300 rows read, 298 used: 2 empty; 40 of 297 texts truncated to 126 tokens",
                "Spearman correlation on pairs": "0.740 ± 0.047",
                "Spearman correlation on pairs, change from original": "-0.080",
            }.items()
        ],
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_column_of_a_table_is_the_figure_of_its_name(name: str) -> None:
    table, expected = EXPECTED[name]
    rows = [{column: None if _is_nan(value) else value for column, value in row.items()} for row in table.to_dict("records")]
    assert rows == [pytest.approx(row) for row in expected]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and isnan(value)


def test_every_table_of_runs_is_compared() -> None:
    taking = {"Run", "Sequence[Run]"}
    found = {
        node.name
        for _, node in public_functions()
        if node.name.endswith("_table")
        and taking & {ast.unparse(each.annotation) for each in node.args.args if each.annotation}
    }
    assert found - ELSEWHERE <= {name.partition(" ")[0] for name in EXPECTED}


def test_a_run_and_an_export_as_text_have_the_same_figures() -> None:
    lines = run_text(RUN).splitlines()
    heading = next(line for line in lines if line.startswith("name"))
    values = lines[lines.index(heading) + 2]
    assert dict(zip(heading.split(), values.split(), strict=True)) == {
        **{"name": "query", "method": "svd", "size_name": "rank", "size": "19", "compression_ratio": "2.3"},
        **{"num_parameters": "7,000", "num_bytes": "30,000", "relative_error": "0.53", "cosine_distance": "0.23"},
        "seconds": "1.25",
    }
    said = [line for line in lines[lines.index(values) + 1 :] if line]
    assert said == [
        "chosen modules: 16,000 -> 7,000 parameters (3.10x smaller), 64,000 -> 29,000 bytes (3.70x smaller)",
        "all linear and embedding weights: "
        "32,000 -> 14,000 parameters (4.10x smaller), 128,000 -> 58,000 bytes (4.70x smaller)",
        "whole model: 48,000 -> 21,000 parameters (5.10x smaller), 192,000 -> 87,000 bytes (5.70x smaller)",
        "sentiment: accuracy 83.0 % ± 2.2 -> 71.0 % ± 4.5, -12.0 points from the original (95 % interval -15.0 to -8.0), "
        "agreement 0.870, 31 right to wrong, 17 wrong to right, n = 1100; 300 rows read, 298 used: 2 empty; "
        "40 of 297 texts truncated to 126 tokens",
        "pairs: Spearman correlation 0.820 ± 0.024 -> 0.740 ± 0.047, "
        "-0.080 from the original (95 % interval -0.110 to -0.060), n = 800",
    ]
    assert RUN.result
    ledger = tuple({"name": name, "shape": [2, 3], "dtype": "float32", "bytes": 24} for name in ("left", "right"))
    group = StoredGroup(
        name="query",
        file="groups/query.safetensors",
        form="low_rank",
        rows=41,
        cols=39,
        num_parameters=7_000,
        num_bytes=30_000,
        original_parameters=16_000,
        original_bytes=64_000,
        relative_error=0.53,
        ledger=ledger,
    )
    sizes = RUN.result.model.sizes.to_dict()
    manifest = Manifest(
        offcomp="0.1.0",
        run=ID,
        plan=RUN.plan,
        original=minilm_info(),
        groups=(group,),
        num_parameters=7_000,
        num_bytes=30_000,
        sizes=sizes,
        dense=False,
        files={},
    )
    heading, _, values = stored_text(manifest).splitlines()[:3]
    assert re.split("  +", heading) == ["group", "matrix", "form", "tensors", "parameters", "bytes", "relative_error"]
    assert re.split("  +", values) == ["query", "41 x 39", "low_rank", "left, right", "7,000", "30,000", "0.53"]
