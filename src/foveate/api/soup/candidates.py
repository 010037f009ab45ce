"""Candidate averages of weights, and their scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from foveate.api.soup.averaging import (
    Tensors,
    equal_tensors,
    interpolate,
    recompute_batch_statistics,
)
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
class Candidate:
    """An average of weights and its scores.

    Attributes:
        runs: The runs whose weights it contains.
        alpha: Interpolation coefficient from start to end; None for an average of several runs.
        metric: Name of the main metric.
        validation: The main metric on the validation images.
        loss: The loss on the validation images.
        threshold: Best score threshold on the validation images, for boxes.
        recomputed_statistics: Whether batch statistics were recomputed on the training images.
        shifted: The main metric on the shifted images.
        shifted_metric: The metric behind `shifted`.
        note: Remark for the table.
    """

    runs: Runs
    alpha: float | None
    metric: str
    validation: Score
    loss: float
    threshold: float | None = None
    recomputed_statistics: bool = False
    shifted: Score | None = None
    shifted_metric: Metric | None = None
    note: str = ""

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key, larger is better: the main metric on validation images, then the loss."""
        return self.validation.value, -self.loss

    @property
    def name(self) -> str:
        return (
            " + ".join(run.name for run in self.runs) if self.alpha is None else f"{self.alpha:.3g}"
        )

    @property
    def full_note(self) -> str:
        return ", ".join(
            word
            for word in (
                self.note,
                "batch statistics recomputed" if self.recomputed_statistics else "",
            )
            if word
        )

    def row(self) -> dict[str, Any]:
        """Return the point of curve.json."""
        runs = [str(run) for run in self.runs]
        return {
            **({"runs": runs} if self.alpha is None else {"alpha": self.alpha}),
            "validation": asdict(self.validation),
            "loss": self.loss,
            **({} if self.shifted is None else {"shifted": asdict(self.shifted)}),
            "recomputed_statistics": self.recomputed_statistics,
            "note": self.note,
        }


class CandidateScorer:
    """Averages weights of the job's model and scores them on validation and on `shifted` images."""

    def __init__(self, job: Job, shifted: ScannedTable | None) -> None:
        self.device, self.mode = job.device, ComputeMode.for_inference(job.recipe.training)
        self.model = to_device(job.model, self.device, self.mode)
        self.batch_size = job.recipe.training.batch_size
        self.train, self.val = job.dataset("train"), job.dataset("val")
        self.shifted = (
            eval_dataset(self.model, shifted.table.samples, shifted.cache, job.recipe.seed)
            if shifted
            else None
        )

    def average(
        self, start: Tensors, end: Tensors, share: float, runs: Runs, alpha: float | None = None
    ) -> tuple[Candidate, Tensors]:
        """Score (1 - share) * start + share * end.

        Statistics of batch normalization are averaged like weights; strictly between the two they
        are also recomputed on the training images without augmentation, and the better of both on
        the validation images is kept. After a long training, averaged statistics do not describe
        the activations of averaged weights (SWA, Izmailov et al. 2018); after a short one the
        statistics are still those of the pretraining, which the weights fit, and new ones cost more
        than they gain.
        """
        tensors = interpolate(start, end, share)
        point = self._score_on_validation(tensors, runs, alpha)
        if not equal_tensors(tensors, start) and not equal_tensors(tensors, end):
            statistics = recompute_batch_statistics(
                self.model, self._batches(self.train), self.device, self.mode
            )
            updated = tensors | statistics
            other = (
                replace(self._score_on_validation(updated, runs, alpha), recomputed_statistics=True)
                if statistics
                else point
            )
            if other.rank > point.rank:
                point, tensors = other, updated
        return self._with_shifted_score(point, tensors), tensors

    def score_run(self, tensors: Tensors, runs: Runs) -> Candidate:
        """Score the weights of a run as they are."""
        return self._with_shifted_score(self._score_on_validation(tensors, runs, None), tensors)

    def _score_on_validation(self, tensors: Tensors, runs: Runs, alpha: float | None) -> Candidate:
        predicted, metric = self._predict(tensors, self.val)
        scores = metric.compute()
        main = scores.numbers[scores.main]
        return Candidate(
            runs, alpha, scores.main, main, predicted.loss, threshold=scores.tables.get("threshold")
        )

    def _with_shifted_score(self, point: Candidate, tensors: Tensors) -> Candidate:
        """Add the score on the shifted images, which is not used for selection."""
        if self.shifted is None:
            return point
        metric = self._predict(tensors, self.shifted)[1]
        scores = metric.compute()
        return replace(point, shifted=scores.numbers[scores.main], shifted_metric=metric)

    def _predict(self, tensors: Tensors, dataset: ImageDataset) -> tuple[BatchPredictions, Metric]:
        self.model.load_tensors(tensors)
        predicted = predict_dataset(self.model, dataset, self.batch_size, self.device, self.mode)
        return predicted, score_predictions(predicted.predictions, dataset.samples, self.model)

    def _batches(self, dataset: ImageDataset) -> Iterable[Batch]:
        return make_loader(dataset, BatchSampler(len(dataset), self.batch_size))
