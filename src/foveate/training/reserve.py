"""What a fit does after training, as far as its time budget has to provide for it."""

from __future__ import annotations

from foveate.evaluation.calibration import MIN_IMAGES
from foveate.messages import Message
from foveate.predictions import Boxes, Labels, Number
from foveate.training.clock import AfterTraining, measure_contention
from foveate.training.job import Job
from foveate.types import Decision

EVALUATED = "evaluated"
"""The decision to leave out the evaluation on validation images: `Job.evaluated`."""
_FEATURE_SPACE_IMAGES = 256  # training images that span the feature space of a run
_MIN_FEATURE_SPACE_IMAGES = 64
_SHARE = 0.05  # of a time budget, for what can be made smaller


def after_training(job: Job) -> AfterTraining:
    """Return the images that go through the network after training, and the time besides."""
    evaluated = [len(job.indices(split)) for split in job.evaluated if job.indices(split)]
    settings, val = job.model.task.settings, len(job.indices("val"))
    asks_for = (getattr(settings, name, None) for name in ("at_sensitivity", "at_specificity"))
    images = sum(evaluated) + _calibration_images(job)
    images += val * (any(asks_for) + bool(job.recipe.start.run))
    return AfterTraining(images, len(evaluated), sum(evaluated), job.data.read_seconds)


def _calibration_images(job: Job) -> int:
    """Return the images from which thresholds, probabilities and intervals are fitted."""
    train, val = len(job.indices("train")), len(job.indices("val"))
    predicted = job.model.task.prediction_type
    if predicted is Labels and not job.multilabel and min(train, val) >= MIN_IMAGES:
        return val + min(train, feature_space_images(job))
    return val if predicted in (Boxes, Number) else 0


def feature_space_images(job: Job) -> int:
    """Return how many training images span the feature space; fewer where time is short."""
    if job.budget is None or not job.forward_seconds:
        return _FEATURE_SPACE_IMAGES
    fitting = int(_SHARE * job.budget.seconds / job.forward_seconds)
    return min(_FEATURE_SPACE_IMAGES, max(_MIN_FEATURE_SPACE_IMAGES, fitting))


def limit_evaluation(job: Job) -> list[Decision]:
    """Leave the validation images out of the evaluation where they take much of a time budget.

    They have been scored during training, and the result of a fit is that on the test images.
    """
    val = len(job.indices("val"))
    if job.budget is None or not {"val", "test"} <= set(job.evaluated) or not job.indices("test"):
        return []
    evaluation = AfterTraining(val, 1, val, job.data.read_seconds)
    seconds = evaluation.reserve(job.forward_seconds, contention=measure_contention())
    if not val or seconds <= 2 * _SHARE * job.budget.seconds:
        return []
    job.evaluated = ("test",)
    text = (
        "an evaluation on the {images} validation images too would take about {seconds} s: "
        "foveate evaluate RUN --split val makes up for it"
    )
    reason = Message("choice.no_time_for_val", text, images=val, seconds=f"{seconds:.0f}")
    return [Decision(EVALUATED, "test", reason)]
