"""SimMIM (Xie et al. 2022): masked squares of an image are reconstructed, on any backbone.

The paper masks tokens of a Transformer. Here the squares are masked in the image, with the mean
color, so that it works for convolutional networks too (A2MIM, Li et al. 2023).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.backbones import Backbone
from foveate.training.objectives import Objective, ObjectiveSettings
from foveate.types import Batch, Provides
from foveate.utils.distributed import rand_share


class SimMIMSettings(ObjectiveSettings):
    min_area: float = Field(0.5, gt=0, le=1, description="minimum area fraction of the view")
    color: float = Field(0.0, ge=0, le=1, description="strength of random color changes")
    mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of the squares that are masked")
    grid_size: int = Field(7, ge=2, description="squares along a side of the image")


class SimMIM(Objective):
    num_global_views: ClassVar[int] = 1
    needs = frozenset({Provides.MAPS})
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 128}
    Settings: ClassVar[type[SimMIMSettings]] = SimMIMSettings

    settings: SimMIMSettings

    def head(self, backbone: Backbone) -> nn.Module:
        stride = backbone.map_strides[-1]
        return nn.Sequential(
            nn.Conv2d(backbone.map_widths[-1], 3 * stride**2, 1), nn.PixelShuffle(stride)
        )

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the reconstruction (B, 3, S, S), and 1 for masked pixels (B, 1, S, S)."""
        mask = random_mask(batch.images, self.settings.grid_size, self.settings.mask_ratio)
        reconstruction = head(backbone(batch.images * (1 - mask), self.needs).maps[-1])
        size = batch.images.shape[-2:]
        if reconstruction.shape[-2:] != size:
            reconstruction = functional.interpolate(reconstruction, size, mode="bilinear")
        return reconstruction, mask

    def loss(self, output: tuple[Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        reconstruction, mask = output
        error = (reconstruction.float() - batch.images).abs() * mask
        return {"loss": error.sum() / (3 * mask.sum()).clamp(min=1)}

    def reconstructions(self, output: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        reconstruction, mask = output
        visible = batch.images * (1 - mask)
        return visible, visible + reconstruction * mask


def random_mask(images: Tensor, grid_size: int, mask_ratio: float) -> Tensor:
    """Return (B, 1, H, W), 1 on random squares of each image, drawn from torch's generator.

    Args:
        images: (B, 3, H, W).
        grid_size: Squares along a side.
        mask_ratio: Share of the squares that are masked.
    """
    count = max(1, round(mask_ratio * grid_size**2))
    order = rand_share(len(images), grid_size**2).argsort(1).to(images.device)
    squares = torch.zeros(len(images), grid_size**2, device=images.device)
    squares = squares.scatter_(1, order[:, :count], 1.0).view(-1, 1, grid_size, grid_size)
    size = math.ceil(images.shape[-1] / grid_size)
    mask = squares.repeat_interleave(size, 2).repeat_interleave(size, 3)
    return mask[..., : images.shape[-2], : images.shape[-1]]
