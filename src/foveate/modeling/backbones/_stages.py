"""How families walk a network: which of its stages give maps, and what counts as a block."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

_PLAIN_MAPS = (
    4  # maps of one size taken from a network without a pyramid (ViT), evenly spaced in depth
)


def select_map_stages(strides: Sequence[int]) -> list[int]:
    """Which stages give maps, by the stride of each: all of a pyramid, some of a plain stack of blocks."""
    if len(set(strides)) > 1 or len(strides) <= _PLAIN_MAPS:
        return list(range(len(strides)))
    step = len(strides) / _PLAIN_MAPS
    return [round(step * place) - 1 for place in range(1, _PLAIN_MAPS + 1)]


def flatten_blocks(network: nn.Module, wrappers: Collection[str] = ()) -> list[nn.Module]:
    """The children of a network that hold parameters, from input to output; a stack of layers is opened, one level deep.

    `wrappers`: names of children that are not blocks but hold the network's stacks.
    """
    found: list[nn.Module] = []
    for name, child in network.named_children():
        if name in wrappers:
            found += flatten_blocks(child)
        else:
            found += (
                child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
            )
    return [part for part in found if any(True for _ in part.parameters())]
