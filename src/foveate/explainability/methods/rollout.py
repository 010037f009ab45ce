"""Attention rollout (Abnar & Zuidema 2020): how far each patch of a plain Vision Transformer reaches the answer. It does not ask
for what: the map is the same for every answer."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.explainability.methods import Explainer, ExplainRequest


class Rollout(Explainer):
    summary: ClassVar[str] = "where the network gathers what it knows, whatever is asked"
    asks: ClassVar[bool] = False

    def explain(self, asked: ExplainRequest) -> Tensor:
        seen = _attention(asked)
        count = seen[0].shape[-1] if seen else 0
        if len(seen) < 2 or any(each.shape[-2:] != (count, count) for each in seen):
            hint = "--method gradcam, or a plain Vision Transformer such as vit_small_patch16_224"
            raise UsageError(
                "rollout follows attention through a plain Transformer, and this is none",
                where="--method",
                hint=hint,
            )
        eye = torch.eye(count, device=seen[0].device)
        reached = eye
        for each in seen:
            reached = (0.5 * each.mean(0) + 0.5 * eye) @ reached
        side = math.isqrt(count)
        prefix = count - side * side
        row = reached[0] if prefix else reached.mean(0)
        return row[prefix:].reshape(side, side).float()


def _attention(asked: ExplainRequest) -> list[Tensor]:
    """(heads, N, N) of each layer; timm's attention fuses what is wanted here, unless it is told not to."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        found.append(output[0].detach())

    every: list[Any] = list(asked.backbone.modules())
    holders = [
        module for module in every if hasattr(module, "fused_attn") and hasattr(module, "attn_drop")
    ]
    fused = [module.fused_attn for module in holders]
    hooks = [module.attn_drop.register_forward_hook(keep) for module in holders]
    try:
        for module in holders:
            module.fused_attn = False
        with torch.no_grad():
            asked.score(asked.image)
    finally:
        for module, was in zip(holders, fused, strict=True):
            module.fused_attn = was
        for hook in hooks:
            hook.remove()
    return found
