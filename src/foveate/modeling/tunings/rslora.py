"""LoRA scaled by alpha over the root of the rank, so that higher ranks do not learn less (rsLoRA, Kalajdzievski 2023)."""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.modeling.tunings._lora import LoraTuning


class RsLora(LoraTuning):
    variant: ClassVar[dict[str, Any]] = {"use_rslora": True}
    default_overrides: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}
