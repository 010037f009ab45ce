"""What validation images say about the predictions of a fitted model, saved in its run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from foveate.data.dataset import ImageDataset
from foveate.data.tables import label_names
from foveate.evaluation.calibration import (
    COVERAGE,
    MIN_IMAGES,
    Calibration,
    FeatureSpace,
    apply_temperature,
    fit_temperature,
)
from foveate.evaluation.conformal import IntervalCalibration
from foveate.evaluation.coverage import INTERVALS, SETS, describe_promise
from foveate.evaluation.operating_point import Goal, OperatingPoint
from foveate.inference.engine import collect_features, predict_dataset
from foveate.messages import Message
from foveate.modeling.datasets import eval_dataset
from foveate.predictions import Labels, Number
from foveate.run.folder import CALIBRATION_FILE, FEATURE_SPACE_FILE
from foveate.training.head_init import OutOfFold
from foveate.training.job import Job
from foveate.training.reserve import feature_space_images
from foveate.types import Decision, Split
from foveate.utils import log
from foveate.utils.device import ComputeMode, to_device

_ENOUGH = 500  # validation images that need no out-of-fold scores beside them


def predict_for_job(job: Job, dataset: ImageDataset) -> list[Any]:
    """Predict with the current model of a job, which is on the CPU afterwards."""
    training, mode = job.recipe.training, ComputeMode.for_inference(job.recipe.training)
    model = to_device(job.model, job.device, mode)
    result = predict_dataset(model, dataset, training.batch_size, job.device, mode)
    job.model.cpu()
    return result.predictions


def calibrate(job: Job, out_of_fold: OutOfFold | None) -> dict[str, Any] | None:
    """Fit and save what validation images say about predictions of labels or numbers.

    Args:
        job: The fit.
        out_of_fold: Probabilities of training images by classifiers fitted without them, several
            times as many as validation images: for the temperature, and for everything else where
            validation images are few.

    Returns:
        What the outcome of the run tells; None for other tasks, and if there are too few images.
    """
    predicted = job.model.task.prediction_type
    if predicted is Number:
        return _calibrate_numbers(job)
    if predicted is Labels and not job.model.multilabel:
        return _calibrate_labels(job, out_of_fold)
    return None


def _calibrate_numbers(job: Job) -> dict[str, Any] | None:
    """Fit and save the errors on validation images, from which intervals are made."""
    dataset = job.dataset("val")
    if len(dataset) < MIN_IMAGES:
        log.info(
            f"no intervals: that takes {MIN_IMAGES} images for validation, and there are "
            f"{len(dataset):,}"
        )
        return None
    predicted = np.array([each.value for each in predict_for_job(job, dataset)])
    targets = [each.target for each in dataset.samples]
    numbers = np.array([each.value for each in targets if isinstance(each, Number)])
    calibration = IntervalCalibration.fit(predicted, numbers, len(set(_groups(job, "val"))))
    job.run.write_json(CALIBRATION_FILE, calibration.row())
    log.info(describe_promise(INTERVALS, COVERAGE, calibration.units))
    return {
        "images": len(numbers),
        "units": calibration.units,
        "radius": calibration.radius(COVERAGE),
    }


def _calibrate_labels(job: Job, out_of_fold: OutOfFold | None) -> dict[str, Any] | None:
    """Fit and save the calibration and the feature space."""
    val, train = job.dataset("val").samples, job.dataset("train").samples
    if min(len(val), len(train)) < MIN_IMAGES:
        log.info(
            f"not calibrated: that takes {MIN_IMAGES} images for training and {MIN_IMAGES} for "
            f"validation, and there are {len(train):,} and {len(val):,}; predictions will state no "
            "prediction set, abstention or out-of-distribution score"
        )
        return None
    drawn = np.random.default_rng(job.recipe.seed).permutation(len(train))
    drawn = drawn[: feature_space_images(job)]
    sampled = [train[index] for index in sorted(drawn.tolist())]
    parts = [
        _predict_with_features(
            job, eval_dataset(job.model, samples, job.scanned.cache, job.recipe.seed)
        )
        for samples in (sampled, val)
    ]
    (_, features), (predictions, val_features) = parts
    classes = job.model.classes
    scores = np.stack([each.scores for each in predictions]).astype(float)
    labels = np.array([classes.index(label_names(sample)[0]) for sample in val])
    all_scores, all_labels, groups = scores, labels, _groups(job, "val")
    if out_of_fold is not None:
        all_scores = np.concatenate([scores, out_of_fold.probabilities])
        all_labels = np.concatenate([labels, out_of_fold.labels])
    temperature = fit_temperature(all_scores, all_labels)
    if len(val) < _ENOUGH and out_of_fold is not None:
        scores, labels, groups = all_scores, all_labels, groups + _groups(job, "train")
    space, units = FeatureSpace.fit(features), len(set(groups))
    calibration = Calibration.fit(scores, labels, val_features, space, temperature, units)
    log.info(describe_promise(SETS, COVERAGE, units))
    job.run.write_json(CALIBRATION_FILE, calibration.row())
    tensors = {
        name: torch.from_numpy(getattr(calibration.feature_space, name)).half()
        for name in ("mean", "directions")
    }
    job.run.write_tensors(FEATURE_SPACE_FILE, tensors)
    return {
        "temperature": temperature,
        "images": len(val),
        "units": units,
        "left_out": 0 if out_of_fold is None else len(out_of_fold.labels),
    }


def _groups(job: Job, split: Split) -> list[str]:
    return [job.groups[index] for index in job.indices(split)]


def _predict_with_features(job: Job, dataset: ImageDataset) -> tuple[list[Any], np.ndarray]:
    """Predictions, and pooled features (N, D)."""
    with collect_features(job.model) as features:
        return predict_for_job(job, dataset), torch.cat(features).numpy()


def choose_operating_point(job: Job, temperature: float) -> OperatingPoint | None:
    """Choose the threshold that the recipe asks for, on the validation images.

    Args:
        job: The fit.
        temperature: That the predictor of the run applies to the probabilities.

    Returns:
        None if the recipe asks for none, or no validation image has the class that it needs.
    """
    settings, val = job.model.task.settings, job.dataset("val")
    goals: dict[Goal, float | None] = {
        "sensitivity": getattr(settings, "at_sensitivity", None),
        "specificity": getattr(settings, "at_specificity", None),
    }
    goal, value = next(((name, value) for name, value in goals.items() if value), (None, None))
    if goal is None or value is None:
        return None
    classes = job.model.classes
    chosen = None
    if len(val):
        scores = np.stack([each.scores for each in predict_for_job(job, val)]).astype(float)
        own = apply_temperature(scores, temperature)[:, classes.index(settings.positive)]
        positive = np.array([label_names(each)[0] == settings.positive for each in val.samples])
        chosen = OperatingPoint.choose(own, positive, goal, value)
    if chosen is None:
        log.warning(f"no validation image tells anything about the {goal}: there is no threshold")
        return None
    text = "reaches the {goal} {value:g} on {images:validation image|validation images}"
    reason = Message("choice.threshold", text, goal=goal, value=value, images=len(val))
    job.run.record([Decision("threshold", round(chosen.threshold, 4), reason)])
    return chosen
