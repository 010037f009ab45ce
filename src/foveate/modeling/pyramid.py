"""Maps of any backbone -> maps at the strides that a head wants, each exactly twice as large as the next.

A convolutional pyramid is taken as it is; a plain Transformer, whose maps all have one stride, is spread into a pyramid
(ViTDet, Li et al. 2022); maps of unpadded networks (Inception) are stretched by the few pixels that they lack.
Letters: B images, C channels, H, W height and width of the network's square, s a stride.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import feature_pyramid_network as fpn

_IN_GROUP = 8  # channels that are normalised together, as in 32 groups of 256 (Wu and He 2018)


class Pyramid(nn.Module):
    """[(B, C_i, h_i, w_i)] of a backbone -> [(B, widths[j], H/s_j, W/s_j)] for the strides that were `wanted`, finest first.

    Where the coarsest stride does not divide the square, all maps are stretched alike to what it would take.
    """

    def __init__(
        self, widths: tuple[int, ...], strides: tuple[int, ...], wanted: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.wanted = wanted
        self.taken = [
            _source(strides, stride, place / max(1, len(wanted) - 1))
            for place, stride in enumerate(wanted)
        ]
        self.widths = tuple(widths[index] for index in self.taken)
        moves = [
            _moved(widths[index], strides[index], stride)
            for index, stride in zip(self.taken, wanted, strict=True)
        ]
        self.moves = nn.ModuleList(moves)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """`size`: (H, W)."""
        coarsest = self.wanted[-1]
        found = []
        for index, stride, move in zip(self.taken, self.wanted, self.moves, strict=True):
            moved = move(maps[index])
            exact = tuple(-(-side // coarsest) * (coarsest // stride) for side in size)
            if moved.shape[-2:] != exact:
                moved = functional.interpolate(moved, exact, mode="bilinear", align_corners=False)
            found.append(moved)
        return found


class FeaturePyramid(nn.Module):
    """[(B, C_i, h_i, w_i)] of a backbone -> [(B, width, H/s, W/s)] from the first stride to the last, each twice the one before.

    Top-down and lateral paths up to stride 32 (FPN, Lin et al. 2017), strided convolutions beyond (RetinaNet).
    """

    def __init__(
        self, widths: tuple[int, ...], strides: tuple[int, ...], first: int, last: int, width: int
    ) -> None:
        super().__init__()
        inner = tuple(first * 2**power for power in range(int(math.log2(32 // first)) + 1))
        self.pyramid = Pyramid(widths, strides, inner)
        self.paths = fpn.FeaturePyramidNetwork(
            list(self.pyramid.widths), width, norm_layer=group_norm
        )
        beyond = int(math.log2(last // 32))
        self.beyond = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(beyond)
        )

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        named: Any = {str(place): each for place, each in enumerate(self.pyramid(maps, size))}
        found = list(self.paths(named).values())
        for step in self.beyond:
            found.append(step(functional.relu(found[-1])))
        return found


def group_norm(width: int) -> nn.Module:
    """Group normalisation: small batches are no trouble to it."""
    return nn.GroupNorm(width // _IN_GROUP, width)


def _source(strides: tuple[int, ...], wanted: int, depth: float) -> int:
    """Which map serves a stride: the deepest of that stride; in a plain stack one by its depth (0 to 1), early for fine ones."""
    if len(set(strides)) == 1:
        return round(depth * (len(strides) - 1))
    distances = [abs(math.log2(stride / wanted)) for stride in strides]
    return max(index for index, distance in enumerate(distances) if distance == min(distances))


def _moved(width: int, stride: int, wanted: int) -> nn.Module:
    """From one stride to another: learnt doublings upwards, the greatest of four downwards."""
    doublings = round(math.log2(stride / wanted))
    steps: list[nn.Module] = []
    for _ in range(doublings):
        steps += [nn.ConvTranspose2d(width, width, 2, stride=2), nn.GroupNorm(1, width), nn.GELU()]
    steps += [nn.MaxPool2d(2)] * -doublings
    return nn.Sequential(*steps)
