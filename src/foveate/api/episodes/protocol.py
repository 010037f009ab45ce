"""Episodes: n ways, k shots, over and over (Vinyals et al. 2016), on features of a frozen backbone.

Letters: N images, D width of a feature, W ways, K shots, Q queries of each class, E episodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foveate.errors import UsageError
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.model import Model
from foveate.types import Score

_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
_FOLDS = 5


@dataclass(frozen=True)
class Episode:
    """`known` (W * K,) and `asked` (W * Q,): disjoint image indices, class by class."""

    known: np.ndarray
    asked: np.ndarray


def episodes(
    labels: Sequence[str], ways: int, shots: int, queries: int, count: int, seed: int
) -> Iterator[Episode]:
    """`count` episodes of `ways` classes that have enough images, drawn with the seed.

    Raises UsageError where fewer classes have `shots` + `queries` images, or when there is nothing
    to tell apart.
    """
    if min(ways - 1, shots, queries, count) < 1:
        raise UsageError(
            f"an episode needs at least 2 ways, 1 shot and 1 query, got {ways}, {shots}, {queries}"
        )
    sizes = Counter(labels)
    if len(sizes) < ways:
        raise UsageError(
            f"there are {len(sizes)} classes, {ways} ways are asked for", hint="fewer ways"
        )
    enough = sorted(name for name, size in sizes.items() if size >= shots + queries)
    if len(enough) < ways:
        small = min(sizes, key=lambda name: (sizes[name], name))
        what = f"{len(enough)} classes have {shots} + {queries} images, {ways} ways are asked for"
        raise UsageError(
            what, why=f"{small!r} has {sizes[small]}", hint="fewer ways, shots or queries"
        )
    places = {name: np.flatnonzero(np.array(labels) == name) for name in enough}
    draw = np.random.default_rng(seed)
    for _ in range(count):
        chosen = draw.choice(len(enough), ways, replace=False)
        drawn = np.stack(
            [draw.permutation(places[enough[way]])[: shots + queries] for way in chosen]
        )
        yield Episode(drawn[:, :shots].ravel(), drawn[:, shots:].ravel())


def accuracies(model: Model, features: np.ndarray, found: Iterable[Episode]) -> np.ndarray:
    """(E,) shares of right answers: the model's tuning solves its head anew for each episode, on
    features (N, D) that the head described. The model answers with as many classes as an episode
    has ways.
    """
    ways, right = len(model.classes), []
    for episode in found:
        truth = np.repeat(np.arange(ways), len(episode.asked) // ways)
        taught = np.repeat(np.arange(ways), len(episode.known) // ways)
        folds = np.tile(np.arange(len(episode.known) // ways) % _FOLDS, ways)
        known = LabeledFeatures(features[episode.known], np.eye(ways)[taught], folds)
        right.append(
            float((solved_answers(model, known, features[episode.asked]).argmax(1) == truth).mean())
        )
    return np.array(right)


def solved_answers(model: Model, known: LabeledFeatures, asked: np.ndarray) -> np.ndarray:
    """(Q, W) logits of described features (Q, D), by the head as the model's tuning solves it from
    the known ones.
    """
    model.tuning.fit_head(model, known)
    head: Any = model.head
    own, head.feature_vector = head.feature_vector, _as_they_are
    try:
        with torch.inference_mode():
            return np.asarray(head(torch.from_numpy(np.ascontiguousarray(asked, dtype=np.float32))))
    finally:
        head.feature_vector = own


def mean_of(shares: np.ndarray) -> Score:
    """The mean over episodes with its 95 % interval, 1.96 standard errors to either side, as papers
    report it.
    """
    mean = float(shares.mean())
    reach = _Z * float(shares.std(ddof=1)) / len(shares) ** 0.5 if len(shares) > 1 else float("nan")
    return Score(mean, mean - reach, mean + reach, len(shares))


def _as_they_are(features: Any) -> Any:
    return features
