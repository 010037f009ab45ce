"""Figures of a report, as SVG text."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foveate.types import Score

_WRITTEN = 20  # classes up to which counts are written into the cells
_SHOWN = 40  # classes up to which the whole matrix is drawn
_LINES = 20  # classes up to which each has a curve
_HUES = (
    "#2f6690",
    "#d1603d",
    "#4f9d69",
    "#8e5aa8",
    "#c79a1b",
    "#3aa6b9",
    "#c2477f",
    "#7a5c42",
    "#7f8c99",
    "#93b13a",
)
_DASHES = ("-", (0, (4, 1.6)))  # the second ten classes
_BLUE, _ORANGE = "#2f6690", "#d1603d"
_LOOKS: dict[str, dict[str, Any]] = {  # of the averages of weights, the later ones on top
    "averages": {"color": _BLUE, "marker": "o", "markersize": 4, "linewidth": 1.4},
    "single runs": {"color": "#7f8c99", "marker": "o", "markersize": 6, "linestyle": "none"},
    "left out": {"color": "#7f8c99", "marker": "x", "markersize": 6, "linestyle": "none"},
    "start": {"color": "#222222", "marker": "s", "markersize": 7, "linestyle": "none"},
    "end": {"color": "#222222", "marker": "D", "markersize": 7, "linestyle": "none"},
    "chosen": {
        "color": _ORANGE,
        "marker": "o",
        "markersize": 15,
        "fillstyle": "none",
        "markeredgewidth": 2,
        "linestyle": "none",
    },
}
Spot = tuple[Score, Score]  # across and up


def confusion_matrix(matrix: np.ndarray, classes: list[str]) -> str:
    """(K, K) counts, rows the truth -> SVG. Colour is the share of the row. With many classes the most confused ones are drawn."""
    title = ""
    if len(classes) > _SHOWN:
        wrong = (matrix - np.diag(np.diag(matrix))).sum(0) + (
            matrix - np.diag(np.diag(matrix))
        ).sum(1)
        shown = np.sort(np.argsort(-wrong, kind="stable")[:_WRITTEN])
        matrix, title = (
            matrix[np.ix_(shown, shown)],
            f"the {_WRITTEN} most confused of {len(classes)} classes",
        )
        classes = [classes[place] for place in shown]
    side = 2.2 + 0.42 * len(classes)
    figure = Figure(figsize=(side, side))
    axes = figure.add_subplot()
    totals = np.maximum(1, matrix.sum(1, keepdims=True))
    axes.imshow(matrix / totals, cmap="Blues", vmin=0, vmax=1)
    names = [_shortened(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(xlabel="answer", ylabel="truth", title=title)
    if len(classes) <= _WRITTEN:
        size = 9 if matrix.max(initial=0) < 1000 else 7.5
        for row, column in np.argwhere(matrix):
            dark = matrix[row, column] / totals[row, 0] > 0.55
            ink = "white" if dark else "#222222"
            axes.text(
                column,
                row,
                _short(int(matrix[row, column])),
                ha="center",
                va="center",
                color=ink,
                fontsize=size,
            )
    return _svg(figure)


def pr_curves(pr: dict[str, list[float]]) -> str:
    """By class the precisions at evenly spaced recalls from 0 to 1 -> SVG. The best class leads the legend, which tells the area
    under each curve; of more than 20 classes those with the smallest areas are drawn."""
    areas = {name: float(np.mean(precision)) for name, precision in pr.items()}
    drawn = sorted(pr, key=lambda name: (-areas[name], name))[-_LINES:]
    figure = Figure(figsize=(7.6, max(3.6, 0.9 + 0.21 * (len(drawn) + 1))))
    axes = figure.add_subplot()
    for place, name in enumerate(drawn):
        style: Any = _DASHES[place // len(_HUES) % len(_DASHES)]
        label = f"{_shortened(name)}  {areas[name]:.2f}".replace("$", r"\$")
        axes.plot(
            *_recalled(pr[name]),
            color=_HUES[place % len(_HUES)],
            linestyle=style,
            linewidth=1.4,
            label=label,
        )
    if len(pr) > 1:
        mean = np.mean(list(pr.values()), axis=0)
        axes.plot(
            *_recalled(mean),
            color="#222222",
            linewidth=2.6,
            label=f"mean of {len(pr)} classes  {mean.mean():.2f}",
        )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    if len(pr) > _LINES:
        axes.set_title(f"the {_LINES} hardest of {len(pr)} classes")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    if pr:
        axes.legend(
            frameon=False,
            fontsize=8,
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            handlelength=2.6,
        )
    return _svg(figure)


def _recalled(precision: Any) -> tuple[np.ndarray, Any]:
    return np.linspace(0, 1, len(precision)), precision


def training_curves(rows: list[dict[str, Any]]) -> str:
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


def reliability_and_risk(bins: list[dict[str, float]], risk: list[list[float]]) -> str:
    """Left, a reliability diagram: what was right against how sure it was, dots as large as there are answers. Right, the share of
    wrong answers against the share that is answered, the surest first."""
    figure = Figure(figsize=(8.4, 3.4))
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    most = max((each["count"] for each in bins), default=1)
    sizes = [12 + 150 * each["count"] / most for each in bins]
    left.scatter(
        [each["confidence"] for each in bins],
        [each["accuracy"] for each in bins],
        s=sizes,
        color=_BLUE,
        alpha=0.8,
    )
    left.set(xlabel="confidence", ylabel="right", xlim=(0, 1.02), ylim=(0, 1.02))
    right.plot(*risk, color=_ORANGE)
    right.set(xlabel="answered, the surest first", ylabel="wrong among these", xlim=(0, 1.02))
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return _svg(figure)


def pretraining_curves(rows: list[dict[str, Any]]) -> str:
    """Rows of metrics.jsonl of a pre-training -> SVG: the loss, what neighbours know, and how many directions features fill."""
    figure = Figure(figsize=(9.6, 3.0))
    shown = (("train_loss",), ("knn_accuracy", "linear_accuracy", "self_retrieval"), ("rank",))
    for axes, names in zip(figure.subplots(1, 3), shown, strict=True):
        for name, colour in zip(names, _HUES, strict=False):
            _line(axes, rows, name, colour)
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
    figure.tight_layout()
    return _svg(figure)


def _line(axes: Any, rows: list[dict[str, Any]], name: str, colour: str) -> None:
    points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=name)


def weight_averages(groups: dict[str, list[Spot]], across: str, up: str) -> str:
    """Averages of weights by what they are ('averages', 'single runs', 'left out', 'start', 'end', 'chosen') -> SVG. What is marked
    shows its 95 % intervals."""
    figure = Figure(figsize=(6.4, 4.4))
    axes = figure.add_subplot()
    for name, look in _LOOKS.items():
        spots = groups.get(name, [])
        if not spots:
            continue
        axes.plot([x.value for x, _ in spots], [y.value for _, y in spots], label=name, **look)
        if name in ("start", "end", "chosen"):
            ((x, y),) = spots  # there is one of each
            axes.errorbar(
                x.value,
                y.value,
                xerr=_reach(x),
                yerr=_reach(y),
                color=look["color"],
                linewidth=0.8,
                alpha=0.5,
            )
    if all(x.value.is_integer() for spots in groups.values() for x, _ in spots):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=across, ylabel=up)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return _svg(figure)


def _reach(score: Score) -> list[list[float]] | None:
    """(2, 1): how far the interval goes below and above; None without one."""
    return (
        None
        if score.low is None or score.high is None
        else [[score.value - score.low], [score.high - score.value]]
    )


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _short(count: int) -> str:
    """At most four letters and digits, for a cell: 1234567 -> 1.2M."""
    if count < 10_000:
        return str(count)
    for unit, size in (("k", 10**3), ("M", 10**6), ("G", 10**9)):
        if count / size < 9.95:
            return f"{count / size:.1f}{unit}"
        if count / size < 999.5:
            return f"{count / size:.0f}{unit}"
    return f"{count:.0e}"


def _svg(figure: Figure) -> str:
    """The same bytes for the same figure; letters without a glyph in the font are drawn as boxes, silently."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "foveate", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    return text[text.index("<svg") :]
