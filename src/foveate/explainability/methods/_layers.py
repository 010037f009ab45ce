"""Activations of a network and the gradients of a score with respect to them.

Letters: C channels, h and w sides of a grid, N tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.errors import UsageError
from foveate.explainability.methods import ExplainRequest

DEPTHS = 3  # layers of different sizes, the deepest ones, for methods that combine several
_LAYERS = "spatial layers"
_PASS = "forward pass"
_MIN_SIDE = 2  # cells: a single one has no position


@dataclass(frozen=True)
class Layer:
    """The output of a block and the gradient of the score with respect to it, (C, h, w) each."""

    output: Tensor
    gradient: Tensor


def spatial_layers(request: ExplainRequest) -> list[Layer]:
    """Return the layers at whose positions the score depends on the output, in order.

    In the last block of a Transformer that predicts from its class token, no other token matters;
    the block before it is the last one here. Where the score does not depend on the image at all,
    as that of an object that the network does not find, all layers are returned.

    Raises:
        UsageError: There is no layer with positions.
    """
    if _LAYERS not in request.of_score:
        request.of_score[_LAYERS] = _spatial_layers(request)
    layers: list[Layer] = request.of_score[_LAYERS]
    return layers


def _spatial_layers(request: ExplainRequest) -> list[Layer]:
    if _PASS not in request.of_image:
        request.of_image[_PASS] = _forward_pass(request)
    outputs, result = request.of_image[_PASS]
    with torch.enable_grad():
        score = request.score_of(result).sum()
        gradients = torch.autograd.grad(score, outputs, allow_unused=True, retain_graph=True)
    layers = []
    for output, gradient in zip(outputs, gradients, strict=True):
        if gradient is None:
            continue
        output_grid, gradient_grid = _to_grid(output.detach()), _to_grid(gradient)
        if output_grid is not None and gradient_grid is not None:
            layers.append(Layer(output_grid.float(), gradient_grid.float()))
    if not layers:
        raise UsageError(
            "this network has no layer with spatial positions",
            where="--method",
            hint="--method occlusion, which works with every network",
        )
    return [layer for layer in layers if bool(layer.gradient.any())] or layers


def _forward_pass(request: ExplainRequest) -> tuple[list[Tensor], Any]:
    """The outputs of all blocks, and that of the network, from which scores are computed."""
    outputs: list[Tensor] = []

    def store(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            outputs.append(output)

    hooks = [block.register_forward_hook(store) for block in _blocks(request.backbone)]
    try:
        with torch.enable_grad():
            result = request.output(request.image.clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, result


def deepest_layers(request: ExplainRequest, count: int) -> list[Layer]:
    """Return the last layer of each grid size, the coarsest first, at most `count` of them."""
    last = {layer.output.shape[-1]: layer for layer in spatial_layers(request)}
    return [last[side] for side in sorted(last)[:count]]


def resize_to_finest(maps: list[Tensor]) -> list[Tensor]:
    """Resize maps (h, w), the coarsest first, to the size of the last one."""
    size = maps[-1].shape[-2:]
    return [
        functional.interpolate(map_[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        for map_ in maps
    ]


def _blocks(backbone: Any) -> list[nn.Module]:
    """Return the blocks of a backbone, and the modules in blocks that are stacks."""
    modules: list[nn.Module] = []
    for block in backbone.blocks():
        stack = next(
            (
                child
                for child in block.children()
                if isinstance(child, nn.Sequential | nn.ModuleList) and len(child)
            ),
            None,
        )
        inner = list(block.children()) if isinstance(block, nn.Sequential) else list(stack or [])
        modules += [*inner, block]
    return list(dict.fromkeys(modules))


def _to_grid(values: Tensor) -> Tensor | None:
    """Bring activations to (C, h, h); None if they have no spatial positions.

    Args:
        values: (1, C, h, h), (1, h, h, C), or (1, prefix + h * h, C).
    """
    if values.ndim == 4 and values.shape[2] == values.shape[3] >= _MIN_SIDE:
        return values[0]
    if values.ndim == 4 and values.shape[1] == values.shape[2] >= _MIN_SIDE:
        return values[0].permute(2, 0, 1)
    if values.ndim == 3 and values.shape[1] >= _MIN_SIDE**2:
        side = math.isqrt(values.shape[1])
        return values[0, -side * side :].T.reshape(-1, side, side)
    return None
