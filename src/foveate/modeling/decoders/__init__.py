"""Ways to turn a pyramid of maps into a vector for every pixel.

Letters: B images, C_i channels of the maps, H, W of the network's square, D width of the answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from foveate.registry import Registry


class Decoder(nn.Module, ABC):
    """Made with the channels C_i of the maps at its `strides`, finest first, and the width of its own layers.

    `strides`: the maps that it wants. `pools`: whether it normalises a single vector of each image over the batch, so that
    training needs two at once. `out_width`: D, set when it is made.
    """

    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    pools: ClassVar[bool] = False
    out_width: int

    @abstractmethod
    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C_i, H/s_i, W/s_i)] -> (B, D, h, w), of any size; it is stretched to the square afterwards."""


DECODERS: Registry[Decoder] = Registry("foveate.modeling.decoders", Decoder, "decoder")
