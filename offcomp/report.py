"""What people take away of a comparison: its tables with full provenance, and a report in one HTML file to open from disk."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp import __version__
from offcomp.answers import answer, megabytes, smaller
from offcomp.continuations import continuation_table
from offcomp.errors import InputError
from offcomp.front_charts import front_figure
from offcomp.fronts import ERROR, SHOWN, front_answer, front_table, left_out_text, measures_of, reference_table, sharing_an_axis
from offcomp.measurements import read_measurements
from offcomp.originals import model_names, model_titles
from offcomp.paired import change_table, flip_count_table, flip_table
from offcomp.report_page import Chart, chart, details, document, facts, heading, paragraph, plan_text, table_of
from offcomp.result_charts import UNITS, error_figure, error_table, size_figure, size_table
from offcomp.results import VERSIONS, difference_table, label, result_of, run_table, short_names, warnings_of, with_provenance
from offcomp.row_counts import calibration_reading, reading_text
from offcomp.runs import OF_A_SAMPLE, Run
from offcomp.score_charts import score_figure, score_table, scores_of
from offcomp.scores import (
    against_original,
    brief_difference,
    metric_of,
    on_task,
    others_of,
    score_text,
    sentence_start,
    task_title,
    visible_difference,
    within_sentence,
)
from offcomp.size_notes import size_notes, unlisted_words
from offcomp.theme import LIGHT, Palette

DRAWN_COLUMNS = ["role", "symbol"]  # how a row is drawn, not what it says
MOST_ABREAST = 4
FLIP_COLUMNS = ["text", "label", "predicted", "before", "after", "difference", "name", "change", "task"]
SOMETIMES_EMPTY = ("flips", "changes", "continuations")  # by the kinds of the tasks
TABLES: dict[str, Callable[[Sequence[Run]], pd.DataFrame]] = {
    "runs": run_table,
    "groups": error_table,
    "scores": score_table,
    "sizes": size_table,
    "flips": flip_table,
    "changes": change_table,
    "continuations": continuation_table,
}


def comparison_tables(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Every table of a comparison by its name; each row names its run, plan, seed and versions."""
    return {name: comparison_table(runs, name) for name in table_names(runs)}


def table_names(runs: Sequence[Run]) -> list[str]:
    """Which tables a comparison of these runs has."""
    return [name for name, make in TABLES.items() if name not in SOMETIMES_EMPTY or len(make(runs))]


