"""DPT (Ranftl et al. 2021), as built in segmentation_models_pytorch.

The feature pyramid replaces its reassembly of tokens.
"""

from __future__ import annotations

from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from torch import Tensor

from foveate.modeling.decoders import Decoder


class Dpt(Decoder):
    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__(widths, width)
        self.layers = DPTDecoder(widths, self.strides, False, "ignore", [width] * 4, width)
        self.out_width = width

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.layers(maps, [None] * len(maps))  # type: ignore[no-any-return]
