"""Learnt words that every image shifts (CoCoOp, Zhou et al. 2022b): word m of image i is v_m + h(i), h a narrow network.

The text network reads every class anew for every image: B * K sentences a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.backbones import TextBackbone
from foveate.modeling.tunings import TuningSettings
from foveate.modeling.tunings._context import ContextSettings, Slots, first_words, phrases
from foveate.modeling.tunings._text import AskingHead, CosineHead, TextTuning

_NARROW = 16  # times narrower than the image's vector is the middle of h


class _Head(AskingHead):
    def __init__(self, backbone: TextBackbone, slots: Slots, context: Tensor) -> None:
        super().__init__(backbone)
        self.slots, self.context = slots, nn.Parameter(context)
        middle = max(1, backbone.width // _NARROW)
        self.shift = nn.Sequential(
            nn.Linear(backbone.width, middle), nn.ReLU(), nn.Linear(middle, context.shape[1])
        )

    def logits(self, images: Tensor) -> Tensor:
        """Image by image: the sentences of one are as many as other tunings have for all."""
        return self.compared(
            images,
            torch.stack([self._classes(self.context + shift) for shift in self.shift(images)]),
        )

    def _classes(self, context: Tensor) -> Tensor:
        """(M, W) -> (K, D)."""
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
        slots = Slots(backbone, phrases(classes, self.settings), self.settings.context)
        return _Head(backbone, slots, first_words(backbone, self.settings))
