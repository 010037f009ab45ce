"""The main score on subgroups of the images, by the columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from foveate.data.image_rows import read_attributes
from foveate.errors import DataError
from foveate.inference.engine import compute_scores
from foveate.inference.predictor import Predictor
from foveate.messages import counted
from foveate.types import Sample, Score
from foveate.utils import log
from foveate.utils.paths import printable

_MAX_VALUES = 20  # of a column; more numbers are binned
_BINS = 4


@dataclass(frozen=True)
class Slice:
    """A subgroup.

    Attributes:
        column: Of the table.
        value: That its images have in the column.
        score: The main score.
        worse: Whether the interval of the score lies below the score of all images.
    """

    column: str
    value: str
    score: Score
    worse: bool


def score_slices(
    predictor: Predictor,
    samples: Sequence[Sample],
    predictions: Sequence[Any],
    table: Path,
    overall: Score,
) -> list[Slice]:
    """Return the subgroups, the smallest first.

    Images are matched by their path, or by their file name where it is unique in the table.

    Args:
        predictor: The run.
        samples: The images.
        predictions: Of the images.
        table: File with a column `path` and others.
        overall: The main score of all images.

    Raises:
        DataError: The table cannot be read, or names none of these images.
    """
    rows = _match(samples, read_attributes(table))
    if not any(rows):
        raise DataError(
            "this table names none of these images",
            where=printable(table),
            why=f"such as {samples[0].key}",
            hint="paths are relative to the folder of the table",
        )
    missing = sum(not row for row in rows)
    if missing:
        log.warning(
            f"the table lacks {missing} of {counted(len(samples), 'image', 'images')}, which no "
            "subgroup contains"
        )
    slices = []
    for column in next(row for row in rows if row):
        values = _discrete(column, [row.get(column, "") for row in rows])
        for value in sorted(set(values) - {""}):
            members = [index for index, other in enumerate(values) if other == value]
            scores = compute_scores(
                [predictions[index] for index in members],
                [samples[index] for index in members],
                predictor.model,
            )
            score = scores.numbers[scores.main]
            worse = score.high is not None and score.high < overall.value
            slices.append(Slice(column, value, score, worse))
    return sorted(slices, key=lambda each: (each.score.count, each.column, each.value))


def slice_rows(slices: Sequence[Slice]) -> list[dict[str, Any]]:
    """Return JSON-able rows: column, value, score, low, high, count, worse."""
    rows = []
    for each in slices:
        score = asdict(each.score)
        about = {"column": each.column, "value": each.value, "score": score.pop("value")}
        rows.append({**about, **score, "worse": each.worse})
    return rows


def slice_lines(slices: Sequence[Slice], main: str) -> list[str]:
    """Return lines of text."""
    lines = [
        f"  {each.column} = {each.value}: {each.score}{', below average' if each.worse else ''}"
        for each in slices
    ]
    return [f"{main} by subgroup, the smallest first:", *lines] if lines else []


def _match(samples: Sequence[Sample], table: dict[Path, dict[str, str]]) -> list[dict[str, str]]:
    """The row of each sample; empty where there is none."""
    by_path = {path.resolve(): row for path, row in table.items()}
    names = [path.name for path in table]
    by_name = {path.name: row for path, row in table.items() if names.count(path.name) == 1}
    return [
        (by_path.get(sample.path.resolve()) if isinstance(sample.path, Path) else None)
        or by_name.get(PurePosixPath(sample.key).name, {})
        for sample in samples
    ]


def _discrete(column: str, values: list[str]) -> list[str]:
    """The values; of many numbers their quarters; nothing of other columns with many values."""
    if len(set(values)) <= _MAX_VALUES:
        return values
    try:
        numbers = np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        count = len(set(values))
        log.warning(f"the column {column!r} has {count:,} values: too many to form subgroups")
        return [""] * len(values)
    edges = np.nanquantile(numbers, np.linspace(0, 1, _BINS + 1))
    bins = np.searchsorted(edges[1:-1], numbers, side="right")
    names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return [
        "" if np.isnan(number) else names[index]
        for number, index in zip(numbers, bins.tolist(), strict=True)
    ]
