"""LoRA scaled by alpha / sqrt(rank), stable at high ranks (rsLoRA, Kalajdzievski 2023)."""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.modeling.tunings._lora import LoraTuning


class RsLora(LoraTuning):
    peft_options: ClassVar[dict[str, Any]] = {"use_rslora": True}
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}
