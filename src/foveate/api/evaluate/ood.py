"""Pictures of other things: does the network know that it does not know them?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foveate.data.discovery import images_at
from foveate.errors import UsageError
from foveate.evaluation.metrics import with_interval
from foveate.inference.predictor import Predictor
from foveate.predictions import Labels
from foveate.reporting.pages import OodResult
from foveate.utils import log


def told_apart(predictor: Predictor, own: Sequence[object], other: Path) -> OodResult:
    """The area under the ROC curve of how much of the features lies outside of what is familiar, of the run's own pictures,
    answered already, against those of `other`. Raises UsageError for a run that was not calibrated."""
    home = _outside(own)
    if len(home) < len(own) or not len(own):
        hint = "a run with one class an image and at least 30 validation images"
        raise UsageError("this run does not know what is familiar to it", where="--ood", hint=hint)
    found = list(predictor.predict(images_at([other])))
    broken = sum(answer.prediction is None for answer in found)
    if broken:
        log.warning(f"{broken} of {len(found)} other pictures could not be read")
    away = _outside([answer.prediction for answer in found])
    if not len(away):
        raise UsageError("none of the other pictures can be read", where=other, hint="--ood FOLDER")
    return OodResult(other.name, with_interval(_area(home, away), _interval(home, away), len(away)))


def _outside(answers: Sequence[object]) -> np.ndarray:
    return np.array(
        [
            answer.uncertainty.residual
            for answer in answers
            if isinstance(answer, Labels) and answer.uncertainty is not None
        ]
    )


def _area(home: np.ndarray, away: np.ndarray) -> float:
    """The chance that more of a stranger's lies outside, ties counting half (Mann & Whitney)."""
    ordered = np.sort(home)
    below, upto = np.searchsorted(ordered, away, "left"), np.searchsorted(ordered, away, "right")
    return float((below + upto).mean() / 2 / len(home))


def _interval(home: np.ndarray, away: np.ndarray, rounds: int = 400) -> tuple[float, float]:
    """A percentile bootstrap over both."""
    rng = np.random.default_rng(0)
    drawn = [_area(rng.choice(home, len(home)), rng.choice(away, len(away))) for _ in range(rounds)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