def comparison_table(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """One of the tables of a comparison."""
    return with_provenance(TABLES[name](runs).drop(columns=DRAWN_COLUMNS, errors="ignore"), runs)


def comparison_document(tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """The same tables as JSON values, a list of rows each."""
    return {name: json.loads(table.to_json(orient="records", double_precision=15)) for name, table in tables.items()}


def figures_table(runs: Sequence[Run]) -> pd.DataFrame:
    """What each run stores, its errors and its scores, as text: a figure a row and a run a column, or turned for many runs."""
    table = pd.DataFrame([_figures(run, row) for run, row in zip(runs, run_table(runs).to_dict("records"), strict=True)])
    table = table.fillna("")
    if len(runs) > MOST_ABREAST:
        return table
    return table.set_index("Run").T.rename_axis("Figure", axis="index").rename_axis(None, axis="columns").reset_index()


def _figures(run: Run, row: Mapping[Hashable, Any]) -> dict[str, str]:
    """The figures of one run, given its row of `run_table`."""
    figures = {
        "Run": row["name"],
        "Run id": run.id,
        "Stored parameters": f"{row['stored_parameters']:,}",
        "By parameters": smaller(row["parameter_ratio"]),
        "Stored bytes": megabytes(row["stored_bytes"]),
        "By bytes": smaller(row["byte_ratio"]),
        "Relative error": f"{row['relative_error']:.3f}",
        "Cosine distance": f"{row['cosine_distance']:.3f}",
    }
    for task, score in result_of(run)["scores"].items():
        name = sentence_start(on_task(task, score))
        figures |= {name: score_text(score), f"{name}, from original": brief_difference(score)}
        for other in others_of(score).values():
            figures[sentence_start(on_task(task, other))] = f"{score_text(other)}, {against_original(other)}"
        if "agreement" in score["paired"]:
            agreement = metric_of(score).number(score["paired"]["agreement"])
            figures[f"Agreement on {within_sentence(task_title(task, score))}"] = agreement
        if reading := reading_text(score):
            figures[f"Read for {within_sentence(task_title(task, score))}"] = reading
    if reading := calibration_reading(result_of(run)["groups"]):
        figures["Read for calibration"] = reading
    return figures


def html_report(runs: Sequence[Run], *, made: datetime | None = None) -> str:
    """A report of finished runs as one HTML file that needs no network. Raises InputError where there is no run.

    made    when it is made, of the present by default
    """
    if not runs:
        raise InputError("a report needs at least one finished run; choose one")
    models = list(dict.fromkeys(model_names(runs).values()))
    what = "What is left of" if len(runs) == 1 else "Which method keeps more of"
    title = f"{what} {models[0] if len(models) == 1 else 'the model'}?"
    charts = list(_charts(runs))
    parts = [heading(1, title), paragraph(answer(runs), "answer"), *_warnings(runs), paragraph(_about(runs, made), "about")]
    parts += [heading(2, "What are the figures?"), table_of(figures_table(runs), "Figures of each run")]
    parts += [heading(2, "What was lost, and what is left?"), '<div class="charts">', *map(chart, charts), "</div>"]
    parts += [*_predictions(runs), *_differences(runs)]
    parts += [heading(2, "How was each run made?"), *(_made(run, name) for run, name in _named(runs))]
    return document(title, parts, charts)


def _named(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    names = short_names(runs)
    return [(run, names[run.id]) for run in runs]


def _about(runs: Sequence[Run], made: datetime | None) -> str:
    """When and by what the report was made."""
    day = made or datetime.now().astimezone()
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return (
        f"{count}. Made on {day.day} {day:%B %Y} with offcomp {__version__}. This file holds everything it shows and asks "
        "nothing of a network."
    )


def _warnings(runs: Sequence[Run]) -> list[str]:
    """What keeps the answer from being fair, and what sizes do not say of themselves."""
    notes = [
        paragraph(f"{name}: {note}", "warning") for run, name in _named(runs) for note in size_notes(result_of(run)["groups"])
    ]
    names = model_names(runs)
    models = {names[run.id]: result_of(run)["model"] for run in runs}
    whole = [
        paragraph(f"{name}: {note}", "warning")
        for name, model in models.items()
        if (note := unlisted_words(model.get("unlisted", 0), model["sizes"]["whole"]["parameters_before"]))
    ]
    return [*notes, *whole, *(paragraph(sentence, "warning") for sentence in warnings_of(runs))]


def _charts(runs: Sequence[Run]) -> Iterator[Chart]:
    """The charts of the page Compare, each with its table."""
    yield from _fronts(runs)
    groups, modules = error_table(runs), error_table(runs, "module")
    if len(groups):
        yield _chart("errors", groups, partial(error_figure, level="group"), "Relative error of each group, one mark a run.")
    for index, (_, part) in enumerate(score_table(runs).groupby(["task", "metric"], sort=False)):
        yield _score_chart(f"score-{index}", runs, part)
    sizes = size_table(runs)
    for unit in UNITS:
        note = f"Share of the {unit} that is left of the chosen modules, of all linear and embedding weights, and of the model."
        title = f"How many {unit} are left to store?"
        yield _chart(f"{unit}-left", sizes[sizes["unit"] == unit], partial(size_figure, unit=unit), note, title)
    if len(modules) > len(groups):
        note = "Relative error of each module, one mark a run."
        yield _chart("module-errors", modules, partial(error_figure, level="module"), note)


def _fronts(runs: Sequence[Run]) -> Iterator[Chart]:
    """Score against size, a chart a task; relative error against size where no task was scored. Of one model's runs only."""
    measures = measures_of(runs)
    tasks, documents = [measure for measure in measures if measure != ERROR.name], list(read_measurements().values())
    for index, measure in enumerate(tasks or [ERROR.name]):
        shown, left_out = sharing_an_axis(runs, measure)
        if not shown or len({*model_titles(runs).values()}) > 1:
            continue
        names = short_names(runs)
        table = front_table(shown, measure, "bytes", names)
        references = reference_table(documents, shown[0], measure, "bytes")
        note = f"{front_answer(table)} {len(shown)} of {len(runs)} runs shown."
        note += f" Not on this axis: {left_out_text(left_out, names)}." if left_out else ""
        note += " Broken lines: bundled measurements of rounding every linear weight." if len(references) else ""
        title = f"Which run is best for its size on {within_sentence(measures[measure])}?" if tasks else ""
        chart = _chart(f"front-{index}", table, partial(_front, references=references), note, title)
        yield replace(chart, table=table[SHOWN].rename(columns={"size": "size in MB"}), wide=True)


def _front(table: pd.DataFrame, palette: Palette, references: pd.DataFrame) -> go.Figure:
    return front_figure(table, references, palette)


def _score_chart(name: str, runs: Sequence[Run], table: pd.DataFrame) -> Chart:
    task = str(table["task"].iloc[0])
    scores = scores_of(runs, table)
    note = f"{sentence_start(on_task(task, scores[0]))} of the original and of each run, with 95 % intervals. "
    return _chart(name, table, score_figure, note + visible_difference(scores))


def _chart(
    name: str, table: pd.DataFrame, figure: Callable[[pd.DataFrame, Palette], go.Figure], note: str, title: str = ""
) -> Chart:
    """A chart by its own title, or by this one."""
    question = title or html.unescape(figure(table, LIGHT).layout.title.text)
    shown = table.drop(columns=[*DRAWN_COLUMNS, "run"], errors="ignore")
    return Chart(name, question, shown, partial(figure, table), note.strip())


def _predictions(runs: Sequence[Run]) -> list[str]:
    """Which single predictions flipped or changed."""
    counts, flips, changes = flip_count_table(runs), flip_table(runs), change_table(runs)
    parts = []
    if len(counts):
        parts += [heading(2, "How many predictions flipped?"), table_of(counts.drop(columns="run"), "Flips of each run")]
        parts += [paragraph("Equal accuracies can hide many flips. p is that of McNemar's exact test.")]
    if len(flips):
        unknown = [] if flips["predicted"].any() else ["predicted"]
        shown = flips[FLIP_COLUMNS].drop(columns=unknown)
        parts += [heading(2, "Which predictions flipped?"), table_of(shown, "Flipped predictions")]
        parts += [
            paragraph("Before and after: the probability that the original and the compressed model give the true label.")
        ]
    if len(changes):
        shown = changes[["text", "truth", "before", "after", "difference", "name", "task"]]
        parts += [heading(2, "What changed most?"), table_of(shown, "Most changed examples")]
    written = continuation_table(runs)
    if len(written):
        shown = written[["opening", "original", "compressed", "same_tokens", "tokens", "name", "task"]]
        parts += [heading(2, "How do they go on from the same openings?"), table_of(shown, "Continuations")]
        parts += [paragraph("Both models write the likeliest token again and again; the first same tokens are counted.")]
    return parts


def _differences(runs: Sequence[Run]) -> list[str]:
    """What tells the runs apart, and folded away what is equal."""
    question = "What differs between the runs?" if len(runs) > 1 else "What is known of this run?"
    parts = [heading(2, question), table_of(difference_table(runs), question)]
    if len(runs) > 1:
        everything = table_of(difference_table(runs, show_all=True), "All properties of the runs")
        parts.append(details("What is equal as well", everything))
    return parts


def _made(run: Run, name: str) -> str:
    """Provenance of a run, and how to do it again."""
    result = result_of(run)
    versions, sampled = result["environment"], f", {OF_A_SAMPLE}" * run.of_a_sample
    listed = {
        "Run": label(run),
        "Run id": run.id,
        "Model": f"{run.plan.model}, fingerprint {result['model']['fingerprint'][:12]}{sampled}",
        "Seed": str(run.plan.seed),
        "Versions": ", ".join(f"{name} {versions[name]}" for name in VERSIONS if versions.get(name)),
        "Machine": ", ".join(f"{key} {versions[key]}" for key in ("machine", "device", "threads") if versions.get(key)),
        "Measured": f"{result['started']}, in {result['timings']['total']:.1f} seconds",
    }
    return "".join([heading(3, name), facts(listed), plan_text(run.plan.to_json(), f"plan-{run.id}.json")])
