"""Semantic segmentation."""

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
from foveate.messages import Message
from foveate.modeling.backbones import Backbone
from foveate.modeling.decoders import DECODERS
from foveate.modeling.pyramid import Pyramid
from foveate.modeling.tasks import ExplainableScore, SpatialSettings, SpatialTask, TaskSettings
from foveate.predictions import IGNORE_INDEX, Regions
from foveate.types import Batch, Features, Provides, TargetTensors

_EXPLAINED = 3  # classes with the most pixels
_LOSSES: dict[str, Callable[[], nn.Module]] = {
    "cross_entropy": lambda: nn.CrossEntropyLoss(ignore_index=IGNORE_INDEX),
    "dice": lambda: losses.DiceLoss("multiclass", ignore_index=IGNORE_INDEX),
    "focal": lambda: losses.FocalLoss("multiclass", ignore_index=IGNORE_INDEX),
    "lovasz": lambda: losses.LovaszLoss("multiclass", ignore_index=IGNORE_INDEX),
}


class SegmentSettings(SpatialSettings):
    """Settings of the task."""

    head: str = Field(
        "deeplab",
        description="decoder: deeplab, fpn, segformer, unet, upernet or dpt; native: the "
        "backbone's own",
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
    def _check_loss(cls, value: str) -> str:
        unknown = sorted(set(value.split("+")) - set(_LOSSES))
        if unknown:
            raise ValueError(
                f"no loss is called {unknown[0]!r}: {', '.join(_LOSSES)}, "
                "or a sum such as cross_entropy+dice"
            )
        return value


class SegmentationHead(nn.Module):
    """Features -> logits (B, K, H, W) at the size of the input."""

    def __init__(self, backbone: Backbone, settings: SegmentSettings, classes: int) -> None:
        super().__init__()
        decoder = DECODERS.get(settings.head)
        self.pyramid = Pyramid(backbone.map_widths, backbone.map_strides, decoder.strides)
        self.decoder = decoder(self.pyramid.widths, settings.width)
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classify = nn.Conv2d(self.decoder.out_width, classes, 1)

    def forward(self, features: Features, batch: Batch) -> Tensor:
        if self.training and self.decoder.needs_batch_statistics and len(batch) == 1:
            raise UsageError(
                "this decoder needs batches of 2 or more images",
                where="task.head",
                hint="--batch-size 2 or more, or a decoder without global pooling, such as "
                "--set task.head=fpn",
            )
        return self.logits(features, _size(batch.images))

    def logits(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Return logits (B, K, H, W) for an input of `size` (H, W)."""
        logits = self.classify(self.dropout(self.decoder(self.pyramid(features.maps, size))))
        return functional.interpolate(logits, size, mode="bilinear", align_corners=False)


class NativeHead(nn.Module):
    """The logits (B, K, h, w) of the backbone, resized to the input."""

    def forward(self, features: Features, batch: Batch) -> Tensor:
        return self.logits(features, _size(batch.images))

    def logits(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Return logits (B, K, H, W) for an input of `size` (H, W)."""
        return functional.interpolate(
            features.native.float(), size, mode="bilinear", align_corners=False
        )


def _size(images: Tensor) -> tuple[int, int]:
    """Height and width of (B, 3, H, W)."""
    return images.shape[-2], images.shape[-1]


class Segment(SpatialTask):
    """Semantic segmentation."""

    prediction_type: ClassVar[type[Regions]] = Regions
    question: ClassVar[Message] = Message(
        "task.segment.question", "Which class does each pixel belong to?"
    )
    Settings: ClassVar[type[TaskSettings]] = SegmentSettings

    settings: SegmentSettings

    @property
    def needs(self) -> frozenset[Provides]:  # type: ignore[override]
        return frozenset({Provides.NATIVE if self.settings.head == "native" else Provides.MAPS})

    def head(self, backbone: Backbone) -> nn.Module:
        if self.settings.head == "native":
            return NativeHead()
        return SegmentationHead(backbone, self.settings, len(self.classes))

    def encode(self, target: Regions, size: tuple[int, int]) -> TargetTensors:
        """Return mask (H, W) int64, IGNORE_INDEX where a pixel does not count."""
        return {"mask": tv_tensors.Mask(torch.from_numpy(target.mask.astype(np.int64)))}

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return each of the losses over pixels that count; 0 if none does."""
        masks = torch.stack([target["mask"].as_subclass(Tensor) for target in batch.targets])
        if bool((masks == IGNORE_INDEX).all()):
            return {"loss": output.sum() * 0}
        names = self.settings.loss.split("+")
        return {name: _LOSSES[name]()(output.float(), masks) for name in names}

    def decode(self, output: Tensor, batch: Batch) -> list[Regions]:
        """Return masks of the upright originals, int16.

        Logits are resized, not masks, so that outlines are smooth.
        """
        images = zip(output.float(), batch.views, batch.sizes, strict=True)
        masks = (
            _to_original(logits, view, size).argmax(0).to(torch.int16).cpu().numpy()
            for logits, view, size in images
        )
        return [Regions(mask).compressed() for mask in masks]

    def export_outputs(
        self, backbone: Backbone, head: nn.Module, images: Tensor
    ) -> dict[str, Tensor]:
        """Return logits (B, K, S, S)."""
        assert isinstance(head, SegmentationHead | NativeHead)
        return {"logits": head.logits(backbone(images, self.needs), _size(images)).float()}

    def explainable_scores(self, output: Tensor, batch: Batch) -> list[ExplainableScore]:
        """Return the mean score of the pixels of each predicted class, the largest area first."""
        predicted = output[0].argmax(0)
        counts = torch.bincount(predicted.flatten(), minlength=len(self.classes))
        order = counts.argsort(descending=True).tolist()
        present = [index for index in order if counts[index]]
        return [
            self._explainable_score(index, predicted == index) for index in present[:_EXPLAINED]
        ]

    def _explainable_score(self, index: int, region: Tensor) -> ExplainableScore:
        return ExplainableScore(
            self.classes[index],
            lambda output: output[:, index, region].float().mean(1),
            lambda output: output.float().softmax(1)[:, index, region].mean(1),
        )

    def merge_tiles(
        self, parts: Sequence[tuple[tuple[int, int], Regions]], size: tuple[int, int]
    ) -> Regions:
        return merge_region_tiles(parts, size)


def _to_original(logits: Tensor, view: Tensor, size: Tensor) -> Tensor:
    """(K, S, S) of an input that shows `view` -> (K, H, W) of the original, without padding."""
    height, width = size.tolist()
    side = float(view[2] - view[0])
    rows, columns = (max(1, round(logits.shape[-1] * length / side)) for length in (height, width))
    inside = logits[None, :, :rows, :columns]
    return functional.interpolate(inside, (height, width), mode="bilinear", align_corners=False)[0]
