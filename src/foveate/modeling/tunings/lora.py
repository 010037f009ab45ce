"""Low-rank updates of frozen weights (LoRA, Hu et al. 2021), on linear layers and convolutions."""

from __future__ import annotations

from typing import ClassVar

from foveate.modeling.tunings._lora import LoraTuning


class Lora(LoraTuning):
    search_rank: ClassVar[float | None] = 4
