"""The main number on parts of the images, by what a table says of them: who is served worse than the average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.records import traits
from foveate.errors import DataError
from foveate.inference.engine import compute_scores
from foveate.inference.predictor import Predictor
from foveate.types import Sample, Score
from foveate.utils import log
from foveate.utils.paths import printable

_MOST = 20  # values of a column; numbers beyond that are cut into quarters
_QUARTERS = 4


@dataclass(frozen=True)
class Slice:
    """`worse`: whether the interval of `score` lies below the number on all images."""

    column: str
    value: str
    score: Score
    worse: bool


def sliced(
    predictor: Predictor,
    samples: Sequence[Sample],
    predictions: Sequence[Any],
    table: Path,
    whole: Score,
) -> list[Slice]:
    """The smallest slice first; images are matched by their path, or by their name where that is told of one alone.

    Raises DataError for a table that says nothing of these images."""
    about = _matched(samples, traits(table))
    if not any(about):
        hint = "paths count from the folder of the table"
        raise DataError(
            "this table names none of these images",
            where=printable(table),
            why=f"such as {samples[0].key}",
            hint=hint,
        )
    missing = sum(not each for each in about)
    if missing:
        log.warning(
            f"the table says nothing of {missing} of {len(samples)} images: they are in no slice"
        )
    found = []
    for column in next(each for each in about if each):
        words = _binned(column, [each.get(column, "") for each in about])
        for value in sorted(set(words) - {""}):
            own = [place for place, word in enumerate(words) if word == value]
            pairs = [predictions[place] for place in own], [samples[place] for place in own]
            scores = compute_scores(*pairs, predictor.model, predictor.multilabel)
            score = scores.numbers[scores.main]
            found.append(
                Slice(column, value, score, score.high is not None and score.high < whole.value)
            )
    return sorted(found, key=lambda each: (each.score.count, each.column, each.value))


def rows(slices: Sequence[Slice]) -> list[dict[str, Any]]:
    found = []
    for each in slices:
        score = asdict(each.score)
        found.append(
            {
                "column": each.column,
                "value": each.value,
                "score": score.pop("value"),
                **score,
                "worse": each.worse,
            }
        )
    return found


def lines(slices: Sequence[Slice], main: str) -> list[str]:
    told = [
        f"  {each.column} = {each.value}: {each.score}{', below the average' if each.worse else ''}"
        for each in slices
    ]
    return [f"{main} by slice, the smallest first:", *told] if told else []


def _matched(samples: Sequence[Sample], known: dict[Path, dict[str, str]]) -> list[dict[str, str]]:
    places = {path.resolve(): cells for path, cells in known.items()}
    names = [path.name for path in known]
    alone = {path.name: cells for path, cells in known.items() if names.count(path.name) == 1}
    return [
        places.get(sample.path.resolve()) or alone.get(sample.path.name, {}) for sample in samples
    ]


def _binned(column: str, words: list[str]) -> list[str]:
    """Values as they are; of many numbers the quarters; nothing of other columns of many values, such as names, said aloud."""
    if len(set(words)) <= _MOST:
        return words
    try:
        numbers = np.array([float(word) if word else np.nan for word in words])
    except ValueError:
        log.warning(f"the column {column!r} has {len(set(words))} values: too many to slice by")
        return [""] * len(words)
    ends = np.nanquantile(numbers, np.linspace(0, 1, _QUARTERS + 1))
    places = np.searchsorted(ends[1:-1], numbers, side="right")
    titles = [f"{one:g} to {other:g}" for one, other in pairwise(ends)]
    return [
        "" if np.isnan(number) else titles[place]
        for number, place in zip(numbers, places.tolist(), strict=True)
    ]
