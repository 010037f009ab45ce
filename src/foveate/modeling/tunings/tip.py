"""Text and a cache of training images, without training (Tip-Adapter, Zhang et al. 2022)."""

from __future__ import annotations

from typing import ClassVar

from foveate.modeling.tunings._tip import TipTuning


class Tip(TipTuning):
    needs_steps: ClassVar[bool] = False
    trained: ClassVar[bool] = False
