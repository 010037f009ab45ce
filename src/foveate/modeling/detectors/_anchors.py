"""Rectangles laid over the steps of a pyramid."""

from __future__ import annotations

import torch
from torch import Tensor


def anchors_of(
    maps: list[Tensor], size: tuple[int, int], scales: tuple[float, ...], ratios: tuple[float, ...]
) -> Tensor:
    """(A, 4), level by level, row by row, `scales` (sides in strides) by `ratios` (height over width) at each step.

    `size`: (H, W) of the network's square, px.
    """
    return torch.cat(
        [_level(level.shape[-2:], size, scales, ratios, level.device) for level in maps]
    )


def _level(
    shape: torch.Size,
    size: tuple[int, int],
    scales: tuple[float, ...],
    ratios: tuple[float, ...],
    device: torch.device,
) -> Tensor:
    stride = size[1] / shape[1]
    y = (torch.arange(shape[0], device=device) + 0.5) * (size[0] / shape[0])
    x = (torch.arange(shape[1], device=device) + 0.5) * stride
    middles = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 1, 2)
    halves = torch.tensor(
        [(scale / ratio**0.5, scale * ratio**0.5) for scale in scales for ratio in ratios],
        device=device,
    )
    halves = halves * stride / 2
    return torch.cat([middles - halves, middles + halves], -1).reshape(-1, 4)
