"""Zero-shot: class names are the head (CLIP, Radford et al. 2021), or the queries of OWLv2 and
CLIPSeg.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from foveate.modeling.backbones import NativeBackbone, TextBackbone
from foveate.modeling.tunings import Adaptable
from foveate.modeling.tunings._text import (
    TextHead,
    TextTuning,
    class_sentences,
    embed_class_sentences,
)


class ZeroShot(TextTuning):
    needs_steps: ClassVar[bool] = False
    needs_images: ClassVar[bool] = False
    default_overrides: ClassVar[dict[str, Any]] = {
        **TextTuning.default_overrides,
        "task.head": "native",
        "backbone.size": None,
    }

    def apply(self, model: Adaptable) -> None:
        if not isinstance(model.backbone, NativeBackbone):
            super().apply(model)
            return
        model.backbone.requires_grad_(False)
        model.backbone.set_queries(class_sentences(model.classes, self.settings))

    @torch.no_grad()
    def head(self, backbone: TextBackbone, classes: Sequence[str]) -> TextHead:
        return TextHead(
            backbone, embed_class_sentences(backbone, class_sentences(classes, self.settings))
        )
