"""Tables, summaries and charts of the individual predictions that changed, for one run or two runs side by side.

`run.json` lists every flipped prediction and, for tasks without classes, the examples that changed most. Unchanged predictions
are only counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from offcomp.numerics.paired_tests import mcnemar_p
from offcomp.planning.data.scores import Score
from offcomp.results.charts.dots import SYMBOLS
from offcomp.results.charts.style import axis_title, literal_text, styled, text_trace
from offcomp.results.charts.theme import Palette, marker
from offcomp.results.paired import change_table, flip_table, paired_difference
from offcomp.results.runs import method_title, result_of, style_key_of
from offcomp.results.scores import against_original, difference_text, metric_of, on_task, score_text
from offcomp.runs.store import Run

STAYED_RIGHT, LOST, WON, STAYED_WRONG = "stayed right", "right to wrong", "wrong to right", "stayed wrong"
CELLS = {STAYED_RIGHT: ("right", "right"), LOST: ("right", "wrong"), WON: ("wrong", "right"), STAYED_WRONG: ("wrong", "wrong")}
"""The answers before and after compression, by outcome."""
LISTED = (LOST, WON)
TOP_PIXELS = 44


def has_classes(score: Score) -> bool:
    """Whether the task has classes, which means that each answer is either right or wrong."""
    return score.flips is not None


def score_of(run: Run, task: str) -> Score:
    """The score of a run on one of its tasks."""
    return result_of(run).scores[task]


def outcome_table(score: Score) -> pd.DataFrame:
    """One row per outcome in CELLS: the answer before and after, the number and share of answers, and how many are listed."""
    n, (lost, won) = score.compressed.n, _flip_counts(score)
    right = round(score.original.value * n)
    counts = {STAYED_RIGHT: right - lost, LOST: lost, WON: won, STAYED_WRONG: n - right - won}
    listed = {change: len(score.flips.of(change)) for change in LISTED if score.flips}
    rows = [(change, *CELLS[change], count, count / n, listed.get(change, 0)) for change, count in counts.items()]
    return pd.DataFrame(rows, columns=["change", "before", "after", "count", "share", "listed"])


def _flip_counts(score: Score) -> tuple[int, int]:
    """How many answers changed from right to wrong, and from wrong to right."""
    return score.paired.right_to_wrong or 0, score.paired.wrong_to_right or 0


def unlisted_text(table: pd.DataFrame, score: Score, chosen: Sequence[str]) -> str:
    """State how many answers with the chosen outcomes are counted but not listed; empty if all are listed."""
    part = table[table["change"].isin(chosen)]
    missing = int((part["count"] - part["listed"]).sum())
    if not missing:
        return ""
    total = int(part["count"].sum())
    text = f"Texts are only recorded for flipped answers: {missing:,} of {total:,} selected answers are counted but not listed."
    changed = round((1 - (score.paired.agreement or 0.0)) * score.compressed.n)
    otherwise_wrong = changed - sum(_flip_counts(score))
    if STAYED_WRONG in chosen and otherwise_wrong > 0:
        text += f" {otherwise_wrong:,} of the answers that stayed wrong are now wrong in another way."
    return text


def outcome_figure(table: pd.DataFrame, chosen: Sequence[str], palette: Palette) -> go.Figure:
    """Draw the four outcomes as a 2 x 2 table, with losses in red, gains in blue and the chosen outcomes outlined."""
    worse, same, better = palette.diverging
    colours = {LOST: worse, WON: better}
    figure = go.Figure()
    for row in table.to_dict("records"):
        x, y = int(row["after"] == "wrong"), int(row["before"] == "wrong")
        ends = {"x0": x - 0.48, "x1": x + 0.48, "y0": y - 0.47, "y1": y + 0.47}
        frame = {"color": palette.text, "width": 3} if row["change"] in chosen else {"color": palette.grid, "width": 1}
        figure.add_shape(type="rect", **ends, fillcolor=colours.get(row["change"], same), line=frame, layer="below")
    texts = [f"<b>{row['count']:,}</b><br>{row['change']}<br>{100 * row['share']:.1f} %" for row in table.to_dict("records")]
    columns, rows = ((table[name] == "wrong").astype(int) for name in ("after", "before"))
    figure.add_trace(text_trace(columns, rows, texts, palette))
    axis = {"tickvals": [0, 1], "ticktext": ["right", "wrong"], "showgrid": False, "zeroline": False, "fixedrange": True}
    return styled(
        figure,
        palette,
        title="How did the answers change?",
        height=270,
        xaxis=axis | {"title": axis_title("compressed"), "range": [-0.52, 1.52]},
        yaxis=axis | {"title": axis_title("original"), "range": [1.52, -0.52]},
        margin={"t": TOP_PIXELS},
    )


def outcome_answer(run: Run, task: str) -> str:
    """Summarise in one sentence how many answers flipped each way, the effect on the score, and McNemar's p-value."""
    score = score_of(run, task)
    n, (lost, won) = score.compressed.n, _flip_counts(score)
    if not lost + won:
        return f"{method_title(run)} changed none of {n:,} answers from right to wrong or vice versa."
    return (
        f"{method_title(run)} changed {lost + won:,} of {n:,} answers: {lost} from right to wrong, {won} from wrong to right; "
        f"{against_original(score)} (McNemar p {written_p(mcnemar_p(lost, won))})."
    )


