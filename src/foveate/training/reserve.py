"""What a fit does after training, as far as its time budget has to provide for it."""

from __future__ import annotations

from foveate.evaluation.calibration import MIN_IMAGES
from foveate.predictions import Boxes, Labels, Number
from foveate.training.clock import EVALUATION_SECONDS, AfterTraining
from foveate.training.job import Job

FEATURE_SPACE_IMAGES = 256
"""Training images that span the feature space of a run."""


def after_training(job: Job) -> AfterTraining:
    """Return the images that go through the network after training, and the time besides."""
    evaluated = [len(job.indices(split)) for split in job.evaluated if job.indices(split)]
    settings, val = job.model.task.settings, len(job.indices("val"))
    asks_for = (getattr(settings, name, None) for name in ("at_sensitivity", "at_specificity"))
    images = sum(evaluated) + _calibration_images(job)
    images += val * (any(asks_for) + bool(job.recipe.start.run))
    seconds = EVALUATION_SECONDS * len(evaluated) + job.data.read_seconds * sum(evaluated)
    return AfterTraining(images, seconds)


def _calibration_images(job: Job) -> int:
    """Return the images from which thresholds, probabilities and intervals are fitted."""
    train, val = len(job.indices("train")), len(job.indices("val"))
    predicted = job.model.task.prediction_type
    if predicted is Labels and not job.multilabel and min(train, val) >= MIN_IMAGES:
        return val + min(train, FEATURE_SPACE_IMAGES)
    return val if predicted in (Boxes, Number) else 0
