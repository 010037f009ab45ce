"""Few-shot episodes: n ways, k shots (Vinyals et al. 2016), on features of a frozen backbone.

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
from foveate.messages import counted
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.model import Model
from foveate.types import Score

_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
_FOLDS = 5


@dataclass(frozen=True)
class Episode:
    """`support` (W * K,) and `query` (W * Q,): disjoint image indices, class by class."""

    support: np.ndarray
    query: np.ndarray


def draw_episodes(
    labels: Sequence[str], ways: int, shots: int, queries: int, count: int, seed: int
) -> Iterator[Episode]:
    """Draw episodes of classes that have enough images.

    Args:
        labels: Class of each image.
        ways: W, classes per episode.
        shots: K, support images per class.
        queries: Q, query images per class.
        count: E, number of episodes.
        seed: Seed of the draws.

    Raises:
        UsageError: Fewer than `ways` classes have `shots` + `queries` images, or an episode would
            have fewer than two classes.
    """
    if min(ways - 1, shots, queries, count) < 1:
        raise UsageError(
            f"an episode needs at least 2 ways, 1 shot and 1 query, got {ways}, {shots}, {queries}"
        )
    sizes = Counter(labels)
    if len(sizes) < ways:
        raise UsageError(
            f"an episode of {ways} classes needs as many in the data",
            where="--ways",
            why=f"the data have {counted(len(sizes), 'class', 'classes')}",
            hint=f"--ways {len(sizes)}" if len(sizes) > 1 else "data of at least 2 classes",
        )
    enough = sorted(name for name, size in sizes.items() if size >= shots + queries)
    if len(enough) < ways:
        small = min(sizes, key=lambda name: (sizes[name], name))
        raise UsageError(
            f"an episode needs {ways} classes with at least {shots + queries} images each "
            f"({shots} shots and {queries} queries)",
            why=f"{counted(len(enough), 'class has', 'classes have')} as many; the smallest, "
            f"{small!r}, has {sizes[small]}",
            hint="lower --ways, --shots or --queries",
        )
    indices = {name: np.flatnonzero(np.array(labels) == name) for name in enough}
    rng = np.random.default_rng(seed)
    for _ in range(count):
        chosen = rng.choice(len(enough), ways, replace=False)
        drawn = np.stack(
            [rng.permutation(indices[enough[way]])[: shots + queries] for way in chosen]
        )
        yield Episode(drawn[:, :shots].ravel(), drawn[:, shots:].ravel())


def episode_accuracies(
    model: Model, features: np.ndarray, episodes: Iterable[Episode]
) -> np.ndarray:
    """Return the accuracy of each episode, (E,).

    Args:
        model: Has W classes; its tuning fits the head anew for each episode.
        features: (N, D), as the head computes them from the outputs of the backbone.
        episodes: The episodes.
    """
    ways, accuracies = len(model.classes), []
    for episode in episodes:
        shots, queries = len(episode.support) // ways, len(episode.query) // ways
        support = LabeledFeatures(
            features[episode.support],
            np.eye(ways)[np.repeat(np.arange(ways), shots)],
            np.tile(np.arange(shots) % _FOLDS, ways),
        )
        logits = fit_and_predict(model, support, features[episode.query])
        correct = logits.argmax(1) == np.repeat(np.arange(ways), queries)
        accuracies.append(float(correct.mean()))
    return np.array(accuracies)


def fit_and_predict(model: Model, support: LabeledFeatures, queries: np.ndarray) -> np.ndarray:
    """Fit the head to the support features, and return the logits (Q, W) of queries (Q, D)."""
    model.tuning.fit_head(model, support)
    head: Any = model.head
    own, head.feature_vector = head.feature_vector, _identity  # the input is features already
    try:
        with torch.inference_mode():
            inputs = np.ascontiguousarray(queries, dtype=np.float32)
            return np.asarray(head(torch.from_numpy(inputs)))
    finally:
        head.feature_vector = own


def mean_accuracy(accuracies: np.ndarray) -> Score:
    """Return the mean over episodes with its 95 % interval.

    The interval reaches 1.96 standard errors to either side, as papers report it; one episode has
    none.
    """
    mean, count = float(accuracies.mean()), len(accuracies)
    if count < 2:
        return Score(mean, count=count)
    half = _Z * float(accuracies.std(ddof=1)) / count**0.5
    return Score(mean, mean - half, mean + half, count)


def _identity(features: Any) -> Any:
    return features
