"""Masked autoencoder (MAE, He et al. 2022): a Vision Transformer reads a quarter of the patches.

A small decoder reconstructs the others. Letters: B images, N patches, K of them visible, D and E
the widths of encoder and decoder.
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
from foveate.types import Batch
from foveate.utils.distributed import rand_share

_HEADS = 4  # of the decoder's attention
_EPSILON = 1e-6  # in the standard deviation of a patch


class MAESettings(ObjectiveSettings):
    min_area: float = Field(0.2, gt=0, le=1, description="minimum area fraction of the view")
    color: float = Field(0.0, ge=0, le=1, description="strength of random color changes")
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the patches that are masked")
    width: int = Field(192, ge=_HEADS, multiple_of=_HEADS, description="width of the decoder")
    depth: int = Field(2, ge=1, description="blocks of the decoder")


class Decoder(nn.Module):
    """Reconstructs the pixels of all patches from the tokens of the visible ones.

    Args:
        width: D.
        patches: Patches along a side, and the side of a patch in px.
        settings: Of the objective.
    """

    def __init__(self, width: int, patches: tuple[int, int], settings: MAESettings) -> None:
        super().__init__()
        count, size = patches
        self.input = nn.Linear(width, settings.width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, settings.width))
        self.position = nn.Parameter(0.02 * torch.randn(1, count**2, settings.width))
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
        self.output = nn.Linear(settings.width, 3 * size**2)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Tokens (B, K, D) and their indices (B, K) -> pixels (B, N, 3 * size * size)."""
        embedded = self.input(tokens)
        sequence = self.mask_token.to(embedded).expand(len(tokens), self.position.shape[1], -1)
        sequence = sequence.scatter(1, visible[..., None].expand_as(embedded), embedded)
        return self.output(self.blocks(sequence + self.position))  # type: ignore[no-any-return]


class MAE(Objective):
    num_global_views: ClassVar[int] = 1
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 128}
    Settings: ClassVar[type[MAESettings]] = MAESettings

    settings: MAESettings

    def head(self, backbone: Backbone) -> nn.Module:
        return Decoder(backbone.token_width, backbone.patch_grid(), self.settings)

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the reconstruction (B, N, 3 * size * size), and 1 for masked patches (B, N)."""
        images, count = batch.images, backbone.patch_grid()[0] ** 2
        order = rand_share(len(images), count).argsort(1).to(images.device)
        visible = order[:, : max(1, round((1 - self.settings.mask_ratio) * count))]
        mask = torch.ones(len(images), count, device=images.device).scatter_(1, visible, 0.0)
        return head(backbone.encode_visible(images, visible), visible), mask

    def loss(self, output: tuple[Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        reconstruction, mask = output
        patches = patchify(batch.images, _patch_size(reconstruction))
        mean, std = patch_statistics(patches)
        error = (reconstruction.float() - (patches - mean) / std).square().mean(2)
        return {"loss": (error * mask).sum() / mask.sum()}

    def reconstructions(self, output: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the masked and the reconstructed images.

        Masked patches get their true brightness and contrast: the decoder is not trained on them.
        """
        reconstruction, mask = output
        size = _patch_size(reconstruction)
        patches = patchify(batch.images, size)
        mean, std = patch_statistics(patches)
        filled = torch.where(mask[..., None] > 0, reconstruction * std + mean, patches)
        visible = patches * (1 - mask[..., None])
        shape = batch.images.shape[-2:]
        masked, whole = (
            functional.fold(each.transpose(1, 2), shape, size, stride=size)
            for each in (visible, filled)
        )
        return masked, whole


def patchify(images: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, 3 * size * size), row by row."""
    return functional.unfold(images, size, stride=size).transpose(1, 2)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (B, N, 1) of each patch.

    Patches are normalized by them, so that structure counts and brightness does not (He et al.
    2022, section 3).
    """
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return mean, (variance + _EPSILON).sqrt()


def _patch_size(reconstruction: Tensor) -> int:
    """Return the side of a patch, px."""
    return math.isqrt(reconstruction.shape[-1] // 3)