def written_p(p: float) -> str:
    """Format a p-value for use in a sentence: "= .42" or "< .001"."""
    return "< .001" if p < 0.001 else f"= {p:.2g}".replace("0.", ".", 1) if p < 1 else "= 1"


def shift_table(run: Run, task: str) -> pd.DataFrame:
    """One row per listed example, largest difference first: text, true value or label, before, after and difference.

    before, after    the probability of the true label; a similarity or predicted score; or a loss in nats per token
    """
    table = (flip_table if has_classes(score_of(run, task)) else change_table)([run])
    table = table[table["task"] == task].reset_index(drop=True)
    return table.rename(columns={"label": "truth"}) if "label" in table else table.assign(change="", predicted="")


def found_in(table: pd.DataFrame, words: str) -> pd.DataFrame:
    """The rows whose text contains the phrase `words`, ignoring case."""
    return table[table["text"].str.contains(words.strip(), case=False, regex=False)] if words.strip() else table


def shift_words(score: Score) -> str:
    """What the values in the columns `before` and `after` measure."""
    return "probability of the true label" if has_classes(score) else metric_of(score).example


def shift_figure(table: pd.DataFrame, run: Run, score: Score, palette: Palette) -> go.Figure:
    """Plot `after` against `before` with one marker per example. Examples on the dotted line did not change.

    For a fidelity task, where all `before` values are equal, the examples are plotted in order instead.
    """
    colour, symbol = palette.colour(style_key_of(run)), marker(style_key_of(run), SYMBOLS)
    values = pd.concat([table["before"], table["after"]])
    margin = 0.06 * ((values.max() - values.min()) or 1.0)
    ends = [values.min() - margin, values.max() + margin]
    what, ranked = shift_words(score), metric_of(score).fidelity
    figure = go.Figure()
    line = {"color": palette.muted, "width": 1, "dash": "dot"}
    if ranked:
        figure.add_hline(y=metric_of(score).perfect, line=line)
    else:
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip")
    change = "%{y:.3f}" if ranked else "%{x:.3f} to %{y:.3f} (%{customdata[1]})"
    figure.add_scatter(
        x=list(range(1, len(table) + 1)) if ranked else table["before"],
        y=table["after"],
        mode="markers",
        marker={"symbol": symbol, "size": 9, "color": colour, "line": {"width": 1, "color": palette.surface}},
        customdata=list(zip(map(_brief, table["text"]), map("{:+.3f}".format, table["difference"]), strict=True)),
        hovertemplate="%{customdata[0]}<br>" + change + "<extra></extra>",
    )
    across = {"title": axis_title(f"{what}, original"), "range": ends, "zeroline": False}
    return styled(
        figure,
        palette,
        title="How much did each example change?",
        height=400,
        xaxis={"title": axis_title("examples, most changed first")} if ranked else across,
        yaxis={"title": axis_title(f"{what},<br>compressed"), "range": ends, "zeroline": False},
        margin={"t": TOP_PIXELS},
    )


