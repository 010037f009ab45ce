"""What the accuracy could fall to on images unlike the training images, beside the score."""

from __future__ import annotations

from typing import Any

from foveate.messages import Message
from foveate.run.folder import Run
from foveate.types import Scores

_HELD_OUT = ("val", "test")


def unlike_accuracy(run: Run, split: str) -> dict[str, Any] | None:
    """Return the row that `fit` measured (`training.unlike_images`).

    None if it was not measured, or images of `split` may have been trained on.
    """
    row: dict[str, Any] | None = run.outcome().get("unlike")
    return row if split in _HELD_OUT else None


def describe_unlike(scores: Scores, unlike: dict[str, Any]) -> Message:
    """Say the accuracy on these images, and the range to expect on others.

    Args:
        scores: Of held-out images of the run.
        unlike: The row of `unlike_accuracy`.
    """
    accuracy = scores.numbers["accuracy"].value
    if unlike["low"] >= accuracy:
        return Message(
            "report.unlike_level",
            "accuracy is {accuracy} on images like these; leaving clusters of look-alikes out of "
            "the training of a linear classifier does not lower it",
            accuracy=f"{accuracy:.3f}",
        )
    return Message(
        "report.unlike",
        "accuracy is {accuracy} on images like these; on unlike ones it may fall to {low} to "
        "{high} (measured by leaving clusters of look-alikes out of the training of a linear "
        "classifier)",
        accuracy=f"{accuracy:.3f}",
        low=f"{unlike['low']:.2f}",
        high=f"{min(unlike['high'], accuracy):.2f}",
    )
