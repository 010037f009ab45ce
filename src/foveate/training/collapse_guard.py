"""What keeps pre-training from doing harm: held-out images are looked at every epoch, and compared with the start.

Letters: N held-out images, D width of a feature, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.evaluation.intervals import paired_bootstrap
from foveate.modeling.classifiers.knn import NEIGHBOURS, weighted
from foveate.modeling.model import Model
from foveate.training.validation import ValidationResult, Validator
from foveate.types import Provides, Score
from foveate.utils.device import ComputeMode

_WANTS = frozenset({Provides.POOLED})
_RANK, _SPREAD = 0.25, 0.1  # of what they were at the start: below, the features have collapsed
_NOTHING = {"rank": 1.5, "spread": 0.01}  # below, they have, wherever they began
_PATIENCE = 3  # epochs in a row that are worse than the start before it ends: the first steps of a new head disturb
_PENALTY = 0.1  # of the linear classifier, where features have length 1
_HARM = "worse"


@dataclass(frozen=True)
class Measures:
    """What features of the held-out images are like.

    `rank`: how many directions they fill (RankMe, Garrido et al. 2023). `spread`: mean deviation of features of length 1. `found`:
    (N,) bool, whether a distorted copy of an image is nearest to another copy of it. `knn`, `linear`: (N,) bool, whether its
    neighbours, or a linear classifier, know the image's class, each image being left out in turn; None without labels.
    """

    rank: float
    spread: float
    found: np.ndarray
    knn: np.ndarray | None = None
    linear: np.ndarray | None = None

    def row(self) -> dict[str, float]:
        both = (("knn_accuracy", self.knn), ("linear_accuracy", self.linear))
        known = {name: float(hits.mean()) for name, hits in both if hits is not None}
        return {
            **known,
            "self_retrieval": float(self.found.mean()),
            "rank": self.rank,
            "spread": self.spread,
        }

    def part(self, places: np.ndarray) -> Measures:
        """Of some of the images, as they were measured among all."""
        knn, linear = (None if hits is None else hits[places] for hits in (self.knn, self.linear))
        return Measures(self.rank, self.spread, self.found[places], knn, linear)


class CollapseGuard(Validator):
    """Scores the backbone by its features of held-out images, and ends a training that does harm.

    `held`: the images as they are; `copies`: the same, as two wide views of little distortion. `labels`: (N,) places of their
    classes, where they are known. One half of the images chooses the epoch to keep and tells harm; what is told in the end is of
    the other. `size`: images at once. `random`: whether the start is random weights.
    """

    def __init__(
        self,
        held: ImageDataset,
        copies: ImageDataset,
        labels: np.ndarray | None,
        device: torch.device,
        way: ComputeMode,
        size: int,
        random: bool,
    ) -> None:
        self.held, self.copies, self.labels, self.random = held, copies, labels, random
        self.device, self.way, self.size = device, way, size
        order = np.random.default_rng(0).permutation(len(held))
        self.choosing, self.telling = order[::2], order[1::2]
        self.start: Measures | None = None
        self.worse = self.epochs = 0

    def measure_start(self, model: Model, logged: Sequence[dict[str, Any]]) -> None:
        """Looks at the model as it is before the first step; `logged`: the epochs that a resumed run has behind it."""
        self.start = self.measured(model)
        self.worse, self.epochs = 0, len(logged)
        for row in logged:
            self.worse = self.worse + 1 if row.get(_HARM) else 0

    def validate(self, model: Model, asked: Callable[[], bool]) -> ValidationResult | None:
        assert self.start is not None
        now = self.measured(model)
        if asked():
            return None
        gone = collapsed(now, self.start, self.random)
        harm = gone or fallen(now.part(self.choosing), self.start.part(self.choosing))
        self.worse = self.worse + 1 if harm else 0
        ended = harm if gone or self.worse >= _PATIENCE else ""
        known = now.part(self.choosing).knn
        self.epochs += 1  # without labels the last epoch that did no harm is kept
        score = [float(not harm), float(self.epochs if known is None else known.mean())]
        return ValidationResult(score, {**now.row(), _HARM: bool(harm)}, ended)

    @torch.inference_mode()
    def measured(self, model: Model) -> Measures:
        was_training = model.training
        model.eval()
        features = self.features(model)
        batches = (batch.normalized() for batch in self._batches(self.copies))
        views = [
            (batch.images, torch.stack([each["wide"][0] for each in batch.targets]))
            for batch in batches
        ]
        one, other = (
            torch.cat([self._pooled(model, pair[place]) for pair in views]) for place in (0, 1)
        )
        model.train(was_training)
        known = (
            []
            if self.labels is None
            else [answer(features, self.labels) for answer in (knn_hits, linear_hits)]
        )
        return Measures(rank(features), spread(features), found(one, other), *known)

    @torch.inference_mode()
    def features(self, model: Model) -> Tensor:
        """(N, D) of the held-out images, by a model in eval mode."""
        return torch.cat(
            [self._pooled(model, batch.normalized().images) for batch in self._batches(self.held)]
        )

    def _pooled(self, model: Model, images: Tensor) -> Tensor:
        with self.way.autocast(self.device):
            found = model.backbone(
                images.to(self.device, memory_format=self.way.memory_format), _WANTS
            ).pooled
        assert found is not None
        return torch.as_tensor(found).float().cpu()

    def _batches(self, pictures: ImageDataset) -> Any:
        return make_loader(pictures, BatchSampler(len(pictures), self.size))


def rank(features: Tensor) -> float:
    """(N, D) -> the exponential of the entropy of the singular values' shares (RankMe, equation 2); nan where a feature is."""
    if not bool(features.isfinite().all()):
        return float("nan")
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp(min=1e-12) + 1e-12
    return float((-(shares * shares.log()).sum()).exp())


