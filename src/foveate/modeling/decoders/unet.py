"""The decoder of U-Net (Ronneberger et al. 2015), as built in segmentation_models_pytorch."""

from __future__ import annotations

from typing import ClassVar

from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor

from foveate.modeling.decoders import Decoder

_MIN_CHANNELS = (
    16  # at full resolution; with fewer channels than classes the last layer cannot separate them
)


class Unet(Decoder):
    strides: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32)

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__(widths, width)
        fine = max(_MIN_CHANNELS, width // 8)
        self.layers = UnetDecoder(
            [0, *widths], [2 * width, width, width // 2, max(fine, width // 4), fine]
        )
        self.out_width = fine

    def forward(self, maps: list[Tensor]) -> Tensor:
        batch, _, height, width = maps[0].shape
        # the library only reads the image size from it
        stub = maps[0].new_empty(batch, 0, 2 * height, 2 * width)
        return self.layers([stub, *maps])  # type: ignore[no-any-return]
