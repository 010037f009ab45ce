"""Figures of a report, as SVG text."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_WRITTEN = 20  # classes up to which counts are written into the cells
_SHOWN = 40  # classes up to which the whole matrix is drawn
_BLUE, _ORANGE = "#2f6690", "#d1603d"


def confusion(matrix: np.ndarray, classes: list[str]) -> str:
    """(K, K) counts, rows the truth -> SVG. Colour is the share of the row. With many classes the most confused ones are drawn."""
    title = ""
    if len(classes) > _SHOWN:
        wrong = (matrix - np.diag(np.diag(matrix))).sum(0) + (matrix - np.diag(np.diag(matrix))).sum(1)
        shown = np.sort(np.argsort(-wrong, kind="stable")[:_WRITTEN])
        matrix, title = matrix[np.ix_(shown, shown)], f"the {_WRITTEN} most confused of {len(classes)} classes"
        classes = [classes[place] for place in shown]
    side = 2.2 + 0.42 * len(classes)
    figure = Figure(figsize=(side, side))
    axes = figure.add_subplot()
    totals = np.maximum(1, matrix.sum(1, keepdims=True))
    axes.imshow(matrix / totals, cmap="Blues", vmin=0, vmax=1)
    names = [name if len(name) <= 24 else name[:23] + "…" for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(xlabel="answer", ylabel="truth", title=title)
    if len(classes) <= _WRITTEN:
        for row, column in np.argwhere(matrix):
            dark = matrix[row, column] / totals[row, 0] > 0.55
            ink = "white" if dark else "#222222"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=ink, fontsize=9)
    return _svg(figure)


def curves(rows: list[dict[str, Any]]) -> str:
    """Rows of metrics.jsonl -> SVG: losses on the left, validation numbers on the right."""
    figure = Figure(figsize=(9, 3.2))
    left, right = figure.subplots(1, 2)
    for name, colour in (("train_loss", _ORANGE), ("val_loss", _BLUE)):
        _line(left, rows, name, colour)
    for name in [name for name in rows[-1] if name.startswith("val_") and name != "val_loss"]:
        _line(right, rows, name, _BLUE)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend(frameon=False)
    return _svg(figure)


def _line(axes: Any, rows: list[dict[str, Any]], name: str, colour: str) -> None:
    points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=name)


def _svg(figure: Figure) -> str:
    """The same bytes for the same figure; letters without a glyph in the font are drawn as boxes, silently."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "foveate", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
