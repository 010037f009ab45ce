"""DeepLabV3+ (Chen et al. 2018), as built in segmentation_models_pytorch."""

from __future__ import annotations

from typing import ClassVar

from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from torch import Tensor

from foveate.modeling.decoders import Decoder

_RATES = (6, 12, 18)  # of the dilated convolutions, as in the paper for stride 16


class DeepLab(Decoder):
    strides: ClassVar[tuple[int, ...]] = (4, 16)
    needs_batch_statistics: ClassVar[bool] = True

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__(widths, width)
        options = {"output_stride": 16, "aspp_separable": True, "aspp_dropout": 0.1}
        self.layers = DeepLabV3PlusDecoder([0, 0, *widths], 4, width, _RATES, **options)
        self.out_width = width

    def forward(self, maps: list[Tensor]) -> Tensor:
        # the library expects two finer maps first and does not read them
        return self.layers([maps[0], maps[0], *maps])  # type: ignore[no-any-return]
