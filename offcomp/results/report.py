"""Exports comparisons as tables with full provenance, and as a self-contained HTML report that can be opened from disk."""

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
from offcomp.errors import InputError
from offcomp.planning.data.row_counts import calibration_reading
from offcomp.planning.size_notes import size_notes, unlisted_note
from offcomp.results import pareto
from offcomp.results.atlas import read_measurements
from offcomp.results.charts.pareto import front_figure
from offcomp.results.charts.runs import UNITS, error_figure, error_table, size_figure, size_table
from offcomp.results.charts.scores import score_figure, score_table, scores_of
from offcomp.results.charts.theme import LIGHT, Palette
from offcomp.results.continuations import continuation_table
from offcomp.results.originals import model_names, model_titles
from offcomp.results.paired import change_table, flip_count_table, flip_table
from offcomp.results.report_page import Chart, document
from offcomp.results.runs import (
    VERSIONS,
    difference_table,
    fingerprint_of,
    label,
    model_of,
    result_of,
    run_table,
    short_names,
    warnings_of,
    with_provenance,
)
from offcomp.results.scores import figure_texts, on_task, sentence_start, visible_difference, within_sentence
from offcomp.results.sentences import answer, megabytes, smaller
from offcomp.runs.result import Environment
from offcomp.runs.store import OF_A_SAMPLE, Run

DRAWN_COLUMNS = ["style_key", "symbol"]  # only affect how a row is drawn
MAX_ABREAST = 4
FLIP_COLUMNS = ["text", "label", "predicted", "before", "after", "difference", "name", "change", "task"]
CHANGE_COLUMNS = ["text", "truth", "before", "after", "difference", "name", "task"]
CONTINUATION_COLUMNS = ["opening", "original", "compressed", "same_tokens", "tokens", "name", "task"]
COUNTS_NOTE = "Equal accuracies can hide many flips. p is the p-value of McNemar's exact test."
FLIPS_NOTE = "Before and after are the probabilities that the original and the compressed model assign to the true label."
CONTINUATIONS_NOTE = 'Both models use greedy decoding. "Same tokens" is the number of leading tokens on which they agree.'
SOMETIMES_EMPTY = ("flips", "changes", "continuations")  # depending on the type of task
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
    """Every table of a comparison, by name; each row includes its run, plan, seed and versions."""
    return {name: comparison_table(runs, name) for name in table_names(runs)}


def table_names(runs: Sequence[Run]) -> list[str]:
    """The names of the tables in a comparison of these runs."""
    return [name for name, make in TABLES.items() if name not in SOMETIMES_EMPTY or len(make(runs))]


