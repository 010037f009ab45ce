"""LoRA for the direction of each weight vector, and a length of its own (DoRA, Liu et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.modeling.tunings._lora import LoraTuning


class Dora(LoraTuning):
    variant: ClassVar[dict[str, Any]] = {"use_dora": True}
