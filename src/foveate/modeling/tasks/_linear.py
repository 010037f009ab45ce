"""The linear head on features of every depth, and when these depths help."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.messages import Message
from foveate.types import Batch, Decision, Features, Provides

# training images up to which maps are used: they help most where labels are few, and cost the
# solver time
_MAX_IMAGES_WITH_MAPS = 2000
_GRID = 3  # cells along each side, of the deepest maps
_GRID_MAPS = 3  # deepest maps that are summarized by a grid; the finer ones lack semantics
_EPSILON = 1e-3  # under a square root, whose slope at 0 is infinite: training goes through it


def needed_features(features: str) -> frozenset[Provides]:
    """Return what the head needs of a backbone for a value of the setting `features`."""
    if features == "maps":
        return frozenset({Provides.POOLED, Provides.MAPS})
    return frozenset({Provides.POOLED})


class LinearHead(nn.Module):
    """Features -> logits or other numbers (B, K): a standardized feature vector, a linear layer.

    Args:
        width: Width of the pooled vector.
        map_widths: Channels of the maps that are used as well; empty for the pooled vector alone.
        outputs: K, the number of classes.
        dropout: Dropout before the linear layer.

    Attributes:
        mean: Subtracted from the feature vector; fixed by whoever fits the head.
        std: Divides it.
        l2_normalize: Whether standardized vectors are scaled to length 1.
    """

    mean: Tensor
    std: Tensor
    l2_normalize = False

    def __init__(
        self, width: int, map_widths: tuple[int, ...], outputs: int, dropout: float
    ) -> None:
        super().__init__()
        width += 2 * sum(map_widths) + _GRID**2 * sum(map_widths[-_GRID_MAPS:])
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, outputs)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Features, batch: Batch | None = None) -> Tensor:
        vectors = (self.feature_vector(features) - self.mean) / self.std
        vectors = functional.normalize(vectors, dim=1) if self.l2_normalize else vectors
        return cast(Tensor, self.linear(self.dropout(vectors)))

    def feature_vector(self, features: Features) -> Tensor:
        """Return (B, D): the pooled vector, alone or with summaries of the maps.

        Summaries are the maximum and the standard deviation of every map, and means over the cells
        of a grid on the deepest maps. With them, everything is under a signed square root.

        Layers of every depth help where labels are few and images are unlike ImageNet's (Head2Toe,
        Evci et al. 2022), a grid keeps the layout (Lazebnik et al. 2006), and the root reduces long
        tails (Perronnin et al. 2010).
        """
        assert features.pooled is not None
        if not features.maps:
            return features.pooled
        parts = [features.pooled]
        for level in features.maps:
            parts += [level.amax((2, 3)), _deviation(level)]
        parts += [_cell_means(level) for level in features.maps[-_GRID_MAPS:]]
        vectors = torch.cat([part.float() for part in parts], 1)
        return vectors.sign() * ((vectors.abs() + _EPSILON).sqrt() - math.sqrt(_EPSILON))


def _cell_means(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C * G * G): means over the cells of a grid, as adaptive_avg_pool2d.

    Matrix products, which other runtimes compute several times as fast.
    """
    rows, columns = (_cell_weights(length).to(maps) for length in maps.shape[-2:])
    return (rows @ maps @ columns.T).flatten(1)


def _cell_weights(length: int) -> Tensor:
    """(G, length): the weight of each position in the mean of each cell."""
    positions = torch.arange(length)
    starts = torch.arange(_GRID) * length // _GRID
    ends = -(-torch.arange(1, _GRID + 1) * length // _GRID)
    inside = (positions >= starts[:, None]) & (positions < ends[:, None])
    return inside / inside.sum(1, keepdim=True)


def _deviation(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C), from two means: torch's own variance takes 8 times as long on CPU."""
    maps = maps.float()
    variance = (maps - maps.mean((2, 3), keepdim=True)).square().mean((2, 3))
    return (variance + _EPSILON**2).sqrt()


def choose_features(images: int, closed_form: bool) -> Decision:
    """Decide between the pooled vector and maps: maps for few images, if the backbone is fixed.

    A head that was fitted to maps of every depth is useless as soon as these change.
    """
    if not closed_form:
        text = "the backbone is trained, which a head on maps of every depth does not survive"
        return Decision("features", "pooled", Message("choice.trained_backbone", text))
    if images > _MAX_IMAGES_WITH_MAPS:
        text = "with {images:image|images} the pooled vector is enough"
        return Decision("features", "pooled", Message("choice.many_images", text, images=images))
    text = "with only {images:image|images} maps of every depth help"
    return Decision("features", "maps", Message("choice.few_images", text, images=images))
