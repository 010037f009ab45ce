"""The decoder of SegFormer (Xie et al. 2021), as built in segmentation_models_pytorch."""

from __future__ import annotations

from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from torch import Tensor

from foveate.modeling.decoders import Decoder


class Segformer(Decoder):
    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__(widths, width)
        self.layers = SegformerDecoder([0, 0, *widths], segmentation_channels=width)
        self.out_width = width

    def forward(self, maps: list[Tensor]) -> Tensor:
        batch, _, height, width = maps[0].shape
        # the library only reads the image size from it
        stub = maps[0].new_empty(batch, 0, 4 * height, 4 * width)
        return self.layers([stub, stub, *maps])  # type: ignore[no-any-return]
