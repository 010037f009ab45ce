"""What explainers see of a network: the outputs of its blocks, and how a score depends on them.

Letters: C channels, h, w sides of a grid, N tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.explainability.methods import ExplainRequest

DEPTHS = 3  # of different sizes, the deepest ones, where several are looked at
_LEAST = 2  # cells along a side: a single one has no place


@dataclass(frozen=True)
class Layer:
    """The output of a block and the score's gradient there, (C, h, w) each."""

    output: Tensor
    gradient: Tensor


def layers(asked: ExplainRequest) -> list[Layer]:
    """From the input to the output of the network, those on whose places the score depends. Raises UsageError where there is none.

    In the last block of a Transformer that answers with its class token no other token counts any more: the block before it is
    the last one here.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            outputs.append(output)

    hooks = [block.register_forward_hook(keep) for block in _parts(asked.backbone)]
    try:
        with torch.enable_grad():
            score = asked.score(asked.image.clone().requires_grad_()).sum()
            gradients = torch.autograd.grad(score, outputs, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for output, gradient in zip(outputs, gradients, strict=True):
        grids = None if gradient is None else (_grid(output.detach()), _grid(gradient))
        if grids and grids[0] is not None and grids[1] is not None and bool(grids[1].any()):
            found.append(Layer(grids[0].float(), grids[1].float()))
    if not found:
        raise UsageError(
            "this network has no layer with places to look at",
            where="--method",
            hint="--method occlusion, which takes any",
        )
    return found


def deepest(asked: ExplainRequest, count: int) -> list[Layer]:
    """The last layer of each size of the grid, the coarsest first, `count` at the most."""
    last = {layer.output.shape[-1]: layer for layer in layers(asked)}
    return [last[side] for side in sorted(last)[:count]]


def _parts(backbone: Any) -> list[nn.Module]:
    """The blocks, and what a block that is a stack holds."""
    found: list[nn.Module] = []
    for block in backbone.blocks():
        stack = next(
            (
                each
                for each in block.children()
                if isinstance(each, nn.Sequential | nn.ModuleList) and len(each)
            ),
            None,
        )
        inner = list(block.children()) if isinstance(block, nn.Sequential) else list(stack or [])
        found += [*inner, block]
    return list(dict.fromkeys(found))


def _grid(values: Tensor) -> Tensor | None:
    """(1, C, h, h), (1, h, h, C) or (1, prefix + h * h, C) -> (C, h, h); None for what has no places."""
    if values.ndim == 4 and values.shape[2] == values.shape[3] >= _LEAST:
        return values[0]
    if values.ndim == 4 and values.shape[1] == values.shape[2] >= _LEAST:
        return values[0].permute(2, 0, 1)
    if values.ndim == 3 and values.shape[1] >= _LEAST**2:
        side = math.isqrt(values.shape[1])
        return values[0, -side * side :].T.reshape(-1, side, side)
    return None
