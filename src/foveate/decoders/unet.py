"""The decoder of U-Net (Ronneberger et al. 2015), as built in segmentation_models_pytorch."""

from __future__ import annotations

from typing import ClassVar

from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor

from foveate.decoders import Decoder


class Unet(Decoder):
    strides: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32)

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__(widths, width)
        self.layers = UnetDecoder([0, *widths], [2 * width, width, width // 2, width // 4, width // 8])
        self.out_width = width // 8

    def forward(self, maps: list[Tensor]) -> Tensor:
        batch, _, height, width = maps[0].shape
        stub = maps[0].new_empty(batch, 0, 2 * height, 2 * width)  # the library reads the size of the picture off it
        return self.layers([stub, *maps])  # type: ignore[no-any-return]
