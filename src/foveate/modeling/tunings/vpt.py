"""Visual prompt tuning: learned tokens beside the patches of a plain ViT (Jia et al. 2022)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.modeling.tunings import Adaptable, Tuning, TuningSettings


class VptSettings(TuningSettings):
    tokens: int = Field(10, ge=1, description="prompt tokens per layer")
    deep: bool = Field(
        True,
        description="prompts for every layer (VPT-deep); false: only for the first (VPT-shallow)",
    )


class _Prompted(nn.Module):
    """A block with prompts between the prefix tokens (class, registers) and the patches.

    `prompts`: (P, D); None: the prompt outputs of the block before (shallow). The returned sequence
    has no prompts.
    """

    def __init__(
        self, block: nn.Module, prefix: int, prompts: nn.Parameter | None, before: _Prompted | None
    ) -> None:
        super().__init__()
        self.block, self.prefix, self.prompts = block, prefix, prompts
        self.left: Tensor | None = None
        self.before = [before]  # in a list, so that it is not a submodule

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        if self.prompts is not None:
            prompts = self.prompts.to(x.dtype).expand(len(x), -1, -1)
        else:
            (before,) = self.before
            assert before is not None
            assert before.left is not None
            prompts, before.left = before.left, None
        y = self.block(
            torch.cat([x[:, : self.prefix], prompts, x[:, self.prefix :]], 1), *more, **named
        )
        end = self.prefix + prompts.shape[1]
        self.left = y[:, self.prefix : end]
        return torch.cat([y[:, : self.prefix], y[:, end:]], 1)


class Vpt(Tuning):
    layerwise: ClassVar[bool] = False
    trains_norms: ClassVar[bool] = False
    unmergeable: ClassVar[str] = "prompts are additional tokens, not a change of weights"
    Settings: ClassVar[type[TuningSettings]] = VptSettings
    settings: VptSettings

    def apply(self, model: Adaptable) -> None:
        network: Any = _plain_transformer(model)
        model.backbone.requires_grad_(False)
        before: _Prompted | None = None
        for index, block in enumerate(network.blocks):
            prompts = self._prompts(network) if self.settings.deep or index == 0 else None
            before = _Prompted(block, network.num_prefix_tokens, prompts, before)
            network.blocks[index] = before
            # rotary positions start after these tokens
            if hasattr(block.attn, "num_prefix_tokens"):
                block.attn.num_prefix_tokens += self.settings.tokens
        model.head.requires_grad_(True)

    def _prompts(self, network: Any) -> nn.Parameter:
        """Prompts (P, D), uniform within the Xavier bound of the patch embedding (the paper's)."""
        patch = math.prod(network.patch_embed.patch_size)
        bound = math.sqrt(6 / (3 * patch + network.embed_dim))
        return nn.Parameter(
            torch.empty(self.settings.tokens, network.embed_dim).uniform_(-bound, bound)
        )


def _plain_transformer(model: Adaptable) -> nn.Module:
    """The network of a plain ViT, whose blocks all read one sequence of tokens.

    Raises:
        UsageError: The backbone is something else.
    """
    network: Any = getattr(model.backbone, "network", None)
    blocks: Any = getattr(network, "blocks", None)
    stacked = isinstance(blocks, nn.Sequential | nn.ModuleList) and hasattr(
        network, "num_prefix_tokens"
    )
    if not stacked or not all(hasattr(block, "attn") for block in blocks):
        raise UsageError(
            "prompt tuning needs a plain Vision Transformer",
            where="tuning",
            hint="--tuning lora",
        )
    if getattr(network, "rel_pos_bias", None) is not None or any(
        _tied_to_grid(block.attn) for block in blocks
    ):
        why = "its attention is tied to a fixed grid of patches"
        raise UsageError(
            "this backbone does not support prompt tokens",
            where="tuning",
            why=why,
            hint="--tuning lora",
        )
    return cast(nn.Module, network)


def _tied_to_grid(attention: Any) -> bool:
    return getattr(attention, "rel_pos", None) is not None or hasattr(
        attention, "relative_position_index"
    )
