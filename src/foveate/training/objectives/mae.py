"""A Vision Transformer reads a quarter of the patches, and a small decoder paints the others (MAE, He et al. 2022)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.backbones import Backbone
from foveate.training.objectives import Objective, ObjectiveSettings
from foveate.types import Batch
from foveate.utils.distributed import rand_share

_HEADS = 4  # of the decoder's attention
_EPSILON = 1e-6  # in the deviation of a patch


class MAESettings(ObjectiveSettings):
    area: float = Field(
        0.2, gt=0, le=1, description="smallest share of the image's area that a view shows"
    )
    color: float = Field(0.0, ge=0, le=1, description="strength of the random colours of views")
    mask_ratio: float = Field(
        0.75, gt=0, lt=1, description="share of the patches that are left out"
    )
    width: int = Field(192, ge=_HEADS, multiple_of=_HEADS, description="width of the decoder")
    depth: int = Field(2, ge=1, description="blocks of the decoder")


class Decoder(nn.Module):
    """Tokens of some patches -> pixels of all. N patches, K of them read, D and E the widths of encoder and decoder."""

    def __init__(self, width: int, patches: tuple[int, int], settings: MAESettings) -> None:
        super().__init__()
        count, side = patches
        self.enter = nn.Linear(width, settings.width)
        self.missing = nn.Parameter(0.02 * torch.randn(1, 1, settings.width))
        self.places = nn.Parameter(0.02 * torch.randn(1, count**2, settings.width))
        layer = nn.TransformerEncoderLayer(
            settings.width,
            _HEADS,
            4 * settings.width,
            0.0,
            "gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            layer, settings.depth, nn.LayerNorm(settings.width), enable_nested_tensor=False
        )
        self.leave = nn.Linear(settings.width, 3 * side**2)

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """(B, K, D) and their places (B, K) -> (B, N, 3 * side * side)."""
        entered = self.enter(tokens)
        every = self.missing.to(entered).expand(len(tokens), self.places.shape[1], -1)
        every = every.scatter(1, kept[..., None].expand_as(entered), entered)
        return self.leave(self.blocks(every + self.places))  # type: ignore[no-any-return]


class MAE(Objective):
    num_global_views: ClassVar[int] = 1
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 128}
    Settings: ClassVar[type[MAESettings]] = MAESettings

    settings: MAESettings

    def head(self, backbone: Backbone) -> nn.Module:
        return Decoder(backbone.token_width, backbone.patch_grid(), self.settings)

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """What was painted (B, N, 3 * side * side), and 1 for the patches that had not been read (B, N)."""
        count = backbone.patch_grid()[0] ** 2
        order = rand_share(len(batch.images), count).argsort(1).to(batch.images.device)
        kept = order[:, : max(1, round((1 - self.settings.mask_ratio) * count))]
        hidden = torch.ones(len(batch.images), count, device=batch.images.device).scatter_(
            1, kept, 0.0
        )
        return head(backbone.encode_visible(batch.images, kept), kept), hidden

    def loss(self, output: tuple[Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        painted, hidden = output
        own = patchify(batch.images, _side(painted))
        mean, deviation = patch_statistics(own)
        wrong = (painted.float() - (own - mean) / deviation).square().mean(2)
        return {"loss": (wrong * hidden).sum() / hidden.sum()}

    def reconstructions(self, output: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """The patches that were left out, with the brightness and contrast that they have: the decoder is not asked for them."""
        found, hidden = output
        side = _side(found)
        own = patchify(batch.images, side)
        mean, deviation = patch_statistics(own)
        filled = torch.where(hidden[..., None] > 0, found * deviation + mean, own)
        blank = own * (1 - hidden[..., None])
        fold: dict[str, Any] = {
            "output_size": batch.images.shape[-2:],
            "kernel_size": side,
            "stride": side,
        }
        seen, whole = (functional.fold(each.transpose(1, 2), **fold) for each in (blank, filled))
        return seen, whole


def patchify(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, 3 * side * side), row by row."""
    return functional.unfold(images, side, stride=side).transpose(1, 2)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, 1) mean and deviation of each patch, without which structure counts and brightness does not (He et al. 2022,
    section 3)."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return mean, (variance + _EPSILON).sqrt()


def _side(painted: Tensor) -> int:
    """Of a patch, px."""
    return math.isqrt(painted.shape[-1] // 3)
