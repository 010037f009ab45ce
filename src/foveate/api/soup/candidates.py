"""Averages in the place of a run's weights, and what they are worth on images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from foveate.api.soup.averaging import Tensors, between, measured_statistics, same
from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.scan import ScannedTable
from foveate.evaluation.metrics import Metric
from foveate.inference.engine import BatchPredictions, predict_dataset, score_predictions
from foveate.modeling.datasets import eval_dataset
from foveate.training.job import Job
from foveate.types import Batch, Score
from foveate.utils.device import ComputeMode, to_device

Runs = tuple[Path, ...]


@dataclass(frozen=True)
class Point:
    """An average and what it is worth.

    `alpha`: how far it lies from the start to the end; None where it is one of several `runs`. `validation`: the number `metric` on
    the validation images, `loss` on the same. `threshold`: the best there, for boxes. `measured`: whether its statistics of batch
    normalisation were. `judge`: the metric behind `shifted`.
    """

    runs: Runs
    alpha: float | None
    metric: str
    validation: Score
    loss: float
    threshold: float | None = None
    measured: bool = False
    shifted: Score | None = None
    judge: Metric | None = None
    note: str = ""

    @property
    def rank(self) -> tuple[float, float]:
        """What counts in a choice, the greater the better: the main number on the validation images, at a tie the loss."""
        return self.validation.value, -self.loss

    @property
    def name(self) -> str:
        return (
            " + ".join(run.name for run in self.runs) if self.alpha is None else f"{self.alpha:.3g}"
        )

    @property
    def remark(self) -> str:
        return ", ".join(
            word
            for word in (self.note, "statistics measured anew" if self.measured else "")
            if word
        )

    def row(self) -> dict[str, Any]:
        """JSON-able."""
        what = (
            {"runs": [str(run) for run in self.runs]}
            if self.alpha is None
            else {"alpha": self.alpha}
        )
        elsewhere = {} if self.shifted is None else {"shifted": asdict(self.shifted)}
        found = {"validation": asdict(self.validation), "loss": self.loss, **elsewhere}
        return {**what, **found, "measured": self.measured, "note": self.note}


class Averager:
    """Makes averages of weights for the job's model and scores them, on its validation images and on `shifted` ones."""

    def __init__(self, job: Job, shifted: ScannedTable | None) -> None:
        self.device, self.way = job.device, ComputeMode.for_inference(job.recipe.training)
        self.model = to_device(job.model, self.device, self.way)
        self.batch_size = job.recipe.training.batch_size
        self.train, self.val = job.dataset("train"), job.dataset("val")
        self.shifted = (
            eval_dataset(self.model, shifted.table.samples, shifted.pixels, job.recipe.seed)
            if shifted
            else None
        )

    def average(
        self, start: Tensors, end: Tensors, share: float, runs: Runs, alpha: float | None = None
    ) -> tuple[Point, Tensors]:
        """(1 - share) * start + share * end, and what it is worth.

        Statistics of batch normalisation are averaged like weights; between the two they are measured anew as well, on the training
        images without augmentation, and what is better on the validation images is kept. After a long training an average makes
        activations that averaged statistics do not describe (SWA, Izmailov et al. 2018); after a short one the statistics are still
        those of the pretraining, which the weights were made for, and new ones cost more than they mend.
        """
        tensors = between(start, end, share)
        point = self._validated(tensors, runs, alpha)
        if not same(tensors, start) and not same(tensors, end):
            statistics = measured_statistics(
                self.model, self._batches(self.train), self.device, self.way
            )
            measured = tensors | statistics
            other = (
                replace(self._validated(measured, runs, alpha), measured=True)
                if statistics
                else point
            )
            if other.rank > point.rank:
                point, tensors = other, measured
        return self._elsewhere(point, tensors), tensors

    def alone(self, tensors: Tensors, runs: Runs) -> Point:
        """What the weights of a run are worth as they are."""
        return self._elsewhere(self._validated(tensors, runs, None), tensors)

    def _validated(self, tensors: Tensors, runs: Runs, alpha: float | None) -> Point:
        answered, judge = self._judged(tensors, self.val)
        scores = judge.compute()
        main = scores.numbers[scores.main]
        return Point(
            runs, alpha, scores.main, main, answered.loss, threshold=scores.tables.get("threshold")
        )

    def _elsewhere(self, point: Point, tensors: Tensors) -> Point:
        """With its score on the shifted images, which take no part in any choice."""
        if self.shifted is None:
            return point
        judge = self._judged(tensors, self.shifted)[1]
        scores = judge.compute()
        return replace(point, shifted=scores.numbers[scores.main], judge=judge)

    def _judged(self, tensors: Tensors, pictures: ImageDataset) -> tuple[BatchPredictions, Metric]:
        self.model.load_tensors(tensors)
        answered = predict_dataset(self.model, pictures, self.batch_size, self.device, self.way)
        return answered, score_predictions(answered.predictions, pictures.samples, self.model)

    def _batches(self, pictures: ImageDataset) -> Iterable[Batch]:
        return make_loader(pictures, BatchSampler(len(pictures), self.batch_size))
