"""Predictions and runs formatted as plain text for the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offcomp.models.catalogue import ModelInfo
from offcomp.planning.data.row_counts import calibration_reading, reading_text
from offcomp.planning.data.scores import Score
from offcomp.planning.model_sizes import ModelSizes, SizeChange
from offcomp.planning.plan import Plan
from offcomp.planning.size_notes import size_notes, unlisted_note
from offcomp.planning.sizes import predict
from offcomp.results.runs import DENOMINATORS
from offcomp.results.scores import against_original, metric_of, notes, others_text, score_text
from offcomp.results.sentences import smaller
from offcomp.runs.store import OF_A_SAMPLE, Run


def format_table(rows: Sequence[Mapping[Any, Any]]) -> str:
    """Format rows as aligned columns under a header; numbers are right-aligned and empty columns are omitted."""
    if not rows:
        return ""
    keys = [key for key in rows[0] if any(row[key] not in ("", None) for row in rows)]
    numeric = {key: all(isinstance(row[key], (int, float)) for row in rows) for key in keys}
    cells = [[_cell(row[key]) for key in keys] for row in rows]
    widths = [max(len(key), *(len(line[i]) for line in cells)) for i, key in enumerate(keys)]
    lines = [keys, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numeric[key] else cell.ljust(width)
            for cell, width, key in zip(line, widths, keys, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def prediction_text(plan: Plan, info: ModelInfo) -> str:
    """A table of the predicted groups, followed by the three compression ratios and notes."""
    prediction = predict(plan, info)
    rows = [
        {
            "group": g.name,
            "matrix": f"{g.rows} x {g.cols}",
            "form": f"{g.size_name} {g.size}" if g.form == "compressed" else g.form,
            "stored parameters": g.num_parameters,
            "stored bytes": g.num_bytes,
            "ratio": f"{g.compression_ratio:.3f}",
            "break-even": g.break_even_size,
            "note": g.note,
        }
        for g in prediction.groups
    ]
    notes = [*prediction.notes, *filter(None, [unlisted_note(info.unlisted, info.num_parameters)])]
    return "\n\n".join([format_table(rows), sizes_text(prediction.model), *notes])


def sizes_text(sizes: ModelSizes) -> str:
    """The sizes and ratios, with one line for each of the three denominators."""
    return "\n".join(_change_text(title, sizes.of(key)) for key, title in DENOMINATORS.items())


def _change_text(title: str, size: SizeChange) -> str:
    parameters, num_bytes = smaller(size.parameter_ratio, ".2f"), smaller(size.byte_ratio, ".2f")
    return (
        f"{title}: {size.parameters_before:,} -> {size.parameters_after:,} parameters ({parameters}), "
        f"{size.bytes_before:,} -> {size.bytes_after:,} bytes ({num_bytes})"
    )


def run_text(run: Run) -> str:
    """Format the results of a run as text."""
    head = f"run {run.id}: {run.status_text}" + (f", {run.error}" if run.error else "")
    head += f"\nits model is {OF_A_SAMPLE}" * run.of_a_sample
    result = run.result
    if result is None or not result.groups:
        return head
    keys = ("name", "method", "size_name", "size", "compression_ratio", "num_parameters", "num_bytes", "relative_error")
    rows = [{key: getattr(group, key) for key in (*keys, "cosine_distance", "seconds")} for group in result.groups]
    lines = [head, "", format_table(rows), ""]
    if result.model:
        sizes = result.model.sizes
        lines += [sizes_text(sizes), ""]
        unlisted = unlisted_note(result.model.unlisted, sizes.whole.parameters_before)
        for note in [*size_notes(result.groups), *filter(None, [unlisted])]:
            lines += [note, ""]
    for task, score in result.scores.items():
        lines += [f"{task}: {score_line(score)}", *notes(task, score)]
    if reading := calibration_reading(group.calibration for group in result.groups):
        lines.append(f"calibration: {reading}")
    if result.corrections:
        lines.append(f"corrected: {run.plan.correct} ({len(result.corrections)} vectors of unchanged size)")
    return "\n".join(lines).rstrip()


def score_line(score: Score) -> str:
    """A task's score before and after compression, with 95 % intervals, and how the predictions changed."""
    metric, paired = metric_of(score), score.paired
    parts = [f"{metric.word} {score_text(score, 'original')} -> {score_text(score)}", against_original(score)]
    if paired.agreement is not None:
        parts.append(f"agreement {paired.agreement:.3f}")
    if paired.right_to_wrong is not None:
        parts.append(f"{paired.right_to_wrong} right to wrong, {paired.wrong_to_right} wrong to right")
    line = ", ".join([*parts, *others_text(score), f"n = {score.compressed.n}"])
    return "; ".join(filter(None, (line, reading_text(score))))
