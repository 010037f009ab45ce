"""Learned context before class names, shared or one for each class (CoOp, Zhou et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
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
from foveate.modeling.tunings._text import CosineHead, LearnedTextHead, TextTuning


class CoopSettings(ContextSettings):
    per_class: bool = Field(False, description="learn a context for each class; needs many images")


class _Head(LearnedTextHead):
    def __init__(self, backbone: TextBackbone, slots: PromptSlots, context: Tensor) -> None:
        super().__init__(backbone)
        self.slots, self.context = slots, nn.Parameter(context)

    def embed_classes(self) -> Tensor:
        return functional.normalize(
            self.backbone.encode_embeddings(self.slots(self.context), self.slots.ids).float(), dim=1
        )


class Coop(TextTuning):
    default_overrides: ClassVar[dict[str, Any]] = {
        **TextTuning.default_overrides,
        "task.smoothing": 0.0,
        "training.optimizer": "sgd",
        "training.lr": 2e-3,
        "training.weight_decay": 5e-4,
        "training.epochs": 50,
        "training.patience": 0,
    }
    Settings: ClassVar[type[TuningSettings]] = CoopSettings

    def head(self, backbone: TextBackbone, classes: Sequence[str]) -> CosineHead:
        slots = PromptSlots(backbone, class_phrases(classes, self.settings), self.settings.context)
        context = initial_words(backbone, self.settings)
        return _Head(
            backbone,
            slots,
            context.repeat(len(classes), 1, 1) if self.settings.per_class else context,
        )
