"""Attention rollout (Abnar & Zuidema 2020): attention multiplied through the layers.

It measures how much of each patch reaches the prediction of a plain Vision Transformer. The score
plays no part: the map is the same for every class.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.explainability.methods import Explainer, ExplainRequest


class Rollout(Explainer):
    """Attention rollout to the class token, or to the mean of all tokens where there is none."""

    summary: ClassVar[str] = "patches that the network attends to, whatever is explained"

    def explain(self, request: ExplainRequest) -> Tensor:
        attention = _attention(request)
        count = attention[0].shape[-1] if attention else 0
        square = all(layer.shape[-2:] == (count, count) for layer in attention)
        if len(attention) < 2 or not square:
            raise UsageError(
                "rollout needs a plain Vision Transformer, and this backbone is none",
                where="--method",
                hint="--method gradcam, or a backbone such as vit_small_patch16_224",
            )
        identity = torch.eye(count, device=attention[0].device)
        rollout = identity
        for layer in attention:
            rollout = (0.5 * layer.mean(0) + 0.5 * identity) @ rollout
        side = math.isqrt(count)
        prefix = count - side * side
        row = rollout[0] if prefix else rollout.mean(0)
        return row[prefix:].reshape(side, side).float()


def _attention(request: ExplainRequest) -> list[Tensor]:
    """Return the attention (heads, N, N) of each layer.

    Fused attention of timm does not compute the matrix; it is switched off meanwhile.
    """
    matrices: list[Tensor] = []

    def store(module: nn.Module, args: Any, output: Tensor) -> None:
        matrices.append(output[0].detach())

    modules: list[Any] = list(request.backbone.modules())
    layers = [
        module
        for module in modules
        if hasattr(module, "fused_attn") and hasattr(module, "attn_drop")
    ]
    fused = [layer.fused_attn for layer in layers]
    hooks = [layer.attn_drop.register_forward_hook(store) for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False
        with torch.no_grad():
            request.score(request.image)
    finally:
        for layer, value in zip(layers, fused, strict=True):
            layer.fused_attn = value
        for hook in hooks:
            hook.remove()
    return matrices
