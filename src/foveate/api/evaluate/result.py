"""The result of an evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from foveate.api.evaluate.coverage import CoverageResult
from foveate.api.evaluate.robustness import CorruptionResult
from foveate.api.evaluate.shift import shift_lines
from foveate.api.evaluate.slices import Slice, slice_lines, slice_rows
from foveate.api.evaluate.unlike import describe_unlike
from foveate.evaluation.metrics import Metric
from foveate.messages import Message
from foveate.reporting.evaluation_page import OodResult, Shift, describe_regions, images_of
from foveate.types import Scores

FIRST_CAUTIONS = ("caution.one_answer", "caution.no_better_than_majority")
"""Cautions that are said before any number."""


@dataclass(frozen=True)
class EvaluateResult:
    """The result of an evaluation.

    Attributes:
        run: Run folder.
        folder: Holds predictions.jsonl, scores.json and report.html.
        split: Of the images.
        scores: Of the images.
        cautions: What the scores cannot promise.
        skipped: Number of unreadable images.
        metric: That computed the scores, for comparisons.
        inference_seconds: What the network took.
        seconds: What everything took.
        shift: Comparison with the images of another domain.
        shifted: Result of the images of another domain.
        ood: Detection of out-of-distribution images.
        corrupted: Scores under corruptions.
        slices: Scores of subgroups.
        unlike: Accuracy on images unlike the training images, as `training.unlike_images` measured
            it; None if it was not measured, or these are not held-out images of the run.
        coverage: Of prediction sets or intervals, if the run was calibrated.
    """

    run: Path
    folder: Path
    split: str
    scores: Scores
    cautions: list[Message]
    skipped: int
    metric: Metric
    inference_seconds: float
    seconds: float = 0.0
    shift: Shift | None = None
    shifted: EvaluateResult | None = None
    ood: OodResult | None = None
    corrupted: CorruptionResult | None = None
    slices: list[Slice] = field(default_factory=list)
    unlike: dict[str, Any] | None = None
    coverage: CoverageResult | None = None

    def numbers(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        main = self.scores.numbers[self.scores.main]
        numbers: dict[str, Any] = {
            "run": str(self.run),
            "split": self.split,
            "report": str(self.folder / "report.html"),
            **{name: score.value for name, score in self.scores.numbers.items()},
            "low": main.low,
            "high": main.high,
            "count": main.count,
            "groups": main.groups,
            "skipped": self.skipped,
        }
        if self.ood is not None:
            numbers["ood"] = {"data": self.ood.name, "auroc": asdict(self.ood.auroc)}
        if self.corrupted is not None:
            numbers["corrupted"] = self.corrupted.numbers()
        if self.unlike is not None:
            numbers["unlike"] = self.unlike
        if self.coverage is not None:
            numbers["coverage"] = self.coverage.row()
        if self.slices:
            numbers["slices"] = slice_rows(self.slices)
        if self.shifted is not None and self.shift is not None:
            numbers["shifted"] = self.shifted.numbers()
            numbers["drop"] = asdict(self.shift.drop)
            numbers["per_class"] = self.shift.per_class
        return numbers

    def lines(self) -> list[str]:
        """Return lines of text for a terminal."""
        return [*self._score_lines(), f"report: {self.folder / 'report.html'}"]

    def _score_lines(self) -> list[str]:
        main = self.scores.main
        headline, numbers = self.scores.headline, self.scores.numbers
        ordered = {headline: numbers[headline], **numbers}  # a key keeps its first place
        lines = [str(each) for each in self.cautions if each.id in FIRST_CAUTIONS]
        lines.append(self._heading(f"on {self._images}"))
        lines += [f"  {name}: {score}" for name, score in ordered.items()]
        if self.unlike is not None:
            lines.append(f"  {describe_unlike(self.scores, self.unlike)}")
        if self.coverage is not None:
            lines.append(f"  {self.coverage.describe()}")
        if self.ood is not None:
            lines.append(
                f"  AUROC of out-of-distribution images, {self.ood.name}: {self.ood.auroc}"
            )
        lines += self.corrupted.lines() if self.corrupted is not None else []
        lines += slice_lines(self.slices, main)
        notes = [each for each in self.cautions if each.id not in FIRST_CAUTIONS]
        lines += [f"note: {caution}" for caution in notes]
        if self.shifted is not None and self.shift is not None:
            report = self.shifted.folder / "report.html"
            lines += [self.shifted._heading("on the other data"), *self.shifted._score_lines()[1:]]
            lines += [*shift_lines(self.shift, main), f"report of the other data: {report}"]
        return lines

    def _heading(self, where: str) -> str:
        """The line above the scores, for masks with what their main score hides."""
        regions = describe_regions(self.scores)
        return f"{where}: {regions}" if regions else f"{where}:"

    @property
    def _images(self) -> Message:
        return images_of(self.split, self.scores.numbers[self.scores.main])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td>{score}</td></tr>"
            for name, score in self.scores.numbers.items()
        )
        return f"<table><caption>{self._images}</caption>{rows}</table>"
