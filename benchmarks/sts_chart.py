"""Draw what `benchmarks.sts --out FILE` measured: `python -m benchmarks.sts_chart FILE`.

Writes assets/images/similarity-light.png and -dark.png with the browser that the tests use.
"""

from __future__ import annotations

import json
import sys
from math import log10
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from playwright.sync_api import sync_playwright

from offcomp.charts import styled
from offcomp.theme import PALETTES, Palette
from tests.browser import launch_options

IMAGES = Path(__file__).parents[1] / "assets" / "images"
WIDTH, HEIGHT = 1000, 560
TICKS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
SERIES = {
    "codebook, calibrated": ("codebook", "square", "solid"),
    "codebook, data-free": ("codebook", "square-open", "dot"),
    "SVD, whole model, int8": ("svd", "circle", "solid"),
    "SVD, whole model, float16": ("svd", "circle", "dash"),
    "SVD, whole model, float32": ("svd", "circle", "dot"),
}


def similarity_table(document: dict[str, Any]) -> pd.DataFrame:
    """One row a measured point: series, how many times fewer bytes the whole model takes, score and its interval."""
    rows = []
    original = next(row["spearman"] for row in document["rows"] if row["series"] == "original")
    for row in document["rows"]:
        storage = row["stored"].rpartition(", ")[2]
        names = {
            "codebook": row["stored"].rpartition(", ")[0],
            "svd": f"SVD, whole model, {storage}" if "whole" in row["stored"] else "SVD, linear weights alone",
            "quantization": row["stored"].partition(",")[0],
        }
        if row["series"] in names:
            bounds = {"low": original + row["low"], "high": original + row["high"]}
            rows.append({"series": names[row["series"]], "ratio": row["ratio"], "spearman": row["spearman"]} | bounds)
    return pd.DataFrame(rows).sort_values(["series", "ratio"], ignore_index=True)


def similarity_figure(table: pd.DataFrame, original: float, pairs: int, palette: Palette) -> go.Figure:
    """Score against whole-model bytes; the original is a line, integers are labelled points."""
    figure = go.Figure()
    for name, (role, marker, dash) in SERIES.items():
        points = table[table["series"] == name]
        figure.add_scatter(
            x=points["ratio"],
            y=points["spearman"],
            error_y={"array": points["high"] - points["spearman"], "arrayminus": points["spearman"] - points["low"]},
            mode="lines+markers",
            name=name,
            line={"color": palette.roles[role], "dash": dash},
            marker={"symbol": marker, "size": 10},
        )
    integers = table[table["series"].str.startswith("int")]
    figure.add_scatter(
        x=integers["ratio"],
        y=integers["spearman"],
        text=integers["series"],
        mode="lines+markers+text",
        name="row-wise integers",
        textposition="bottom left",
        line={"color": palette.roles["reference"], "dash": "dash"},
        marker={"symbol": "x", "size": 8},
    )
    figure.add_hline(y=original, line={"color": palette.roles["original"], "width": 1}, annotation_text="original model")
    figure.update_xaxes(type="log", title="times fewer bytes, whole model (log; right is better)")
    figure.update_xaxes(tickvals=TICKS, ticktext=[f"{tick}x" for tick in TICKS], range=[log10(1.8), log10(23)])
    figure.update_yaxes(title=f"Spearman on {pairs} pairs (up is better)", range=[0.3, 0.86])
    title = "How much sentence similarity is left when the whole model is stored in fewer bytes?"
    return styled(figure, palette, title=title, height=HEIGHT)


def main(file: str) -> None:
    """Draw both themes."""
    document = json.loads(Path(file).read_text())
    table = similarity_table(document)
    original = next(row["spearman"] for row in document["rows"] if row["series"] == "original")
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options())
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for theme, palette in PALETTES.items():
            figure = similarity_figure(table, original, document["pairs"], palette)
            figure.update_layout(
                paper_bgcolor=palette.surface,
                plot_bgcolor=palette.surface,
                margin={"l": 70, "t": 110, "r": 30},
                title_pad={"l": 20},
            )
            html = Path(folder) / f"{theme}.html"
            figure.write_html(html, config={"displayModeBar": False}, default_width=WIDTH, default_height=HEIGHT)
            page.goto(html.as_uri())
            page.add_style_tag(content="body { margin: 0 }")
            page.wait_for_timeout(1500)
            page.screenshot(path=IMAGES / f"similarity-{theme}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
