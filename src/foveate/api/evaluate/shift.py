"""Domain shift: what a run loses on images of another domain."""

from __future__ import annotations

from typing import Any

from foveate.evaluation.intervals import unpaired_difference
from foveate.messages import Message
from foveate.reporting.evaluation_page import Shift
from foveate.types import Scores

_MAX_CLASSES = 5  # that are printed


def compare_domains(source: Scores, shifted: Scores, column: str) -> Shift:
    """Return the drop of the main score with its interval, and that of each class.

    Args:
        source: Of the run's own images.
        shifted: Of the images of the other domain.
        column: Of the rows by class, what says how well a class is recognized.
    """
    own, other = (scores.numbers[source.main] for scores in (source, shifted))
    pairs = zip(source.per_class, shifted.per_class, strict=True)
    rows = [_class_row(*pair, column) for pair in pairs]
    rows.sort(key=lambda row: (row["drop"] is None, -(row["drop"] or 0.0)))
    return Shift(column, own, other, unpaired_difference(own, other), rows)


def _class_row(source: dict[str, Any], shifted: dict[str, Any], column: str) -> dict[str, Any]:
    """A class; without a drop where one of the two datasets has no image of it."""
    known = all(row["count"] and row[column] is not None for row in (source, shifted))
    return {
        "class": source["class"],
        "source": source[column],
        "shifted": shifted[column],
        "drop": source[column] - shifted[column] if known else None,
        "source_count": source["count"],
        "shifted_count": shifted["count"],
    }


def class_cautions(shift: Shift) -> list[Message]:
    """Return in which classes the two datasets differ."""
    rows, cautions = shift.per_class, []
    missing = [row["class"] for row in rows if row["source_count"] and not row["shifted_count"]]
    added = [row["class"] for row in rows if row["shifted_count"] and not row["source_count"]]
    if missing:
        cautions.append(
            Message(
                "caution.classes_missing",
                "the other data have no image of {count:class|classes}, such as {name}: the two "
                "scores cover different classes",
                count=len(missing),
                name=repr(missing[0]),
            )
        )
    if added:
        cautions.append(
            Message(
                "caution.classes_added",
                "the run's own images have no image of {count:class|classes}, such as {name}: the "
                "two scores cover different classes",
                count=len(added),
                name=repr(added[0]),
            )
        )
    return cautions


def shift_lines(shift: Shift, main: str) -> list[str]:
    """Return the drop, and the classes that lose most, as lines of text."""
    significant = shift.drop.low is not None and shift.drop.low > 0
    note = "" if significant else ", within the noise"
    scores = f"{shift.source} on own images, {shift.shifted} on the other data"
    lines = [f"{main} drops by {shift.drop}{note}: {scores}"]
    worst = [row for row in shift.per_class if (row["drop"] or 0) > 0][:_MAX_CLASSES]
    if worst:
        lines.append("classes with the largest drop:")
    lines += [
        f"  {row['class']}: {shift.metric} {row['source']:.3f} on own images, "
        f"{row['shifted']:.3f} on the other data"
        for row in worst
    ]
    return lines
