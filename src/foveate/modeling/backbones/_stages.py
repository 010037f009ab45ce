"""The structure of a network: which stages give maps, and which modules are blocks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

# maps taken from a network without a pyramid (ViT), all of one size, evenly spaced in depth
_PLAIN_MAPS = 4


def select_map_stages(strides: Sequence[int]) -> list[int]:
    """Return the indices of the stages that give maps, from the stride of each stage.

    All stages of a pyramid do, and some of a plain stack of blocks.
    """
    if len(set(strides)) > 1 or len(strides) <= _PLAIN_MAPS:
        return list(range(len(strides)))
    step = len(strides) / _PLAIN_MAPS
    return [round(step * count) - 1 for count in range(1, _PLAIN_MAPS + 1)]


def flatten_blocks(network: nn.Module, wrappers: Collection[str] = ()) -> list[nn.Module]:
    """Return the children of a network that have parameters, from input to output.

    A Sequential or ModuleList is replaced by its own children, one level deep.

    Args:
        network: The network.
        wrappers: Names of children that are no blocks but contain the stacks of blocks.
    """
    blocks: list[nn.Module] = []
    for name, child in network.named_children():
        if name in wrappers:
            blocks += flatten_blocks(child)
        elif isinstance(child, nn.Sequential | nn.ModuleList):
            blocks += child.children()
        else:
            blocks.append(child)
    return [block for block in blocks if any(True for _ in block.parameters())]
