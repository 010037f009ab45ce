"""LoRA on queries, keys and values of both CLIP encoders (CLIP-LoRA, Zanella & Ben Ayed 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from foveate.errors import UsageError
from foveate.modeling.backbones import TextBackbone
from foveate.modeling.tunings import Adaptable, TuningSettings
from foveate.modeling.tunings._text import (
    CosineHead,
    LearnedTextHead,
    TextSettings,
    TextTuning,
    class_sentences,
    embed_class_sentences,
)

_WHOLE = "in_proj_weight"  # queries, keys and values stacked in a parameter of the attention module
_APART = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
# linear layers of attention modules: number of stacked matrices
_LAYERS = {"qkv": 3, "kv": 2, "q": 1, "q_proj": 1, "k_proj": 1, "v_proj": 1}


class ClipLoraSettings(TextSettings):
    rank: int = Field(2, ge=1, description="rank of each update")
    alpha: float = Field(2.0, gt=0, description="the update is scaled by alpha / rank")
    templates: list[str] = Field(
        ["a photo of a {}."],
        min_length=1,
        description="sentences with {} for the class name; each step embeds all of them",
    )


class _Update(nn.Module):
    """Adds a low-rank product to each of the P parts (queries, keys, values) of a (P * O, I)
    weight.
    """

    def __init__(self, weight: Tensor, parts: int, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = scale
        bound = 1 / math.sqrt(columns)  # as of any linear layer
        self.a = nn.Parameter(torch.empty(parts, rank, columns).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.zeros(parts, rows // parts, rank))

    def forward(self, frozen: Tensor) -> Tensor:
        return frozen + self.scale * (self.b @ self.a).view_as(frozen)


class _Head(LearnedTextHead):
    def __init__(self, backbone: TextBackbone, sentences: list[list[str]]) -> None:
        super().__init__(backbone)
        self.sentences = sentences

    def embed_classes(self) -> Tensor:
        return embed_class_sentences(self.backbone, self.sentences)


class ClipLora(TextTuning):
    trains_backbone: ClassVar[bool] = True
    default_overrides: ClassVar[dict[str, Any]] = {
        **TextTuning.default_overrides,
        "task.smoothing": 0.0,
        "training.lr": 2e-4,
        "training.weight_decay": 0.01,
        "training.epochs": 50,
        "training.patience": 0,
    }
    Settings: ClassVar[type[TuningSettings]] = ClipLoraSettings

    def head(self, backbone: TextBackbone, classes: Sequence[str]) -> CosineHead:
        return _Head(backbone, class_sentences(classes, self.settings))

    def apply(self, model: Adaptable) -> None:
        super().apply(model)
        backbone: Any = model.backbone
        for network, what in ((backbone.network, "image"), (backbone.text, "text")):
            projections = list(_projections(network))
            if not projections:
                hint = "--tuning coop, which trains no encoder"
                raise UsageError(
                    f"the {what} encoder has no attention layers", where="tuning", hint=hint
                )
            for module, name, parts in projections:
                update = _Update(
                    getattr(module, name),
                    parts,
                    self.settings.rank,
                    self.settings.alpha / self.settings.rank,
                )
                parametrize.register_parametrization(module, name, update)

    def merge(self, model: Adaptable) -> None:
        for module in model.backbone.modules():
            for name in list(getattr(module, "parametrizations", {})):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        head: Any = model.head
        head.clear_cache()


def _projections(network: nn.Module) -> Iterator[tuple[nn.Module, str, int]]:
    """Weights of queries, keys and values: module, parameter name, number of stacked matrices."""
    for module in network.modules():
        whole = isinstance(getattr(module, _WHOLE, None), nn.Parameter)
        for name in (_WHOLE,) if whole else _APART:
            if isinstance(getattr(module, name, None), nn.Parameter):
                yield module, name, 3 if whole else 1
        for name, parts in _LAYERS.items():
            layer = getattr(module, name, None)
            if isinstance(layer, nn.Linear):
                yield layer, "weight", parts
