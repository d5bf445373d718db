"""Predictions for a plan: SVD's exact error at each ratio, and each group's sizes. Does not need torch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan
from offcomp.planning.sizes import GroupPrediction, Prediction, predict
from offcomp.planning.spectrum import Spectrum, relative_error

CURVE_COLUMNS = ("requested_ratio", "ratio", "relative_error", "stored_parameters", "stored_megabytes")


def error_curve_table(info: ModelInfo, plan: Plan, spectra: Sequence[Spectrum], ratios: Sequence[float]) -> pd.DataFrame:
    """SVD's exact relative error over all chosen weights at each requested ratio, and the resulting size.

    `spectra` contains one entry per group of the plan. The column `ratio` is the achieved ratio, in the unit of the groups.
    Requested ratios that at least one group cannot reach are omitted.
    """
    rows = []
    for ratio in ratios:
        prediction = predict(plan.replace(groups=tuple(group.at_ratio(ratio) for group in plan.groups)), info)
        if prediction.feasible:
            error, stored = svd_error(spectra, prediction), prediction.model.chosen
            achieved = stored.ratio(plan.groups[0].unit)
            rows.append((ratio, achieved, error, stored.parameters_after, stored.bytes_after / 1e6))
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def svd_error(spectra: Sequence[Spectrum], prediction: Prediction) -> float:
    """Relative error of SVD over all chosen weights, at the predicted ranks."""
    return relative_error(spectra, [group.size if group.form != "dense" else None for group in prediction.groups])


def prediction_table(groups: Sequence[GroupPrediction], spectra: Sequence[Spectrum] | None = None) -> pd.DataFrame:
    """One row per group: rank or latent width, sizes, ratio, break-even and, with `spectra`, SVD's error where feasible."""
    rows = []
    for index, group in enumerate(groups):
        row = {
            "group": group.name,
            "matrix": f"{group.rows} x {group.cols}",
            group.size_name: str(group.size) if group.form == "compressed" else group.form,
            "stored parameters": group.num_parameters,
            "stored kB": group.num_bytes / 1e3,
            "compression ratio": group.compression_ratio,
            f"break-even {group.size_name}": group.break_even_size,
            "note": group.note,
        }
        if spectra is not None:
            rank = None if group.form == "dense" else group.size
            row["relative error"] = None if group.form == "infeasible" else relative_error([spectra[index]], [rank])
        rows.append(row)
    return pd.DataFrame(rows).fillna({"rank": "", "latent width": ""})
