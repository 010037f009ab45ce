"""LoRA on the direction of each weight vector, with a trained magnitude (DoRA, Liu et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.modeling.tunings._lora import LoraTuning


class Dora(LoraTuning):
    peft_options: ClassVar[dict[str, Any]] = {"use_dora": True}
