"""Segmentation decoders: from a pyramid of maps to a feature vector for every pixel.

Letters: B images, C_i channels of the maps, H, W of the network's square, D width of the output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from foveate.registry import Registry


class Decoder(nn.Module, ABC):
    """Base class of decoders, created with the channels of the maps and the width of its own
    layers.

    Attributes:
        strides: the maps that it reads, finest first.
        needs_batch_statistics: whether it normalizes one vector per image over the batch, so that
            training needs two images at once.
        out_width: D, set by the constructor.
    """

    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    needs_batch_statistics: ClassVar[bool] = False
    out_width: int

    @abstractmethod
    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C_i, H/s_i, W/s_i)] -> (B, D, h, w) of any size, resized to the square later."""


DECODERS: Registry[Decoder] = Registry("foveate.modeling.decoders", Decoder, "decoder")
