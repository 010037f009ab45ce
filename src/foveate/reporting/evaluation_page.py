"""The report of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.messages import Message
from foveate.predictions import NoInterval
from foveate.reporting.metric_names import metric_name
from foveate.reporting.rendering import Text, Thumbnail, render
from foveate.types import Score, Scores

_FIGURES = ("confusion", "calibration", "precision", "roc", "scatter", "training")
_COVERAGES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # rows of the table of risk and coverage


def images_of(split: str, score: Score) -> Message:
    """Return "180 test images (...)": what a score was measured on, with the number of groups.

    Terminal and report write it alike.
    """
    images = _images_of_split(split, score.count)
    if not score.groups:
        return images
    text = "{images} in {groups:group|groups}"
    return Message("report.images_of_groups", text, images=images, groups=score.groups)


def describe_regions(scores: Scores) -> Message | None:
    """Say of masks what their pixels together hide: the mean image, and the objects found.

    Terminal, report and model card write it alike; None for other predictions.
    """
    numbers = scores.numbers
    if "mean_iou" not in numbers:
        return None
    text = "{name} {pooled} of all pixels together"
    pooled = numbers[scores.main].with_interval
    told = Message("regions.pooled", text, name=metric_name(scores.main), pooled=pooled)
    if "dice_per_image" in numbers:
        text = "{pooled}, Dice {mean} in the mean image"
        mean = numbers["dice_per_image"].with_interval
        told = Message("regions.per_image", text, pooled=told, mean=mean)
    by_size = scores.tables.get("objects")
    if not by_size or not any(count for _, count in by_size.values()):
        return told
    found, count = (sum(pair[index] for pair in by_size.values()) for index in (0, 1))
    sizes = {
        size: Message("regions.found", "{found} of {count}", found=pair[0], count=pair[1])
        for size, pair in by_size.items()
    }
    text = (
        "{overlap}; {found} of {count:object|objects} found (small: {small}, medium: {medium}, "
        "large: {large})"
    )
    return Message("regions.objects", text, overlap=told, found=found, count=count, **sizes)


def _images_of_split(split: str, count: int) -> Message:
    if split == "test":
        return Message(
            "report.images_test",
            "{count:test image|test images} (not used for training or model selection)",
            count=count,
        )
    if split == "val":
        return Message(
            "report.images_val", "{count:validation image|validation images}", count=count
        )
    if split == "unlike":
        return Message(
            "report.images_unlike",
            "{count:image|images} whose look-alikes were not trained on",
            count=count,
        )
    if split == "train":
        return Message("report.images_train", "{count:training image|training images}", count=count)
    return Message("report.images_all", "all {count:image|images} of the data", count=count)


@dataclass(frozen=True)
class Example:
    """An image with its prediction.

    Attributes:
        key: Names the image.
        pixels: (H, W, 3) uint8, a thumbnail.
        details: Names and values below it.
    """

    key: str
    pixels: np.ndarray
    details: list[tuple[Message, Text]]

    @property
    def wide(self) -> bool:
        """Whether the thumbnail is much wider than high."""
        height, width = self.pixels.shape[:2]
        return bool(width > 1.5 * height)


@dataclass(frozen=True)
class Comparison:
    """The same score measured in another way.

    Attributes:
        name: Of the way.
        score: The result.
        meaning: What it tells.
    """

    name: Message
    score: Score
    meaning: Message


@dataclass(frozen=True)
class Shift:
    """What a run loses on images of another domain.

    Attributes:
        metric: What the columns of `per_class` hold.
        source: The main score on the run's own images.
        shifted: The main score on the other images.
        drop: The first minus the second.
        per_class: Rows of class, source, shifted, drop, source_count, shifted_count, by descending
            drop.
    """

    metric: str
    source: Score
    shifted: Score
    drop: Score
    per_class: list[dict[str, Any]]


@dataclass(frozen=True)
class OodResult:
    """How well images of other data are told apart from the run's own.

    Attributes:
        name: Of the other data.
        auroc: 0.5 is chance, 1 perfect.
    """

    name: str
    auroc: Score


@dataclass(frozen=True)
class ConfusionCell:
    """Images of one class that were predicted as another.

    Attributes:
        target: The true class.
        predicted: The predicted class.
        count: Number of images.
        images: Some of them.
    """

    target: str
    predicted: str
    count: int
    images: list[Thumbnail]


@dataclass(frozen=True)
class EvaluationPage:
    """What the report of an evaluation shows; empty parts are left out.

    Attributes:
        title: Name of the run.
        data: Name of the data, where the title lacks it.
        command: The command that made it.
        split: Images that were evaluated: test, val, train or all.
        scores: Of the metric.
        facts: Name and value of what is known about the run.
        license: Of the pretrained weights; "" if it is not stated.
        choices: Field, value and reason of what was chosen automatically.
        cautions: What the scores cannot promise.
        comparisons: How much the split matters.
        tuning_trials: A row for each fine-tuning method that was tried; see
            `api.fit.tuning_trials`.
        curves: Rows of metrics.jsonl.
        worst: Predictions with the highest loss.
        is_perfect: Whether `worst` is empty because every prediction is right.
        best: Predictions with the lowest loss, where they tell something.
        generated: Images that the network generates.
        skipped: Path and reason of unreadable images.
        environment: Name and version of what the run used.
        shift: Comparison with the run's own images.
        ood: Detection of out-of-distribution images.
        corrupted: The main score under corruptions.
        slices: Rows with the main score of subgroups.
        confusions: Images of the cells of the confusion matrix.
        unlike: The score beside what to expect on images unlike the training images.
        coverage: What prediction sets or intervals promise.
        question: What the run predicts, as a question; "" leaves it out.
        lang: Code of the language.
    """

    title: str
    command: str
    split: str
    scores: Scores
    facts: list[tuple[Message, Text]]
    license: str
    choices: list[tuple[str, str, Text]]
    cautions: list[Message]
    comparisons: list[Comparison]
    tuning_trials: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    worst: list[Example]
    skipped: list[tuple[str, str]]
    environment: dict[str, str]
    shift: Shift | None = None
    best: list[Example] = field(default_factory=list)
    generated: list[Example] = field(default_factory=list)
    ood: OodResult | None = None
    corrupted: dict[str, Any] | None = None
    slices: list[dict[str, Any]] = field(default_factory=list)
    confusions: list[ConfusionCell] = field(default_factory=list)
    unlike: Message | None = None
    coverage: Message | None = None
    question: Text = ""
    data: str = ""
    is_perfect: bool = False
    lang: str = "en"


def write_report(page: EvaluationPage, path: Path) -> None:
    """Write the report of an evaluation, complete or not at all."""
    from foveate.reporting import plots

    tables = page.scores.tables
    figures: dict[str, Any] = dict.fromkeys(_FIGURES)
    if "confusion" in tables:
        matrix = np.array(tables["confusion"])
        figures["confusion"] = plots.confusion_matrix(matrix, tables["classes"])
    if "reliability" in tables:
        figures["calibration"] = [
            plots.reliability(tables["reliability"]),
            plots.risk_coverage(*tables["risk"]),
        ]
    if "binary" in tables:
        figures["roc"] = plots.roc_curve(tables["binary"]["roc"], tables["binary"]["points"])
    if "scatter" in tables:
        figures["scatter"] = plots.scatter(tables["scatter"])
    if "pr" in tables:
        figures["precision"] = plots.pr_curves(tables["pr"])
    if page.curves:
        figures["training"] = plots.training_curves(page.curves)
    render(
        "report.html.j2",
        path,
        page,
        figures=figures,
        headline=_headline(page),
        regions=describe_regions(page.scores),
        curve_columns=_numeric_columns(page.curves),
        risks=_risks(*tables["risk"]) if "risk" in tables else [],
    )


def _headline(page: EvaluationPage) -> dict[str, Text]:
    """The first score and what it was measured on."""
    score = page.scores.numbers[page.scores.headline]
    scale, digits, unit = (100, 1, " %") if page.scores.as_percent else (1, 2, "")

    def written(value: float) -> str:
        return f"{scale * value:.{digits}f}"

    images = images_of(page.split, score)
    note = Message("report.measured_on", "on {images}", images=images)
    if score.no_interval:
        why = NoInterval(score.no_interval).message
        note = Message("report.measured_without", "on {images}; {why}", images=images, why=why)
    if score.low is not None and score.high is not None:
        note = Message(
            "report.interval_on",
            "95 % interval {low} to {high}{unit}, on {images}",
            low=written(score.low),
            high=written(score.high),
            unit=unit,
            images=images,
        )
    return {"value": (written(score.value) + unit).replace(" ", "\N{NO-BREAK SPACE}"), "note": note}


def _numeric_columns(rows: list[dict[str, Any]]) -> list[str]:
    names = (name for row in rows for name, value in row.items() if isinstance(value, int | float))
    return list(dict.fromkeys(names))


def _risks(coverage: list[float], risk: list[float]) -> list[tuple[float, float]]:
    """Coverage and error rate of the most confident tenth, quarter, ... of the predictions."""
    indices = [int(np.argmin(np.abs(np.array(coverage) - wanted))) for wanted in _COVERAGES]
    return [(coverage[index], risk[index]) for index in dict.fromkeys(indices)]