def spread(features: Tensor) -> float:
    """(N, D) -> the mean deviation of the numbers of features of length 1, times the root of D: 1 where they point anywhere, 0
    where all images look the same."""
    return float(functional.normalize(features, dim=1).std(0).mean() * features.shape[1] ** 0.5)


def found(one: Tensor, other: Tensor) -> np.ndarray:
    """(N, D) each -> (N,) bool: the nearest of the others is the copy of the same image."""
    nearest = (functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T).argmax(1)
    return (nearest == torch.arange(len(one))).numpy()


def knn_hits(features: Tensor, labels: np.ndarray) -> np.ndarray:
    """(N, D), (N,) -> (N,) bool: whether the votes of an image's neighbours, itself left out, are for its class."""
    alike, answers = _compared(features, labels)
    cosines = (alike @ alike.T).fill_diagonal_(-2.0)  # below any cosine: nobody votes for itself
    nearest, places = cosines.topk(min(NEIGHBOURS, len(labels) - 1), dim=1)
    return np.asarray(weighted(nearest, answers[places]).argmax(1).numpy() == labels)


def linear_hits(features: Tensor, labels: np.ndarray) -> np.ndarray:
    """(N, D), (N,) -> (N,) bool: the same of a linear classifier, by least squares with a small penalty. To leave an image out
    takes no second solution: its error grows by its own share in the answer (Allen 1974)."""
    rows, classes = (each.double() for each in _compared(features, labels))
    targets = classes - classes.mean(0)
    inverse = torch.linalg.inv(rows @ rows.T + _PENALTY * torch.eye(len(rows), dtype=torch.float64))
    left_out = targets - (inverse @ targets) / inverse.diagonal()[:, None]
    return np.asarray((left_out + classes.mean(0)).argmax(1).numpy() == labels)


def _compared(features: Tensor, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """(N, D) features, centred and of length 1, and (N, K) their classes, one-hot."""
    return functional.normalize(features - features.mean(0), dim=1), torch.from_numpy(
        np.eye(labels.max() + 1)[labels]
    ).float()


def collapsed(now: Measures, start: Measures, random: bool) -> str:
    """Why these features are of no use to anyone; empty where they may be. Those of `random` weights are no measure for others."""
    if not np.isfinite([now.rank, now.spread]).all():
        return "features are no finite numbers any more"
    if now.rank < (_NOTHING["rank"] if random else _RANK * start.rank):
        return (
            f"features collapse: they fill {now.rank:.1f} directions, at the start {start.rank:.1f}"
        )
    if now.spread < (_NOTHING["spread"] if random else _SPREAD * start.spread):
        return f"features collapse: all images look the same (spread {now.spread:.3f}, at the start {start.spread:.3f})"
    return ""


def fallen(now: Measures, start: Measures) -> str:
    """Why these features are worse than those of the start, beyond the noise of the images; empty where they are not."""
    name, more, low, high = "self-retrieval", *paired_bootstrap(now.found, start.found)
    if now.knn is not None and start.knn is not None:
        name, more, low, high = "k-NN accuracy", *paired_bootstrap(now.knn, start.knn)
    return f"{name} {more:+.3f} [{low:+.3f}, {high:+.3f}] against the start" if high < 0 else ""


def gained(now: Measures, start: Measures) -> Score | None:
    """What k-NN accuracy has gained, with a paired interval; None without labels."""
    if now.knn is None or start.knn is None:
        return None
    more, low, high = paired_bootstrap(now.knn, start.knn)
    return Score(more, low, high, len(now.knn))
