"""evaluate --shift OTHER_DATA: what a run loses on images from elsewhere."""

from __future__ import annotations

from typing import Any

from foveate.evaluation.metrics import Metric, unpaired_difference
from foveate.reporting.pages import Shift
from foveate.types import Scores


def between(home: Metric, here: Scores, away: Metric, there: Scores) -> Shift:
    """The drop of the main number with its interval, and that of each class, the largest first."""
    counts = (here.numbers[here.main].count, there.numbers[there.main].count)
    rows = [
        _row(one, other, home.class_score)
        for one, other in zip(here.per_class, there.per_class, strict=True)
    ]
    rows.sort(key=lambda row: (row["drop"] is None, -(row["drop"] or 0.0)))
    return Shift(
        home.class_score,
        here.numbers[here.main],
        there.numbers[there.main],
        unpaired_difference(home, away, counts),
        rows,
    )


def _row(here: dict[str, Any], there: dict[str, Any], key: str) -> dict[str, Any]:
    """A class; without a drop where one of the two sets shows none of it."""
    known = all(row["count"] and row[key] is not None for row in (here, there))
    lost = here[key] - there[key] if known else None
    found = {"class": here["class"], "home": here[key], "away": there[key], "drop": lost}
    return {**found, "home_count": here["count"], "away_count": there["count"]}


def differences(shift: Shift) -> list[str]:
    """What the two figures do not have in common."""
    gone = [row["class"] for row in shift.per_class if not row["away_count"] and row["home_count"]]
    fresh = [row["class"] for row in shift.per_class if row["away_count"] and not row["home_count"]]
    both = ((gone, "the other data shows none of"), (fresh, "the run's own images show none of"))
    told = [f"{what} {len(names)} classes, such as {names[0]!r}" for names, what in both if names]
    return [f"{sentence}: the two figures ask for different classes" for sentence in told]


def lines(shift: Shift, main: str) -> list[str]:
    """The drop, and the classes that lose most."""
    worst = [row for row in shift.per_class if (row["drop"] or 0) > 0][:5]
    told = [
        f"  {row['class']}: {shift.measure} {row['home']:.3f} here, {row['away']:.3f} there"
        for row in worst
    ]
    verdict = "" if shift.drop.low is not None and shift.drop.low > 0 else ", within the noise"
    found = [f"{main} drops by {shift.drop}{verdict}: {shift.home} here, {shift.away} there"]
    return [*found, *(["classes that lose most:", *told] if told else [])]
