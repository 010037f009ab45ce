"""A cache of training images beside the text (Tip-Adapter, Zhang et al. 2022): base of Tip and
Tip-F.

logits = scale * f W^T + alpha * exp(-beta * (1 - f F^T)) L, with images f (B, D), class text W (K,
D), the N training images F (N, D), all of length 1, and their one-hot classes L (N, K) (equations 3
to 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.messages import Message
from foveate.modeling.backbones import TextBackbone
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings import Adaptable, folds_text
from foveate.modeling.tunings._text import (
    TextHead,
    TextTuning,
    class_sentences,
    embed_class_sentences,
)
from foveate.types import Decision, Features

_ALPHAS = (0.0, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0)
_BETAS = (0.5, 1.0, 2.0, 4.0, 5.5, 8.0, 12.0, 20.0)
_DEFAULTS = (1.0, 5.5)  # the paper's, used if there are too few images to choose by


class TipHead(TextHead):
    """`keys` (N, D) and their class indices `labels` (N,); empty until `set_cache`."""

    labels: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, backbone: TextBackbone, text: Tensor, trained: bool) -> None:
        super().__init__(backbone, text)
        self.keys = nn.Parameter(torch.zeros(0, backbone.width), requires_grad=trained)
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("alpha", torch.tensor(_DEFAULTS[0]))
        self.register_buffer("beta", torch.tensor(_DEFAULTS[1]))

    def set_cache(self, keys: Tensor, labels: Tensor) -> None:
        device = self.text.device
        self.keys = nn.Parameter(keys.to(device), requires_grad=self.keys.requires_grad)
        self.labels = labels.to(device)

    def feature_vector(self, features: Features) -> Tensor:
        """Return the features (B, D) that the cache holds."""
        assert features.pooled is not None
        return features.pooled.float()

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(images) + self.alpha * cache_logits(
            images, self.keys, self.labels, len(self.text), self.beta
        )


class TipTuning(TextTuning):
    """Base of Tip-Adapter and Tip-Adapter-F.

    Attributes:
        trained: Whether the keys are trainable.
    """

    trained: ClassVar[bool]

    @torch.no_grad()
    def head(self, backbone: TextBackbone, classes: Sequence[str]) -> TipHead:
        return TipHead(
            backbone,
            embed_class_sentences(backbone, class_sentences(classes, self.settings)),
            self.trained,
        )

    def prepare_for_tensors(self, model: Adaptable, tensors: Mapping[str, Tensor]) -> None:
        head: Any = model.head
        if "head.keys" in tensors:
            head.set_cache(
                torch.zeros_like(tensors["head.keys"]), torch.zeros_like(tensors["head.labels"])
            )

    @torch.no_grad()
    def fit_head(self, model: Adaptable, features: LabeledFeatures) -> list[Decision]:
        head: Any = model.head
        images = functional.normalize(
            torch.from_numpy(features.features).to(head.text.device), dim=1
        )
        labels = torch.from_numpy(features.targets.argmax(1)).to(images.device)
        plain = TextHead.logits(head, images)
        losses = _left_out_losses(images, labels, plain, features.folds)
        alpha, beta = min(losses, key=lambda pair: losses[pair]) if losses else _DEFAULTS
        head.set_cache(images, labels)
        head.alpha.fill_(alpha)
        head.beta.fill_(beta)
        why = Message("choice.paper_value", "too few images to choose by; value of the paper")
        if losses:
            why = Message(
                "choice.cache_log_loss",
                "lowest log loss over {folds}: {loss}, {without} without the cache",
                folds=folds_text(features),
                loss=f"{losses[alpha, beta]:.3f}",
                without=f"{losses[0.0, beta]:.3f}",
            )
        return [Decision("head.alpha", alpha, why), Decision("head.beta", beta, why)]


def cache_logits(
    images: Tensor, keys: Tensor, labels: Tensor, classes: int, beta: Tensor | float
) -> Tensor:
    """Cache logits (B, K) of images (B, D), from keys (N, D) and their class indices (N,)."""
    nearness = (-beta * (1 - images @ keys.T)).exp()
    return nearness @ functional.one_hot(labels, classes).to(nearness.dtype)


def _left_out_losses(
    images: Tensor, labels: Tensor, text_logits: Tensor, folds: np.ndarray
) -> dict[tuple[float, float], float]:
    """Mean log loss of left-out images for each (alpha, beta); empty if there is one fold.

    `text_logits`: (N, K), of the text alone.
    """
    parts = [torch.from_numpy(folds == fold).to(images.device) for fold in np.unique(folds)]
    if len(parts) < 2:
        return {}
    losses = {}
    for beta in _BETAS:
        cached = torch.empty_like(text_logits)
        for held_out in parts:
            cached[held_out] = cache_logits(
                images[held_out], images[~held_out], labels[~held_out], text_logits.shape[1], beta
            )
        for alpha in _ALPHAS:
            losses[alpha, beta] = float(
                functional.cross_entropy(text_logits + alpha * cached, labels)
            )
    return losses
