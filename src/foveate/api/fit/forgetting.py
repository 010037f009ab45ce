"""What a continued run has forgotten and learned: its scores of old and new images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from foveate.api.fit.calibration import predict_for_job
from foveate.inference.engine import compute_scores
from foveate.inference.predictor import load_predictor
from foveate.predictions import Labels
from foveate.run.folder import Run
from foveate.run.lineage import old_and_new, open_earlier_run
from foveate.training.job import Job

PartScores = dict[str, dict[str, Any]]
"""The row of the main metric, by "old" and "new"."""


def scores_before(job: Job) -> PartScores:
    """Score the earlier run, as it is, on old and new validation images.

    Not the model that training starts from: its head has random weights for new classes already.

    Args:
        job: The fit; without an earlier run there are no scores.
    """
    run = open_earlier_run(job.recipe)
    if run is None or not job.indices("val"):
        return {}
    val, predictor = job.dataset("val"), load_predictor(run.folder, str(job.device))
    samples, missing = val.samples, len(job.table.classes) - len(predictor.classes)
    if missing:  # its loss cannot be computed for classes that it does not know
        samples = [replace(sample, target=None) for sample in samples]
    found = predictor.predict_samples(samples, val.cache).predictions
    return _score_parts(job, run, [_with_unknown_classes(each, missing) for each in found])


def scores_after(job: Job) -> PartScores:
    """Score the model of a job likewise."""
    run = open_earlier_run(job.recipe)
    if run is None or not job.indices("val"):
        return {}
    return _score_parts(job, run, predict_for_job(job, job.dataset("val")))


def _score_parts(job: Job, run: Run, predictions: Sequence[Any]) -> PartScores:
    samples = job.dataset("val").samples
    scores = {
        name: compute_scores(
            [predictions[index] for index in indices],
            [samples[index] for index in indices],
            job.model,
        )
        for name, indices in old_and_new(samples, run).items()
    }
    return {
        name: {"metric": each.main, **asdict(each.numbers[each.main])}
        for name, each in scores.items()
    }


def _with_unknown_classes(prediction: Any, count: int) -> Any:
    """The prediction with zeros for classes that the run does not know; they come last."""
    if not isinstance(prediction, Labels) or prediction.scores is None:
        return prediction
    return replace(prediction, scores=np.pad(prediction.scores, (0, count)))
