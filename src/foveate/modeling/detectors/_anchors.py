"""Anchor boxes over the cells of a feature pyramid."""

from __future__ import annotations

import torch
from torch import Tensor


def make_anchors(
    maps: list[Tensor], size: tuple[int, int], scales: tuple[float, ...], ratios: tuple[float, ...]
) -> Tensor:
    """Anchors (A, 4), level by level, row by row, `scales` x `ratios` at each cell.

    Args:
        maps: [(B, C, h, w)], the levels of the pyramid.
        size: (H, W) of the network's square, px.
        scales: sides of the anchors, in strides of the level.
        ratios: height over width.
    """
    return torch.cat(
        [_level_anchors(level.shape[-2:], size, scales, ratios, level.device) for level in maps]
    )


def _level_anchors(
    shape: torch.Size,
    size: tuple[int, int],
    scales: tuple[float, ...],
    ratios: tuple[float, ...],
    device: torch.device,
) -> Tensor:
    stride = size[1] / shape[1]
    y = (torch.arange(shape[0], device=device) + 0.5) * (size[0] / shape[0])
    x = (torch.arange(shape[1], device=device) + 0.5) * stride
    centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 1, 2)
    halves = torch.tensor(
        [(scale / ratio**0.5, scale * ratio**0.5) for scale in scales for ratio in ratios],
        device=device,
    )
    halves = halves * stride / 2
    return torch.cat([centers - halves, centers + halves], -1).reshape(-1, 4)
