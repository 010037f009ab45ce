"""Out-of-distribution detection: how well the network tells other images from its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from foveate.data.image_sources import find_samples_at
from foveate.errors import UsageError
from foveate.evaluation.calibration import MIN_IMAGES
from foveate.evaluation.intervals import Quantity, Statistics, Units, estimate
from foveate.inference.predictor import Predictor
from foveate.messages import counted
from foveate.predictions import Labels
from foveate.reporting.evaluation_page import OodResult
from foveate.types import Score
from foveate.utils import log


def detect_ood(
    predictor: Predictor,
    predictions: Sequence[object],
    groups: Sequence[str | None],
    other: Path,
) -> OodResult:
    """Return the AUROC of the features' residual, on the run's own images against other ones.

    Args:
        predictor: A calibrated run.
        predictions: Of the run's own images.
        groups: Of the run's own images.
        other: Folder with other images.

    Raises:
        UsageError: The run was not calibrated, or none of the other images can be read.
    """
    own = _residuals(predictions)
    if len(own) < len(predictions) or not len(predictions):
        raise UsageError(
            "this run cannot detect out-of-distribution images",
            where="--ood",
            why="it was not calibrated",
            hint=f"a run with one class per image and at least {MIN_IMAGES} validation images",
        )
    results = list(predictor.predict(predictor.join_channels(find_samples_at([other]))))
    unreadable = sum(result.prediction is None for result in results)
    if unreadable:
        images = counted(len(results), "out-of-distribution image", "out-of-distribution images")
        log.warning(f"{unreadable} of {images} cannot be read")
    foreign = _residuals([result.prediction for result in results])
    if not len(foreign):
        raise UsageError("none of these images can be read", where=other, hint="--ood FOLDER")
    return OodResult(other.name, _score(own, foreign, groups))


def _residuals(predictions: Sequence[object]) -> np.ndarray:
    return np.array(
        [
            prediction.uncertainty.residual
            for prediction in predictions
            if isinstance(prediction, Labels) and prediction.uncertainty is not None
        ]
    )


def _score(own: np.ndarray, foreign: np.ndarray, groups: Sequence[str | None]) -> Score:
    """The AUROC with its interval.

    Args:
        own: (N,) residuals.
        foreign: (M,) residuals.
        groups: (N,) of the run's own images.
    """
    residuals = np.concatenate([own, foreign])
    members = np.stack([np.arange(len(residuals)) < len(own)] * 2, 1) ^ [False, True]

    def auroc(indices: np.ndarray) -> np.ndarray:
        kept = residuals[indices], indices < len(own)
        return np.array([_auroc(kept[0][kept[1]], kept[0][~kept[1]])])

    units = Units.of([*groups, *[None] * len(foreign)])
    score = estimate(Statistics((Quantity("auroc", members=members, wilson=True),), auroc), units)[
        "auroc"
    ]
    return replace(score, count=len(foreign), groups=0)


def _auroc(own: np.ndarray, foreign: np.ndarray) -> float:
    """The probability that a foreign residual is the larger one, ties counting half
    (Mann-Whitney)."""
    ordered = np.sort(own)
    below = np.searchsorted(ordered, foreign, "left")
    up_to = np.searchsorted(ordered, foreign, "right")
    return float((below + up_to).mean() / 2 / len(own)) if len(own) and len(foreign) else np.nan
