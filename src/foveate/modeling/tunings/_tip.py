"""A cache of training images beside the sentences (Tip-Adapter, Zhang et al. 2022): what Tip and Tip-F share.

logits = scale * f W^T + alpha * exp(-beta * (1 - f F^T)) L, with the image f (B, D), the sentences W (K, D), the N training
images F (N, D), all of length 1, and their classes L (N, K) one-hot (equations 3 to 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.backbones import TextBackbone
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings import Adaptable, Choice
from foveate.modeling.tunings._text import TextHead, TextTuning, embedded, sentences
from foveate.types import Features

_ALPHAS = (0.0, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0)
_BETAS = (0.5, 1.0, 2.0, 4.0, 5.5, 8.0, 12.0, 20.0)
_USUAL = (1.0, 5.5)  # the paper's, where there are too few images to choose by


class TipHead(TextHead):
    """`keys` (N, D), `owners` (N,): the class of each; empty until images are known."""

    owners: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, backbone: TextBackbone, text: Tensor, trained: bool) -> None:
        super().__init__(backbone, text)
        self.keys = nn.Parameter(torch.zeros(0, backbone.width), requires_grad=trained)
        self.register_buffer("owners", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("alpha", torch.tensor(_USUAL[0]))
        self.register_buffer("beta", torch.tensor(_USUAL[1]))

    def hold(self, keys: Tensor, owners: Tensor) -> None:
        here = self.text.device
        self.keys = nn.Parameter(keys.to(here), requires_grad=self.keys.requires_grad)
        self.owners = owners.to(here)

    def feature_vector(self, features: Features) -> Tensor:
        """(B, D): what the cache is made of."""
        assert features.pooled is not None
        return features.pooled.float()

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(images) + self.alpha * votes(
            images, self.keys, self.owners, len(self.text), self.beta
        )


class TipTuning(TextTuning):
    """`trained`: whether the keys move."""

    trained: ClassVar[bool]

    @torch.no_grad()
    def head(self, backbone: TextBackbone, classes: Sequence[str]) -> TipHead:
        return TipHead(
            backbone, embedded(backbone, sentences(classes, self.settings)), self.trained
        )

    def prepare_for_tensors(self, model: Adaptable, tensors: Mapping[str, Tensor]) -> None:
        head: Any = model.head
        if "head.keys" in tensors:
            head.hold(
                torch.zeros_like(tensors["head.keys"]), torch.zeros_like(tensors["head.owners"])
            )

    @torch.no_grad()
    def fit_head(self, model: Adaptable, known: LabeledFeatures) -> list[Choice]:
        head: Any = model.head
        images = functional.normalize(torch.from_numpy(known.features).to(head.text.device), dim=1)
        owners = torch.from_numpy(known.targets.argmax(1)).to(images.device)
        plain = TextHead.logits(head, images)
        losses = _left_out(images, owners, plain, known.folds)
        alpha, beta = min(losses, key=lambda pair: losses[pair]) if losses else _USUAL
        head.hold(images, owners)
        head.alpha.fill_(alpha)
        head.beta.fill_(beta)
        why = "too few images to choose by: the paper's"
        if losses:
            both = f"{losses[alpha, beta]:.3f}, {losses[0.0, beta]:.3f} without the cache"
            why = f"least log loss over {len(set(known.folds))} folds by group: {both}"
        return [("head.alpha", alpha, why), ("head.beta", beta, why)]


def votes(
    images: Tensor, keys: Tensor, owners: Tensor, classes: int, beta: Tensor | float
) -> Tensor:
    """(B, D), (N, D), (N,) -> (B, K): how near the images of each class are."""
    nearness = (-beta * (1 - images @ keys.T)).exp()
    return nearness @ functional.one_hot(owners, classes).to(nearness.dtype)


def _left_out(
    images: Tensor, owners: Tensor, plain: Tensor, folds: np.ndarray
) -> dict[tuple[float, float], float]:
    """(alpha, beta) -> mean log loss over images that the cache does not hold; empty where there is one fold.

    `plain`: (N, K) logits by the sentences alone.
    """
    parts = [torch.from_numpy(folds == fold).to(images.device) for fold in np.unique(folds)]
    if len(parts) < 2:
        return {}
    found = {}
    for beta in _BETAS:
        voted = torch.empty_like(plain)
        for out in parts:
            voted[out] = votes(images[out], images[~out], owners[~out], plain.shape[1], beta)
        for alpha in _ALPHAS:
            found[alpha, beta] = float(functional.cross_entropy(plain + alpha * voted, owners))
    return found
