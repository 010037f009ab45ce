"""Semantic branch of feature pyramid networks (Kirillov et al. 2019), as built in
segmentation_models_pytorch.
"""

from __future__ import annotations

from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from torch import Tensor

from foveate.modeling.decoders import Decoder


class Fpn(Decoder):
    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__(widths, width)
        self.layers = FPNDecoder(
            [0, 0, *widths], pyramid_channels=width, segmentation_channels=width, dropout=0.1
        )
        self.out_width = width

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.layers(maps)  # type: ignore[no-any-return]
