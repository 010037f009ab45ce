"""UPerNet (Xiao et al. 2018), as built in segmentation_models_pytorch."""

from __future__ import annotations

from typing import ClassVar

from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor

from foveate.modeling.decoders import Decoder


class UperNet(Decoder):
    needs_batch_statistics: ClassVar[bool] = True

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__(widths, width)
        self.layers = UPerNetDecoder([0, 0, *widths], decoder_channels=width)
        self.out_width = width

    def forward(self, maps: list[Tensor]) -> Tensor:
        # the library expects two finer maps first and does not read them
        return self.layers([maps[0], maps[0], *maps])  # type: ignore[no-any-return]
