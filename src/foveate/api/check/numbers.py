"""Problems of the numbers that images have as labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveate.data.issues import IssueLog
from foveate.messages import Message
from foveate.predictions import Number
from foveate.types import IssueKind, Sample

CONSTANT = IssueKind(
    "constant_numbers",
    "all training images have the same number, so there is nothing to learn",
    "error",
    hint="add images with other numbers",
)
OUTLIERS = IssueKind(
    "outlying_numbers",
    "numbers far from all others",
    "warning",
    hint="look for a missing decimal point, another unit, or a code for unknown such as -1 or 999",
)
OUTSIDE = IssueKind(
    "numbers_outside_training",
    "numbers of validation or test images outside the range of the training images",
    "warning",
    hint="a model hardly predicts what it has never seen: spread the range over the splits",
)

_FAR = 5.0  # interquartile ranges beyond the quartiles from which a number is an outlier


def check_numbers(samples: Sequence[Sample], log: IssueLog) -> None:
    """Record problems of the numbers; none if the targets are of another kind."""
    values = {each.key: each.target.value for each in samples if isinstance(each.target, Number)}
    train = [values[s.key] for s in samples if s.key in values and s.split in (None, "train")]
    if not train:
        return
    least, most = min(train), max(train)
    if least == most:
        log.add(CONSTANT, f"{least:g}")
        return
    lower, upper = np.quantile(list(values.values()), (0.25, 0.75))
    distance = _FAR * (upper - lower)
    for sample in samples:
        value = values.get(sample.key)
        if value is None:
            continue
        if distance and not lower - distance <= value <= upper + distance:
            log.add(OUTLIERS, sample.key, why=f"{value:g}")
        if sample.split in ("val", "test") and not least <= value <= most:
            log.add(OUTSIDE, sample.key, why=f"{value:g}, not in {least:g} to {most:g}")


def number_rows(samples: Sequence[Sample]) -> list[tuple[Message, Message | str]]:
    """Return the range and the quartiles of the numbers as rows of name and value."""
    values = [each.target.value for each in samples if isinstance(each.target, Number)]
    if not values:
        return []
    least, lower, median, upper, most = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    text = "{least:g} to {most:g}, median {median:g}, quartiles {lower:g} and {upper:g}"
    return [
        (
            Message("check.numbers", "numbers"),
            Message(
                "check.number_range",
                text,
                least=least,
                most=most,
                median=median,
                lower=lower,
                upper=upper,
            ),
        )
    ]
