"""Figures of reports, as SVG text. Letters: K classes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foveate.reporting.metric_names import metric_name
from foveate.types import Score

_MAX_WITH_COUNTS = 20  # classes up to which the counts are written into the cells
_MAX_CLASSES = 40  # classes up to which the whole matrix is drawn
_MAX_CURVES = 20  # classes up to which each has a curve
_MAX_NAME = 24  # characters of a class name
_PANEL = (4.2, 3.2)  # inches of a figure that stands beside another one, or fills a phone
_COLORS = (
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
_DASHES = ("-", (0, (4, 1.6)))  # the second one for the second ten classes
_BLUE, _ORANGE, _GRAY, _BLACK = "#2f6690", "#d1603d", "#7f8c99", "#222222"
_STYLES: dict[str, dict[str, Any]] = {  # of `weight_averages`, the later ones on top
    "averages": {"color": _BLUE, "marker": "o", "markersize": 4, "linewidth": 1.4},
    "single runs": {"color": _GRAY, "marker": "o", "markersize": 6, "linestyle": "none"},
    "left out": {"color": _GRAY, "marker": "x", "markersize": 6, "linestyle": "none"},
    "start": {"color": _BLACK, "marker": "s", "markersize": 7, "linestyle": "none"},
    "end": {"color": _BLACK, "marker": "D", "markersize": 7, "linestyle": "none"},
    "chosen": {
        "color": _ORANGE,
        "marker": "o",
        "markersize": 15,
        "fillstyle": "none",
        "markeredgewidth": 2,
        "linestyle": "none",
    },
}
Point = tuple[Score, Score]
"""x and y."""


def confusion_matrix(matrix: np.ndarray, classes: list[str]) -> str:
    """Draw a confusion matrix as SVG, colored by the share of the row.

    Of more than 40 classes the most confused ones are drawn.

    Args:
        matrix: (K, K) counts, target rows by predicted columns.
        classes: K names.
    """
    title = ""
    if len(classes) > _MAX_CLASSES:
        title = f"the {_MAX_WITH_COUNTS} most confused of {len(classes)} classes"
        errors = matrix - np.diag(np.diag(matrix))
        order = np.argsort(-(errors.sum(0) + errors.sum(1)), kind="stable")
        kept = np.sort(order[:_MAX_WITH_COUNTS])
        matrix, classes = matrix[np.ix_(kept, kept)], [classes[index] for index in kept]
    side = 2.2 + 0.42 * len(classes)
    figure = Figure(figsize=(side, side))
    axes = figure.add_subplot()
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_shortened(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if len(classes) <= _MAX_WITH_COUNTS:
        _write_counts(axes, matrix, shares)
    return _svg(figure)


def _write_counts(axes: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    size = 9 if matrix.max(initial=0) < 1000 else 7.5
    for row, column in np.argwhere(matrix):
        text = _short_count(int(matrix[row, column]))
        color = "white" if shares[row, column] > 0.55 else _BLACK
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)


def pr_curves(precisions: dict[str, list[float]]) -> str:
    """Draw precision-recall curves as SVG.

    The legend tells the area under each curve, the best class first. Of more than 20 classes those
    with the smallest areas are drawn.

    Args:
        precisions: By class, at evenly spaced recalls from 0 to 1.
    """
    areas = {name: float(np.mean(values)) for name, values in precisions.items()}
    drawn = sorted(precisions, key=lambda name: (-areas[name], name))[-_MAX_CURVES:]
    figure = Figure(figsize=(7.6, max(3.6, 0.9 + 0.21 * (len(drawn) + 1))))
    axes = figure.add_subplot()
    for index, name in enumerate(drawn):
        style: Any = _DASHES[index // len(_COLORS) % len(_DASHES)]
        color = _COLORS[index % len(_COLORS)]
        label = f"{_shortened(name)}  {areas[name]:.2f}".replace("$", r"\$")
        recalls = _recalls(precisions[name])
        axes.plot(
            recalls, precisions[name], color=color, linestyle=style, linewidth=1.4, label=label
        )
    if len(precisions) > 1:
        mean = np.mean(list(precisions.values()), axis=0)
        label = f"mean of {len(precisions)} classes  {mean.mean():.2f}"
        axes.plot(_recalls(mean), mean, color=_BLACK, linewidth=2.6, label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    if len(precisions) > _MAX_CURVES:
        axes.set_title(f"the {_MAX_CURVES} hardest of {len(precisions)} classes")
    _style(axes, grid=True)
    if precisions:
        _legend_beside(axes, fontsize=8, handlelength=2.6)
    return _svg(figure)


def _recalls(precision: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.linspace(0, 1, len(precision))


def training_curves(rows: list[dict[str, Any]]) -> list[str]:
    """Draw rows of metrics.jsonl as two SVGs: losses, and validation scores."""
    scores = [name for name in rows[-1] if name.startswith("val_") and name != "val_loss"]
    losses = {"train_loss": _ORANGE, "val_loss": _BLUE}
    return [_curves(rows, losses), _curves(rows, dict.fromkeys(scores, _BLUE))]


def reliability(bins: list[dict[str, float]]) -> str:
    """Draw a reliability diagram as SVG.

    Args:
        bins: Confidence, accuracy and count of each bin; counts are the areas of the dots.
    """
    figure = Figure(figsize=_PANEL)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    largest = max((each["count"] for each in bins), default=1)
    sizes = [12 + 150 * each["count"] / largest for each in bins]
    confidences, accuracies = ([each[key] for each in bins] for key in ("confidence", "accuracy"))
    axes.scatter(confidences, accuracies, s=sizes, color=_BLUE, alpha=0.8)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    _style(axes)
    return _svg(figure)


def roc_curve(roc: tuple[list[float], list[float]], points: list[dict[str, float]]) -> str:
    """Draw an ROC curve as SVG, and where decisions lie on it.

    Args:
        roc: False positive rates and sensitivities of the curve.
        points: Sensitivity and specificity of the predictions, and perhaps of a chosen threshold.
    """
    figure = Figure(figsize=(4.6, 4.2))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    axes.plot(*roc, color=_BLUE, linewidth=1.8)
    styles = (("predictions", "o", _BLUE), ("chosen threshold", "D", _ORANGE))
    for point, (name, marker, color) in zip(points, styles, strict=False):
        x, y = 1 - point["specificity"], point["sensitivity"]
        axes.plot(x, y, marker, color=color, markersize=7, label=name, linestyle="none")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1), ylim=(0, 1.02))
    _style(axes, grid=True)
    axes.legend(frameon=False, loc="lower right")
    return _svg(figure)


def scatter(points: dict[str, list[float]]) -> str:
    """Draw predicted against true numbers as SVG, with prediction intervals where there are any.

    Points whose interval misses the true number are orange.

    Args:
        points: The lists true, predicted, low and high; the last two may be empty.
    """
    true, predicted, low, high = (
        np.array(points[name]) for name in ("true", "predicted", "low", "high")
    )
    has_intervals = len(low) == len(true)
    figure = Figure(figsize=(5.4, 5.0))
    axes = figure.add_subplot()
    ends = np.concatenate([true, predicted])
    margin = 0.04 * float(np.ptp(ends)) or 1.0
    limits = (float(ends.min()) - margin, float(ends.max()) + margin)
    axes.plot(limits, limits, color="#999999", linewidth=1, zorder=0)
    missed = (true < low) | (true > high) if has_intervals else np.zeros(len(true), dtype=bool)
    for chosen, color in ((~missed, _BLUE), (missed, _ORANGE)):
        axes.scatter(true[chosen], predicted[chosen], s=14, color=color, alpha=0.75, linewidths=0)
        if has_intervals:
            x, bars = true[chosen], (low[chosen], high[chosen])
            axes.vlines(x, *bars, color=color, alpha=0.25, linewidth=0.8)
    axes.set(xlabel="true", ylabel="predicted", xlim=limits)
    _style(axes, grid=True)
    return _svg(figure)


def risk_coverage(coverages: list[float], risks: list[float]) -> str:
    """Draw a risk-coverage curve as SVG: the error rate of the most confident predictions."""
    figure = Figure(figsize=_PANEL)
    axes = figure.add_subplot()
    axes.plot(coverages, risks, color=_ORANGE)
    axes.set(xlabel="coverage (most confident first)", ylabel="error rate", xlim=(0, 1.02))
    axes.set_ylim(bottom=0)
    _style(axes)
    return _svg(figure)


def pretraining_curves(rows: list[dict[str, Any]]) -> list[str]:
    """Draw rows of metrics.jsonl of pretraining as SVGs: loss, quality of the features, rank."""
    panels = (("train_loss",), ("knn_accuracy", "linear_accuracy", "self_retrieval"), ("rank",))
    return [_curves(rows, dict(zip(names, _COLORS, strict=False))) for names in panels]


def _curves(rows: list[dict[str, Any]], colors: dict[str, str]) -> str:
    """Columns of metrics.jsonl by epoch as SVG, in these colors."""
    figure = Figure(figsize=_PANEL)
    axes = figure.add_subplot()
    for name, color in colors.items():
        _plot_column(axes, rows, name, color)
    _style_by_epoch(axes)
    return _svg(figure)


def weight_averages(groups: dict[str, list[Point]], xlabel: str, ylabel: str) -> str:
    """Draw averages of weights as SVG.

    Args:
        groups: Points by what they are: averages, single runs, left out, start, end, chosen. The
            last three are one point each, drawn with its 95 % intervals.
        xlabel: Of the x axis.
        ylabel: Of the y axis.
    """
    figure = Figure(figsize=(6.4, 4.4))
    axes = figure.add_subplot()
    for name, style in _STYLES.items():
        points = groups.get(name, [])
        if not points:
            continue
        axes.plot([x.value for x, _ in points], [y.value for _, y in points], label=name, **style)
        if name in ("start", "end", "chosen"):
            ((x, y),) = points
            bars = {"xerr": _error_bar(x), "yerr": _error_bar(y), "color": style["color"]}
            axes.errorbar(x.value, y.value, linewidth=0.8, alpha=0.5, **bars)
    if all(x.value.is_integer() for points in groups.values() for x, _ in points):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _style(axes, grid=True)
    _legend_beside(axes)
    return _svg(figure)


def _error_bar(score: Score) -> list[list[float]] | None:
    """(2, 1): how far the interval reaches below and above; None without one."""
    if score.low is None or score.high is None:
        return None
    return [[score.value - score.low], [score.high - score.value]]


def _plot_column(axes: Axes, rows: list[dict[str, Any]], name: str, color: str) -> None:
    points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        epochs, values = zip(*points, strict=True)
        label = str(metric_name(name))
        axes.plot(epochs, values, color=color, marker="o", markersize=3, label=label)


def _style(axes: Axes, grid: bool = False) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color="#e3e7eb", linewidth=0.6)
        axes.set_axisbelow(True)


def _style_by_epoch(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    _style(axes)
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True)
    if axes.lines:
        axes.legend(frameon=False)


def _legend_beside(axes: Axes, **options: Any) -> None:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5), **options)


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


def _short_count(count: int) -> str:
    """At most four characters, for a cell: 1234567 -> 1.2M."""
    if count < 10_000:
        return str(count)
    for unit, size in (("k", 10**3), ("M", 10**6), ("G", 10**9)):
        if count / size < 9.95:
            return f"{count / size:.1f}{unit}"
        if count / size < 999.5:
            return f"{count / size:.0f}{unit}"
    return f"{count:.0e}"


def _svg(figure: Figure) -> str:
    """The same bytes for the same figure; characters that the font lacks are drawn as boxes."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "foveate", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        metadata = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata=metadata)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
