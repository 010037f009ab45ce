"""Which class every pixel belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, field_validator
from segmentation_models_pytorch import losses
from torch import Tensor, nn
from torch.nn import functional
from torchvision import tv_tensors

from foveate.errors import UsageError
from foveate.images.preprocessing import merge_region_tiles
from foveate.modeling.backbones import Backbone
from foveate.modeling.decoders import DECODERS
from foveate.modeling.pyramid import Pyramid
from foveate.modeling.tasks import ExplainableScore, SpatialSettings, SpatialTask, TaskSettings
from foveate.predictions import IGNORE_INDEX, Regions
from foveate.types import Batch, Features, Provides, TargetTensors

_ASKED = 3  # classes that are explained
_LOSSES: dict[str, Callable[[], nn.Module]] = {
    "cross_entropy": lambda: nn.CrossEntropyLoss(ignore_index=IGNORE_INDEX),
    "dice": lambda: losses.DiceLoss("multiclass", ignore_index=IGNORE_INDEX),
    "focal": lambda: losses.FocalLoss("multiclass", ignore_index=IGNORE_INDEX),
    "lovasz": lambda: losses.LovaszLoss("multiclass", ignore_index=IGNORE_INDEX),
}


class SegmentSettings(SpatialSettings):
    head: str = Field(
        "deeplab",
        description="decoder: deeplab, fpn, segformer, unet, upernet, dpt; native: the backbone paints",
    )
    width: int = Field(128, ge=16, multiple_of=8, description="channels of the decoder")
    loss: str = Field(
        "cross_entropy+dice",
        description="cross_entropy, dice, focal, lovasz, or a sum of them joined by +",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout of whole channels before the classifier"
    )

    @field_validator("loss")
    @classmethod
    def _known(cls, value: str) -> str:
        unknown = set(value.split("+")) - set(_LOSSES)
        if unknown:
            raise ValueError(
                f"no loss is called {sorted(unknown)[0]!r}: {', '.join(_LOSSES)}, or a sum such as cross_entropy+dice"
            )
        return value


class SegmentationHead(nn.Module):
    """Features -> logits (B, K, H, W) of the network's square."""

    def __init__(self, backbone: Backbone, settings: SegmentSettings, classes: int) -> None:
        super().__init__()
        decoder = DECODERS.get(settings.head)
        self.pyramid = Pyramid(backbone.map_widths, backbone.map_strides, decoder.strides)
        self.decoder = decoder(self.pyramid.widths, settings.width)
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classify = nn.Conv2d(self.decoder.out_width, classes, 1)

    def forward(self, features: Features, batch: Batch) -> Tensor:
        """Raises UsageError where a single image teaches nothing."""
        if self.training and self.decoder.pools and len(batch) == 1:
            hint = "--batch-size 2 or more, or a decoder that does not pool, such as --set task.head=fpn"
            raise UsageError(
                "this decoder cannot learn from one image at once", where="task.head", hint=hint
            )
        return self.logits(features, _square(batch.images))

    def logits(self, features: Features, size: tuple[int, int]) -> Tensor:
        found = self.classify(self.dropout(self.decoder(self.pyramid(features.maps, size))))
        return functional.interpolate(found, size, mode="bilinear", align_corners=False)


class NativeHead(nn.Module):
    """The backbone's own logits (B, K, h, w), stretched to the network's square."""

    def forward(self, features: Features, batch: Batch) -> Tensor:
        return self.logits(features, _square(batch.images))

    def logits(self, features: Features, size: tuple[int, int]) -> Tensor:
        return functional.interpolate(
            features.native.float(), size, mode="bilinear", align_corners=False
        )


def _square(images: Tensor) -> tuple[int, int]:
    """Height and width of (B, 3, H, W)."""
    return images.shape[-2], images.shape[-1]


class Segment(SpatialTask):
    prediction_type: ClassVar[type[Regions]] = Regions
    question: ClassVar[str] = "Which class does every pixel belong to?"
    Settings: ClassVar[type[TaskSettings]] = SegmentSettings

    settings: SegmentSettings

    @property
    def needs(self) -> frozenset[Provides]:  # type: ignore[override]
        return frozenset({Provides.NATIVE if self.settings.head == "native" else Provides.MAPS})

    def head(self, backbone: Backbone) -> nn.Module:
        if self.settings.head == "native":
            return NativeHead()
        return SegmentationHead(backbone, self.settings, len(self.classes))

    def encode(self, truth: Regions, size: tuple[int, int]) -> TargetTensors:
        return {"mask": tv_tensors.Mask(torch.from_numpy(truth.mask.astype(np.int64)))}

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Each named loss over the pixels that somebody cares about; 0 where there are none."""
        masks = torch.stack([target["mask"].as_subclass(Tensor) for target in batch.targets])
        if bool((masks == IGNORE_INDEX).all()):
            return {"loss": output.sum() * 0}
        return {
            name: _LOSSES[name]()(output.float(), masks) for name in self.settings.loss.split("+")
        }

    def decode(self, output: Tensor, batch: Batch) -> list[Regions]:
        """Masks of the upright originals, int16: the logits are stretched to their size, then the greatest wins."""
        parts = zip(output.float(), batch.views, batch.sizes, strict=True)
        masks = (
            _to_original(logits, view, size).argmax(0).to(torch.int16).cpu().numpy()
            for logits, view, size in parts
        )
        return [Regions(mask).compressed() for mask in masks]

    def export_outputs(self, backbone: Backbone, head: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """logits (B, K, S, S)."""
        assert isinstance(head, SegmentationHead | NativeHead)
        return {"logits": head.logits(backbone(images, self.needs), _square(images)).float()}

    def explainable_scores(self, output: Tensor, batch: Batch) -> list[ExplainableScore]:
        """Why the pixels of each class that was found are of it, the largest first."""
        best = output[0].argmax(0)
        counts = torch.bincount(best.flatten(), minlength=len(self.classes))
        found = [place for place in counts.argsort(descending=True).tolist() if counts[place]]
        return [self._question(place, best == place) for place in found[:_ASKED]]

    def _question(self, place: int, inside: Tensor) -> ExplainableScore:
        def score(found: Tensor) -> Tensor:
            return found[:, place, inside].float().mean(1)

        def chance(found: Tensor) -> Tensor:
            return found.float().softmax(1)[:, place, inside].mean(1)

        return ExplainableScore(self.classes[place], score, chance)

    def merge_tiles(
        self, parts: Sequence[tuple[tuple[int, int], Regions]], size: tuple[int, int]
    ) -> Regions:
        return merge_region_tiles(parts, size)


def _to_original(logits: Tensor, view: Tensor, size: Tensor) -> Tensor:
    """(K, S, S) of the square that shows `view` -> (K, H, W) of the original, without the padding."""
    height, width = size.tolist()
    shown = float(view[2] - view[0])
    rows, columns = (max(1, round(logits.shape[-1] * side / shown)) for side in (height, width))
    inside = logits[None, :, :rows, :columns]
    return functional.interpolate(inside, (height, width), mode="bilinear", align_corners=False)[0]
