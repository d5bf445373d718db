"""Tables and sentences about one weight matrix: what each rank of its SVD keeps, and where a reconstruction differs from it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from offcomp import __version__
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.planning.marchenko_pastur import random_spectrum
from offcomp.planning.matrix_view import Picture, View, block_starts
from offcomp.planning.spectrum import MatrixSpectrum

TENTHS = 10
MEDIANS = ("norm", "cosine", "norm_error")
SPECTRUM_COLUMNS = {
    "rank": "Rank",
    "singular_value": "Singular value",
    "energy_kept": "Energy kept",
    "relative_error": "Relative error",
    "stored_parameters": "Stored parameters",
    "stored_fraction": "Stored / original",
    "random_value": "Singular value, random",
    "random_energy_kept": "Energy kept, random",
}
"""Display names of the columns of `spectrum_table`."""


def break_even(rows: int, cols: int) -> float:
    """The rank at which two factors have as many parameters as the matrix: r * (rows + cols) = rows * cols."""
    return rows * cols / (rows + cols)


def spectrum_table(spectrum: MatrixSpectrum) -> pd.DataFrame:
    """One row per rank from 1 to min(rows, cols), with a random matrix of the same shape and norm for comparison."""
    rows, cols = spectrum.shape
    ranks = np.arange(1, min(rows, cols) + 1)
    squared_error = spectrum.squared_errors
    norm = float(np.sqrt(squared_error[0]))
    noise = random_spectrum(rows, cols, norm)
    lost = squared_error[1:] / squared_error[0] if norm > 0 else np.zeros(len(ranks))
    return pd.DataFrame(
        {
            "rank": ranks,
            "singular_value": spectrum.values.astype(np.float64),
            "energy_kept": 1 - lost,
            "relative_error": np.sqrt(lost),
            "stored_parameters": ranks * (rows + cols),
            "stored_fraction": ranks / break_even(rows, cols),
            "random_value": noise,
            "random_energy_kept": np.cumsum(noise**2) / norm**2 if norm > 0 else 1.0,
        }
    )


def spectrum_answer(table: pd.DataFrame, name: str, rank: int) -> str:
    """Describe in one or two sentences how compressible the matrix is."""
    chosen = table.iloc[rank - 1]
    if not table["singular_value"].any():
        return f"{name} contains only zeros, so every rank reproduces it exactly."
    kept, stored = percent(chosen["energy_kept"]), percent(chosen["stored_fraction"])
    start = f"At rank {rank} of {len(table)}, {name} keeps {kept} of its energy"
    noise = f"A random matrix of the same shape would keep {percent(chosen['random_energy_kept'])}."
    if chosen["stored_fraction"] < 1:
        return f"{start} and needs {stored} as many parameters. {noise}"
    saving = int((table["stored_fraction"] < 1).sum())
    why = f"from rank {saving + 1} on, nothing is saved" if saving else "for a matrix this narrow, no rank saves anything"
    return f"{start} but needs {stored} as many parameters: {why}. {noise}"


def percent(fraction: float) -> str:
    """Format a fraction as a whole percentage, with more digits only for values close to, but not exactly, 0 or 1."""
    value = 100 * float(fraction)
    if value in (0.0, 100.0) or 1 <= value <= 99 or value > 100:
        return f"{value:.0f} %"
    text = f"{value:.1f}" if 0.1 <= value <= 99.9 else f"{value:.2g}" if value < 1 else "more than 99.9"
    return f"{text} %"


def row_table(view: View, picture: Picture) -> pd.DataFrame:
    """The norm of each sampled row, and the cosine and norm error of its reconstruction; all-zero rows are left out.

    The norm error is the norm of the reconstructed row divided by that of the row, minus 1.
    """
    table = pd.DataFrame(
        {
            "row": view.sampled,
            "name": view.names,
            "norm": view.norms.astype(np.float64),
            "cosine": picture.cosines,
            "norm_error": picture.norm_ratios - 1,
        }
    )
    return table.dropna().reset_index(drop=True)


def median_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians of each tenth of the rows, from the shortest to the longest; fewer parts if rows are few."""
    values = rows[list(MEDIANS)].to_numpy()[rows["norm"].to_numpy().argsort(kind="stable")]
    parts = min(TENTHS, len(values) // 3)
    cuts = np.arange(parts + 1) * len(values) // max(1, parts)
    medians = [np.median(values[start:end], axis=0) for start, end in pairwise(cuts)]
    return pd.DataFrame(medians, columns=list(MEDIANS))


def rows_answer(rows: pd.DataFrame, view: View, method: str) -> str:
    """State in one sentence how well the rows keep their direction with a method, and which rows were sampled."""
    shown = len(view.sampled)
    which = f"all {shown:,} rows" if shown == view.rows else f"{shown:,} of {view.rows:,} rows, evenly spaced"
    zeros = shown - len(rows)
    left_out = f", {zeros} all-zero rows left out" if zeros else ""
    if rows.empty:
        return f"Every row is zero, so none has a direction ({which})."
    medians = median_table(rows)
    typical = f"With {method}, the median cosine is {rows['cosine'].median():.2f}"
    if len(medians) == TENTHS:
        first, last = medians["cosine"].iloc[[0, -1]]
        typical += f": {first:.2f} among the shortest tenth of rows, {last:.2f} among the longest"
    return f"{typical} ({which}{left_out})."


def block_table(view: View, picture: Picture) -> pd.DataFrame:
    """Energy (squared norm) of each block of rows or columns, and that of the residual.

    `first` and `last` are row or column indices in the order used by the view.
    """
    sides = (
        ("rows", view.row_energy, picture.rows_lost, view.rows),
        ("columns", view.column_energy, picture.columns_lost, view.cols),
    )
    parts = []
    for side, energy, lost, length in sides:
        starts = block_starts(length)
        part = {"side": side, "first": starts[:-1], "last": starts[1:] - 1}
        parts.append(pd.DataFrame(part | {"energy": energy.sum(1, dtype=np.float64), "residual": lost.astype(np.float64)}))
    table = pd.concat(parts, ignore_index=True)
    table["relative_error"] = np.sqrt(table["residual"] / table["energy"].where(table["energy"] > 0, 1.0))
    return table


def blocks_answer(blocks: pd.DataFrame, order: str) -> str:
    """State in one sentence the energy of the residual, and which blocks of rows and columns lose the most."""
    rows = blocks[blocks["side"] == "rows"]
    energy, lost = float(rows["energy"].sum()), float(rows["residual"].sum())
    if lost <= 1e-9 * energy:
        return "The residual is zero: the matrix is kept in full."
    words = f"The residual contains {percent(lost / energy)} of the energy"
    worst = []
    for side in ("rows", "columns"):
        part = blocks[(blocks["side"] == side) & (blocks["energy"] > 0)]
        if len(part) > 1:
            block = part.iloc[int(part["relative_error"].to_numpy().argmax())]
            first, last = int(block["first"]), int(block["last"])
            which = f"{side.removesuffix('s')} {first:,}" if first == last else f"{side} {first:,} to {last:,}"
            worst.append(f"{percent(block['relative_error'] ** 2)} of {which}")
    counted = " (numbered from the longest)" if order == "norm" else ""
    return f"{words}; the largest losses are {' and '.join(worst)}{counted}." if worst else f"{words}."


def exported(table: pd.DataFrame, info: ModelInfo, spec: ModuleSpec) -> pd.DataFrame:
    """Add the model, module and offcomp version to each row of a table for export."""
    return table.assign(model=info.model, fingerprint=info.fingerprint, module=spec.name, offcomp=__version__)