def comparison_table(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """The table with this name in a comparison."""
    return with_provenance(TABLES[name](runs).drop(columns=DRAWN_COLUMNS, errors="ignore"), runs)


def comparison_document(runs: Sequence[Run]) -> dict[str, Any]:
    """The tables of a comparison as JSON values, each a list of rows."""
    tables = comparison_tables(runs)
    return {name: json.loads(table.to_json(orient="records", double_precision=15)) for name, table in tables.items()}


def figures_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Stored sizes, errors and scores of runs, as text: one row per figure, one column per run; transposed for many runs."""
    rows = run_table(runs).to_dict("records")
    table = pd.DataFrame([_figures(run, row) for run, row in zip(runs, rows, strict=True)]).fillna("")
    if len(runs) > MAX_ABREAST:
        return table
    return table.set_index("Run").T.rename_axis("Figure", axis="index").rename_axis(None, axis="columns").reset_index()


def _figures(run: Run, row: Mapping[Hashable, Any]) -> dict[str, str]:
    """The figures of one run, based on its row in `run_table`."""
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
    for task, score in result_of(run).scores.items():
        figures |= figure_texts(task, score)
    if reading := calibration_reading(group.calibration for group in result_of(run).groups):
        figures["Read for calibration"] = reading
    return figures


def html_report(runs: Sequence[Run], *, created: datetime | None = None) -> str:
    """Create a report on finished runs as a self-contained HTML file. Raises InputError if there are no runs.

    created   when the report was created; now by default
    """
    if not runs:
        raise InputError("a report needs at least one finished run; choose one")
    models = list(dict.fromkeys(model_names(runs).values()))
    question = "How well does compression preserve" if len(runs) == 1 else "Which method keeps more of"
    title = f"{question} {models[0] if len(models) == 1 else 'the model'}?"
    return document(
        list(_charts(runs)),
        title=title,
        answer=answer(runs),
        warnings=_warnings(runs),
        created=created or datetime.now().astimezone(),
        version=__version__,
        figures=figures_table(runs),
        predictions=_predictions(runs),
        differences=difference_table(runs),
        properties=difference_table(runs, show_all=True),
        runs=[_provenance(run, name) for run, name in zip(runs, short_names(runs).values(), strict=True)],
    )


def _warnings(runs: Sequence[Run]) -> list[str]:
    """Caveats about the fairness of the comparison, and about what the sizes leave out."""
    names = short_names(runs)
    texts = [f"{names[run.id]}: {note}" for run in runs for note in size_notes(result_of(run).groups)]
    models = model_names(runs)
    for name, model in {models[run.id]: model_of(run) for run in runs}.items():
        if note := unlisted_note(model.unlisted, model.sizes.whole.parameters_before):
            texts.append(f"{name}: {note}")
    return [*texts, *warnings_of(runs)]


def _charts(runs: Sequence[Run]) -> Iterator[Chart]:
    """The charts of the Compare page, each with its table."""
    yield from _fronts(runs)
    groups, modules = error_table(runs), error_table(runs, "module")
    if len(groups):
        yield _chart("errors", groups, partial(error_figure, level="group"), "Relative error by group, one marker per run.")
    for index, (_, part) in enumerate(score_table(runs).groupby(["task", "metric"], sort=False)):
        yield _score_chart(f"score-{index}", runs, part)
    sizes = size_table(runs)
    for unit in UNITS:
        note = f"Share of {unit} that remains in the chosen modules, all linear and embedding weights, and the whole model."
        title = f"How many {unit} are left after compression?"
        yield _chart(f"{unit}-left", sizes[sizes["unit"] == unit], partial(size_figure, unit=unit), note, title)
    if len(modules) > len(groups):
        note = "Relative error by module, one marker per run."
        yield _chart("module-errors", modules, partial(error_figure, level="module"), note)


def _fronts(runs: Sequence[Run]) -> Iterator[Chart]:
    """For each task, yield a chart of score against size; without tasks, one of error. None if the models differ."""
    measures = pareto.measures_of(runs)
    tasks, documents = [measure for measure in measures if measure != pareto.ERROR.name], list(read_measurements().values())
    for index, measure in enumerate(tasks or [pareto.ERROR.name]):
        shown, left_out = pareto.sharing_an_axis(runs, measure)
        if not shown or len({*model_titles(runs).values()}) > 1:
            continue
        names = short_names(runs)
        table = pareto.front_table(shown, measure, "bytes", names)
        references = pareto.reference_table(documents, shown[0], measure, "bytes")
        note = f"{pareto.front_answer(table)} {len(shown)} of {len(runs)} runs shown."
        note += f" Not on this axis: {pareto.left_out_text(left_out, names)}." if left_out else ""
        note += " Dashed lines: bundled measurements with every linear weight rounded." if len(references) else ""
        title = f"Which run does best on {within_sentence(measures[measure])} for its size?" if tasks else ""
        chart = _chart(f"front-{index}", table, partial(front_figure, references=references), note, title)
        yield replace(chart, table=table[pareto.SHOWN].rename(columns={"size": "size in MB"}), wide=True)


def _score_chart(name: str, runs: Sequence[Run], table: pd.DataFrame) -> Chart:
    task = str(table["task"].iloc[0])
    scores = scores_of(runs, table)
    note = f"{sentence_start(on_task(task, scores[0]))} of the original and of each run, with 95 % intervals. "
    return _chart(name, table, score_figure, note + visible_difference(scores))


def _chart(
    name: str, table: pd.DataFrame, figure: Callable[[pd.DataFrame, Palette], go.Figure], note: str, title: str = ""
) -> Chart:
    """A chart with this title, or with the title of its figure if none is given."""
    question = title or html.unescape(figure(table, LIGHT).layout.title.text)
    shown = table.drop(columns=[*DRAWN_COLUMNS, "run"], errors="ignore")
    return Chart(name, question, shown, partial(figure, table), note.strip())


def _predictions(runs: Sequence[Run]) -> list[tuple[str, pd.DataFrame, str, str]]:
    """(question, table, table description, note) for each section on individual predictions. A table may be empty."""
    flips, counts = flip_table(runs), flip_count_table(runs).drop(columns="run")
    changes, continued = change_table(runs)[CHANGE_COLUMNS], continuation_table(runs)[CONTINUATION_COLUMNS]
    flips = flips[FLIP_COLUMNS].drop(columns=[] if flips["predicted"].any() else ["predicted"])
    return [
        ("How many predictions flipped?", counts, "Number of flips in each run", COUNTS_NOTE),
        ("Which predictions flipped?", flips, "Flipped predictions", FLIPS_NOTE),
        ("What changed most?", changes, "Most changed examples", ""),
        ("How do the models continue the same prompts?", continued, "Continuations", CONTINUATIONS_NOTE),
    ]


def _provenance(run: Run, name: str) -> dict[str, Any]:
    """The provenance of a run, and how to reproduce it."""
    result = result_of(run)
    environment, sampled = result.environment, f", {OF_A_SAMPLE}" * run.of_a_sample
    facts = {
        "Run": label(run),
        "Run id": run.id,
        "Model": f"{run.plan.model}, fingerprint {fingerprint_of(run)[:12]}{sampled}",
        "Seed": str(run.plan.seed),
        "Versions": _listed(environment, VERSIONS),
        "Machine": _listed(environment, ("machine", "device", "threads")),
        "Measured": f"{result.started}, in {result.timings['total']:.1f} seconds",
    }
    return {"name": name, "facts": facts, "plan": run.plan.to_json(), "file": f"plan-{run.id}.json"}


def _listed(environment: Environment, names: Sequence[str]) -> str:
    """The known values for these names, each preceded by its name."""
    return ", ".join(f"{name} {environment.get(name)}" for name in names if environment.get(name))
