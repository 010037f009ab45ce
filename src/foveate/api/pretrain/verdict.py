"""Whether pretraining has helped, by features of held-out images before and after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foveate.messages import Message, message_from
from foveate.training.collapse_guard import collapse_reason, degradation_reason
from foveate.training.feature_quality import FeatureQuality, knn_gain
from foveate.types import Score

HEADLINES = {
    "helped": Message("pretraining.helped", "helped"),
    "no difference": Message("pretraining.no_difference", "no difference"),
    "did not help": Message("pretraining.did_not_help", "did not help"),
    "cannot tell": Message("pretraining.cannot_tell", "cannot tell"),
}


@dataclass(frozen=True)
class Verdict:
    """Whether pretraining has helped.

    Attributes:
        outcome: "helped", "no difference", "did not help" or "cannot tell".
        explanation: By what measurement.
        gain: In k-NN accuracy, on the labeled images that were not used for selection; None
            without labels.
        rolled_back: Whether the run keeps the initial backbone.
    """

    outcome: str
    explanation: Message
    gain: Score | None
    rolled_back: bool

    @property
    def headline(self) -> Message:
        return HEADLINES[self.outcome]

    def row(self) -> dict[str, Any]:
        """Return what finished.json keeps of it; `verdict_from` reads it back."""
        return {
            "outcome": self.outcome,
            "explanation": self.explanation.row(),
            "gain": asdict(self.gain) if self.gain else None,
            "rolled_back": self.rolled_back,
        }


def verdict_from(row: dict[str, Any]) -> Verdict:
    """Read the verdict that `Verdict.row` wrote."""
    gain = Score(**row["gain"]) if row["gain"] else None
    return Verdict(row["outcome"], message_from(row["explanation"]), gain, row["rolled_back"])


def decide_verdict(
    start: FeatureQuality,
    end: FeatureQuality,
    report_indices: np.ndarray,
    from_scratch: bool,
    harm: Message | None,
) -> Verdict:
    """Compare the features before and after.

    Args:
        start: Features of the held-out images before the first step.
        end: The same by the weights that were kept.
        report_indices: Images that were not used for selection.
        from_scratch: Whether it started from random weights, which nobody misses.
        harm: Why the guard ended the training, if it did.
    """
    before, after = start.subset(report_indices), end.subset(report_indices)
    gain = knn_gain(after, before)
    helped = gain is not None and gain.low is not None and gain.low > 0
    worse = collapse_reason(end, start, from_scratch) or degradation_reason(after, before)
    worse = worse or (None if helped else harm)
    if worse:
        text = "{reason}: the initial backbone is kept"
        kept = Message("pretraining.rolled_back", text, reason=worse)
        return Verdict("did not help", kept, gain, True)
    if gain is None:
        text = (
            "there is no sign of harm, but without labels there can be none of help: --labels DATA"
        )
        return Verdict("cannot tell", Message("pretraining.no_labels", text), None, False)
    change = Message(
        "pretraining.gain",
        "k-NN accuracy {change:+.3f} [{low:+.3f}, {high:+.3f}] on {images:image|images} that were "
        "not used for selection",
        change=gain.value,
        low=gain.low,
        high=gain.high,
        images=gain.count,
    )
    if helped:
        return Verdict("helped", change, gain, False)
    if from_scratch:
        text = (
            "{gain}, within the noise: the new backbone is kept, as it started from random weights"
        )
        return Verdict(
            "no difference", Message("pretraining.noise_scratch", text, gain=change), gain, False
        )
    text = "{gain}, within the noise: the initial backbone is kept"
    return Verdict("no difference", Message("pretraining.noise", text, gain=change), gain, True)
