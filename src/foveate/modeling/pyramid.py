"""Feature maps of any backbone -> maps at the strides that a head needs, each twice the next.

The pyramid of a convolutional network is used as it is. A plain Transformer, whose maps all have
one stride, is expanded into a pyramid (ViTDet, Li et al. 2022). Maps of networks without padding
(Inception) lack a few pixels, and are resized.

Letters: B images, C channels, H, W height and width of the network's input, s a stride.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork

_GROUP = 8  # channels normalized together, as in 32 groups of 256 (Wu and He 2018)


class Pyramid(nn.Module):
    """Bring maps of a backbone to given strides, by resampling only.

    Where the coarsest stride does not divide the input, all maps are stretched alike to the size
    that it would need.

    Args:
        widths: Channels of the maps of the backbone, finest first.
        strides: Their strides.
        targets: Strides of the output, finest first.

    Attributes:
        widths: Channels of the output.
    """

    def __init__(
        self, widths: tuple[int, ...], strides: tuple[int, ...], targets: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.strides = targets
        self.sources = [
            _source(strides, stride, index / max(1, len(targets) - 1))
            for index, stride in enumerate(targets)
        ]
        self.widths = tuple(widths[source] for source in self.sources)
        self.resamplers = nn.ModuleList(
            _resampler(widths[source], strides[source], stride)
            for source, stride in zip(self.sources, targets, strict=True)
        )

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Resample the maps.

        Args:
            maps: [(B, C_i, h_i, w_i)] of the backbone.
            size: (H, W) of the input.

        Returns:
            [(B, widths[j], H/s_j, W/s_j)], finest first.
        """
        coarsest = self.strides[-1]
        levels = []
        for source, stride, resample in zip(
            self.sources, self.strides, self.resamplers, strict=True
        ):
            level = resample(maps[source])
            exact = tuple(-(-side // coarsest) * (coarsest // stride) for side in size)
            if level.shape[-2:] != exact:
                level = functional.interpolate(level, exact, mode="bilinear", align_corners=False)
            levels.append(level)
        return levels


class FeaturePyramid(nn.Module):
    """A feature pyramid network with maps of equal width, each stride twice the one before.

    Lateral and top-down paths up to stride 32 (FPN, Lin et al. 2017), and strided convolutions
    beyond it (RetinaNet, Lin et al. 2017).

    Args:
        widths: Channels of the maps of the backbone, finest first.
        strides: Their strides.
        first: Finest stride of the output.
        last: Coarsest stride of the output, at least 32.
        width: Channels of each map of the output.
    """

    def __init__(
        self, widths: tuple[int, ...], strides: tuple[int, ...], first: int, last: int, width: int
    ) -> None:
        super().__init__()
        inner = tuple(first * 2**power for power in range(int(math.log2(32 // first)) + 1))
        self.pyramid = Pyramid(widths, strides, inner)
        self.fpn = FeaturePyramidNetwork(list(self.pyramid.widths), width, norm_layer=group_norm)
        self.extra = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1)
            for _ in range(int(math.log2(last // 32)))
        )

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Return [(B, width, H/s, W/s)], finest first; arguments as of `Pyramid`."""
        inner: Any = {str(index): level for index, level in enumerate(self.pyramid(maps, size))}
        levels = list(self.fpn(inner).values())
        for convolution in self.extra:
            levels.append(convolution(functional.relu(levels[-1])))
        return levels


def group_norm(width: int) -> nn.Module:
    """Return a group normalization layer, which works with batches of any size."""
    return nn.GroupNorm(width // _GROUP, width)


def _source(strides: tuple[int, ...], target: int, depth: float) -> int:
    """Index of the map that serves a stride: of those with the nearest stride the deepest.

    In a plain stack of blocks, where all strides are equal, its `depth` in [0, 1] decides: fine
    maps are taken from early blocks.
    """
    if len(set(strides)) == 1:
        return round(depth * (len(strides) - 1))
    distances = [abs(math.log2(stride / target)) for stride in strides]
    return max(index for index, distance in enumerate(distances) if distance == min(distances))


def _resampler(width: int, stride: int, target: int) -> nn.Module:
    """From one stride to another: transposed convolutions upwards, max pooling downwards."""
    doublings = round(math.log2(stride / target))
    steps: list[nn.Module] = []
    for _ in range(doublings):
        steps += [nn.ConvTranspose2d(width, width, 2, stride=2), nn.GroupNorm(1, width), nn.GELU()]
    steps += [nn.MaxPool2d(2)] * -doublings
    return nn.Sequential(*steps)