def _brief(text: str, longest: int = 60) -> str:
    """The start of an example's text, for the hover text."""
    one_line = " ".join(text.split())
    return str(literal_text(one_line if len(one_line) <= longest else one_line[: longest - 1] + "…"))


def shift_answer(run: Run, task: str) -> str:
    """Summarise in one sentence how the score of a task without classes changed, and which way the listed examples moved."""
    score, table = score_of(run, task), shift_table(run, task)
    text = (
        f"{method_title(run)} changed {on_task(task, score)} from {score_text(score, 'original')} to {score_text(score)}: "
        f"{against_original(score)}"
    )
    if table.empty:
        return f"{text}; no individual example changed."
    if metric_of(score).fidelity:
        nearest, furthest = (f"{table['after'].iloc[i]:.3f}" for i in (-1, 0))
        return f"{text}; the {len(table)} examples that changed most have a {shift_words(score)} of {furthest} to {nearest}."
    up = int((table["difference"] > 0).sum())
    what = "loss" if metric_of(score).direction == "lower" else "score"
    return f"{text}; among the {len(table)} examples that changed most, the {what} rose in {up} and fell in {len(table) - up}."


def joint_table(first: Run, second: Run, task: str) -> pd.DataFrame:
    """One row per example listed by either run, with the values for the original and both runs, largest difference first.

    Both runs must have been scored on the same examples. A value is missing if its run does not list the example: either the
    run gave the same answer as the original, or, on a task without classes, other examples changed more.
    """
    tables = [shift_table(run, task).drop_duplicates("text").set_index("text") for run in (first, second)]
    texts = list(dict.fromkeys(text for table in tables for text in table.index))
    first_listed, second_listed = (table.reindex(texts) for table in tables)
    both = pd.DataFrame(
        {
            "truth": first_listed["truth"].combine_first(second_listed["truth"]),
            "original": first_listed["before"].combine_first(second_listed["before"]),
            "first": first_listed["after"],
            "second": second_listed["after"],
        },
        index=pd.Index(texts, name="text"),
    )
    both["difference"] = both["second"].fillna(both["original"]) - both["first"].fillna(both["original"])
    if has_classes(score_of(first, task)):
        for name, listed in (("first", first_listed), ("second", second_listed)):
            both[f"{name}_flip"] = listed["change"].fillna("same as the original")
    return both.sort_values("difference", key=abs, ascending=False, kind="stable").reset_index()


def joint_words(table: pd.DataFrame) -> pd.DataFrame:
    """Format a `joint_table` for display, with the result of each run as text, even for examples that the run does not list."""
    shown = table.copy()
    for name in ("first", "second"):
        missing = "" if f"{name}_flip" in table else "not listed"
        texts = [missing if pd.isna(value) else f"{value:.3f}" for value in table[name]]
        flips = table.get(f"{name}_flip", [""] * len(table))
        shown[name] = [", ".join(filter(None, pair)) for pair in zip(flips, texts, strict=True)]
    return shown


def joint_answer(first: Run, second: Run, names: tuple[str, str], task: str) -> str:
    """State how many examples the two runs differ on, and how often each run is right."""
    score, table = score_of(first, task), joint_table(first, second, task)
    if not has_classes(score):
        shared = int(table[["first", "second"]].notna().all(axis=1).sum())
        return f"Of the examples that changed most, {shared} are listed by both runs and {len(table) - shared} by only one."
    flipped = [table[f"{name}_flip"] for name in ("first", "second")]
    signs = [flips.map({LOST: -1, WON: 1}).fillna(0) for flips in flipped]
    ahead, behind = (int((signs[a] > signs[b]).sum()) for a, b in ((0, 1), (1, 0)))
    n = score.compressed.n
    text = f"On {ahead + behind:,} of {n:,} examples, one run is right and the other wrong: {names[0]} is right on {ahead}, "
    text += f"{names[1]} on {behind}"
    difference = paired_difference(first, second, task)
    if difference is None:
        return f"{text}."
    metric = metric_of(score)
    return f"{text}. The difference in {metric.word} is {difference_text(metric, *difference)}."
