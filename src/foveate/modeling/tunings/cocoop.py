"""Learned context that depends on the image (CoCoOp, Zhou et al. 2022b).

Context token m of image i is v_m + h(i), with a narrow network h. The text encoder reads every
class anew for every image: B * K sentences per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.backbones import TextBackbone
from foveate.modeling.tunings import TuningSettings
from foveate.modeling.tunings._context import (
    ContextSettings,
    PromptSlots,
    class_phrases,
    initial_words,
)
from foveate.modeling.tunings._text import CosineHead, TextNetworkHead, TextTuning

_REDUCTION = 16  # the hidden width of h is that of the image embedding over this


class _Head(TextNetworkHead):
    def __init__(self, backbone: TextBackbone, slots: PromptSlots, context: Tensor) -> None:
        super().__init__(backbone)
        self.slots, self.context = slots, nn.Parameter(context)
        middle = max(1, backbone.width // _REDUCTION)
        self.shift = nn.Sequential(
            nn.Linear(backbone.width, middle), nn.ReLU(), nn.Linear(middle, context.shape[1])
        )

    def logits(self, images: Tensor) -> Tensor:
        """Compute one image at a time, to bound memory: each has a sentence for every class."""
        return self.compare(
            images,
            torch.stack([self._classes(self.context + shift) for shift in self.shift(images)]),
        )

    def _classes(self, context: Tensor) -> Tensor:
        """Class embeddings (K, D) for a context (M, W)."""
        return functional.normalize(
            self.backbone.encode_embeddings(self.slots(context), self.slots.ids).float(), dim=1
        )


class Cocoop(TextTuning):
    default_overrides: ClassVar[dict[str, Any]] = {
        **TextTuning.default_overrides,
        "task.smoothing": 0.0,
        "training.optimizer": "sgd",
        "training.lr": 2e-3,
        "training.weight_decay": 5e-4,
        "training.epochs": 10,
        "training.batch_size": 4,
        "training.patience": 0,
    }
    Settings: ClassVar[type[TuningSettings]] = ContextSettings

    def head(self, backbone: TextBackbone, classes: Sequence[str]) -> CosineHead:
        slots = PromptSlots(backbone, class_phrases(classes, self.settings), self.settings.context)
        return _Head(backbone, slots, initial_words(backbone, self.settings))
