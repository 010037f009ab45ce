"""Any other method of the peft library by its name there: HRA, OFT, MiSS, RandLoRA, RoAd, WaveFT,
DeLoRA, GraLoRA, ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from pydantic import Field
from torch import nn

from foveate.errors import UnknownName, UsageError
from foveate.modeling.tunings import Adaptable, TuningSettings
from foveate.modeling.tunings._layers import is_linear, is_linear_or_any_conv, is_linear_or_conv
from foveate.modeling.tunings._peft import PeftTuning

_KINDS: dict[str, tuple[Callable[[nn.Module], bool], str]] = {
    "linear": (is_linear, "linear layer"),
    "plain": (is_linear_or_conv, "linear layer and no ungrouped convolution"),
    "all": (is_linear_or_any_conv, "linear layer and no convolution"),
}


# These train whole layers under another name, need a language model, or steps of their own.
_UNSUPPORTED = {
    "ADALORA", "ADAPTION_PROMPT", "LN_TUNING", "POLY", "SHADOW", "TRAINABLE_TOKENS", "XLORA",
}  # fmt: skip


class PeftSettings(TuningSettings):
    method: str = Field(
        "hra",
        description="name of the method in peft, such as hra, oft, miss, randlora, road, waveft",
    )
    layers: Literal["linear", "plain", "all"] = Field(
        "linear",
        description="layers: linear; plain: also ungrouped convolutions; all: also depthwise",
    )
    options: dict[str, Any] = Field({}, description="arguments of the configuration in peft")


class Peft(PeftTuning):
    unmergeable: ClassVar[str] = (
        "not every method of peft can be merged, and not every one merges correctly"
    )
    Settings: ClassVar[type[TuningSettings]] = PeftSettings
    settings: PeftSettings

    def supports(self, module: nn.Module) -> bool:  # type: ignore[override]
        return _KINDS[self.settings.layers][0](module)

    @property
    def layer_kind(self) -> str:  # type: ignore[override]
        return _KINDS[self.settings.layers][1]

    def config(self, model: Adaptable, targets: list[str]) -> Any:
        known = {
            kind.value.lower(): kind for kind in PEFT_TYPE_TO_TUNER_MAPPING if _adapts_layers(kind)
        }
        kind = known.get(self.settings.method.lower())
        if kind is None:
            raise UnknownName(
                self.settings.method, known, kind="method of peft", where="tuning.method"
            )
        try:
            configuration: Any = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
            return configuration(target_modules=targets, **self.settings.options)
        except (TypeError, ValueError) as error:
            raise UsageError(
                "peft rejects these options", where="tuning.options", why=_first_line(error)
            ) from None

    def apply(self, model: Adaptable) -> None:
        """Apply it, with one forward pass: some methods reject a layer only then."""
        try:
            super().apply(model)
            spec = model.backbone.input
            with torch.inference_mode():
                model.backbone.eval().probe(torch.zeros(1, spec.channels, spec.size, spec.size))
        except (
            ValueError,
            TypeError,
            RuntimeError,
            NotImplementedError,
            AttributeError,
            KeyError,
        ) as error:
            what = "this method of peft does not support this backbone"
            where = f"tuning.method={self.settings.method}"
            hint = "--set tuning.layers=linear, or --tuning lora"
            raise UsageError(what, where=where, why=_first_line(error), hint=hint) from None


def _adapts_layers(kind: Any) -> bool:
    """Whether it adapts layers by name, rather than prompts of a language model."""
    fields = PEFT_TYPE_TO_CONFIG_MAPPING[kind].__dataclass_fields__
    return "target_modules" in fields and kind.value not in _UNSUPPORTED


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
