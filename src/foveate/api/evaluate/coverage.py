"""Whether prediction sets and intervals hold what was promised on the images of an evaluation."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from foveate.evaluation.coverage import INTERVALS, SETS, Promise, describe_promise
from foveate.inference.predictor import Predictor
from foveate.messages import Message
from foveate.types import Score, Scores

_KINDS = {"set_coverage": SETS, "interval_coverage": INTERVALS}


@dataclass(frozen=True)
class CoverageResult:
    """The coverage on some images, beside the one that was promised.

    Attributes:
        kind: What is promised to hold the truth.
        requested: The coverage that was requested.
        units: Independent images or groups of the calibration.
        observed: Share of these images whose truth is held.
    """

    kind: Message
    requested: float
    units: int
    observed: Score

    @property
    def promise(self) -> Promise | None:
        """None where the calibration had too few images for any."""
        return Promise.of(self.requested, self.units)

    @property
    def is_broken(self) -> bool:
        """Whether the coverage is lower than chance allows."""
        count = self.observed.groups or self.observed.count
        return self.promise is not None and self.promise.is_broken(self.observed.value, count)

    def row(self) -> dict[str, Any]:
        """Return a JSON-able row."""
        return {
            "coverage": self.requested,
            "units": self.units,
            "low": None if self.promise is None else self.promise.low,
            "high": None if self.promise is None else self.promise.high,
            "observed": self.observed.value,
            "broken": self.is_broken,
        }

    def describe(self) -> Message:
        """Say what was promised, in a sentence."""
        return describe_promise(self.kind, self.requested, self.units)

    def cautions(self, run: str, own: bool) -> list[Message]:
        """Say that the promise is broken, and what to do next.

        Args:
            run: The run folder.
            own: Whether these are the held-out images of the run.
        """
        if not self.is_broken:
            return []
        assert self.promise is not None
        known = {
            "kind": self.kind,
            "requested": f"{self.requested:g}",
            "observed": self.observed.with_interval,
            "low": f"{self.promise.low:.3f}",
        }
        if own:
            text = (
                "{kind} hold the truth for {observed} of these images; {requested} was promised, "
                "and chance alone does not explain it ({low} at the least): the images that they "
                "were calibrated on are unlike these; hold out more with --set data.val=0.25"
            )
            return [Message("caution.coverage_broken_own", text, **known)]
        text = (
            "the promise of the {kind} is broken on these images: they hold the truth for "
            "{observed} of them; {requested} was promised, and {low} at the least on images like "
            "those of the run. Do not rely on them here, nor on the confidence: label some of "
            "these images and run foveate continue {run} LABELED_DATA, which calibrates anew; "
            "foveate adapt {run} IMAGES needs no labels, and its predictions promise no coverage"
        )
        return [Message("caution.coverage_broken", text, run=shlex.quote(run), **known)]


def check_coverage(predictor: Predictor, scores: Scores) -> CoverageResult | None:
    """Return the coverage in the scores of a calibrated run; None if they have none."""
    name = next((name for name in _KINDS if name in scores.numbers), None)
    if name is None or predictor.calibration is None:
        return None
    units = predictor.calibration.units
    return CoverageResult(_KINDS[name], predictor.coverage, units, scores.numbers[name])
