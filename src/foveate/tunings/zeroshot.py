"""Nothing is trained: the names of the classes are the head (CLIP, Radford et al. 2021), or the question to a network that
finds things by name (OWLv2, CLIPSeg)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.backbones import NativeBackbone
from foveate.tunings import Adaptable, Choice, Tuning, TuningSettings
from foveate.tunings._text import TextSettings, embedded, sentences, settled_prompts, text_backbone
from foveate.types import Batch, Features


class TextHead(nn.Module):
    """Features -> logits (B, K): scale * cosine + bias of the image and each class's `text` (K, D)."""

    text: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, text: Tensor, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        for name, tensor in (("text", text), ("scale", scale), ("bias", bias)):
            self.register_buffer(name, tensor.detach().clone())

    def forward(self, features: Features, batch: Batch | None = None) -> Tensor:
        assert features.pooled is not None
        return self.scale * functional.normalize(features.pooled.float(), dim=-1) @ self.text.T + self.bias


class ZeroShot(Tuning):
    needs_steps: ClassVar[bool] = False
    knows_classes: ClassVar[bool] = True
    suggests: ClassVar[dict[str, Any]] = {"task.reads": "pooled", "task.head": "native", "backbone.size": None}
    Settings: ClassVar[type[TuningSettings]] = TextSettings

    @classmethod
    def settle(cls, settings: dict[str, Any], classes: Sequence[str]) -> list[Choice]:
        return settled_prompts(settings, classes)

    def apply(self, model: Adaptable) -> None:
        asked = sentences(model.classes, self.settings)
        model.backbone.requires_grad_(False)
        if isinstance(model.backbone, NativeBackbone):
            model.backbone.ask(asked)
            return
        backbone = text_backbone(model)
        with torch.no_grad():
            model.head = TextHead(embedded(backbone, asked), backbone.logit_scale, backbone.logit_bias)
