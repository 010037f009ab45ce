"""Learnt tokens beside the patches of a plain Vision Transformer (visual prompt tuning, Jia et al. 2022)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.modeling.tunings import Adaptable, Tuning, TuningSettings


class VptSettings(TuningSettings):
    tokens: int = Field(10, ge=1, description="prompts in a layer")
    deep: bool = Field(
        True,
        description="prompts of its own for every layer (VPT-deep); false: for the first alone (VPT-shallow)",
    )


class _Prompted(nn.Module):
    """A block that sees prompts between the prefix tokens (class, registers) and the patches, and gives the sequence without them.

    `prompts` (P, D), or None: then it sees what the block before made of its own (shallow).
    """

    def __init__(
        self, block: nn.Module, prefix: int, prompts: nn.Parameter | None, before: _Prompted | None
    ) -> None:
        super().__init__()
        self.block, self.prefix, self.prompts = block, prefix, prompts
        self.left: Tensor | None = None
        self.before = [before]  # in a list: a neighbour, no part of this module

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        if self.prompts is not None:
            seen = self.prompts.to(x.dtype).expand(len(x), -1, -1)
        else:
            (before,) = self.before
            assert before is not None
            assert before.left is not None
            seen, before.left = before.left, None
        y = self.block(
            torch.cat([x[:, : self.prefix], seen, x[:, self.prefix :]], 1), *more, **named
        )
        end = self.prefix + seen.shape[1]
        self.left = y[:, self.prefix : end]
        return torch.cat([y[:, : self.prefix], y[:, end:]], 1)


class Vpt(Tuning):
    layerwise: ClassVar[bool] = False
    unmergeable: ClassVar[str] = "prompts are more tokens, no change of weights"
    Settings: ClassVar[type[TuningSettings]] = VptSettings
    settings: VptSettings

    def apply(self, model: Adaptable) -> None:
        network: Any = _plain_transformer(model)
        model.backbone.requires_grad_(False)
        before: _Prompted | None = None
        for place, block in enumerate(network.blocks):
            prompts = self._prompts(network) if self.settings.deep or place == 0 else None
            before = _Prompted(block, network.num_prefix_tokens, prompts, before)
            network.blocks[place] = before
            if hasattr(
                block.attn, "num_prefix_tokens"
            ):  # rotary positions start after these tokens
                block.attn.num_prefix_tokens += self.settings.tokens
        model.head.requires_grad_(True)

    def _prompts(self, network: Any) -> nn.Parameter:
        """(P, D), drawn as in the paper: uniform between the bounds of a Xavier initialisation of the patch embedding."""
        patch = math.prod(network.patch_embed.patch_size)
        bound = math.sqrt(6 / (3 * patch + network.embed_dim))
        return nn.Parameter(
            torch.empty(self.settings.tokens, network.embed_dim).uniform_(-bound, bound)
        )


def _plain_transformer(model: Adaptable) -> nn.Module:
    """The network whose `blocks` all see one sequence of tokens, wherever they lie in the picture."""
    network: Any = getattr(model.backbone, "network", None)
    blocks: Any = getattr(network, "blocks", None)
    stacked = isinstance(blocks, nn.Sequential | nn.ModuleList) and hasattr(
        network, "num_prefix_tokens"
    )
    if not stacked or not all(hasattr(block, "attn") for block in blocks):
        raise UsageError(
            "prompts are tokens: they need a plain Vision Transformer",
            where="tuning",
            hint="--tuning lora",
        )
    if getattr(network, "rel_pos_bias", None) is not None or any(
        _tied_to_grid(block.attn) for block in blocks
    ):
        why = "its attention is tied to a fixed grid of patches"
        raise UsageError(
            "prompts have no place in this backbone", where="tuning", why=why, hint="--tuning lora"
        )
    return cast(nn.Module, network)


def _tied_to_grid(attention: Any) -> bool:
    return getattr(attention, "rel_pos", None) is not None or hasattr(
        attention, "relative_position_index"
    )
