"""LoRA that allocates ranks to layers by importance (AdaLoRA, Zhang et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from peft import AdaLoraConfig
from pydantic import Field
from torch import Tensor

from foveate.modeling.tunings import Adaptable, TuningSettings
from foveate.modeling.tunings._peft import PeftTuning

_WARM, _COOL = 0.1, 0.3  # shares of the steps before ranks fall and after they have fallen
_PENALTY = 0.5  # weight of the distance from orthogonality, as in the paper's experiments
# running averages of peft's allocator, by parameter: importance and its uncertainty
_PARTS = ("exp_avg_ipt", "exp_avg_unc")


class AdaloraSettings(TuningSettings):
    rank: int = Field(8, ge=1, description="final mean rank of the updates")
    start_rank: int = Field(12, ge=1, description="initial rank of every update; larger than rank")
    alpha: float = Field(16.0, gt=0, description="scale of the updates")


class Adalora(PeftTuning):
    Settings: ClassVar[type[TuningSettings]] = AdaloraSettings
    settings: AdaloraSettings

    def config(self, model: Adaptable, targets: list[str]) -> Any:
        own = self.settings
        alpha: Any = own.alpha
        # the number of steps is known when training begins: `after_step` sets it
        return AdaLoraConfig(
            init_r=max(own.start_rank, own.rank + 1), target_r=own.rank, lora_alpha=alpha,
            total_step=3, tinit=1, tfinal=1, target_modules=targets,
        )  # fmt: skip

    def add_gradients(self, model: Adaptable) -> None:
        """Add the gradient of the mean of |A Aᵀ - I| and |Bᵀ B - I| (equation 4)."""
        parts = [
            (name, value)
            for name, value in model.backbone.named_parameters()
            if "lora_A" in name or "lora_B" in name
        ]
        penalty = torch.stack(
            [
                _orthogonality_gap(value @ value.T if "lora_A" in name else value.T @ value)
                for name, value in parts
            ]
        ).mean()
        (_PENALTY * penalty).backward()  # type: ignore[no-untyped-call]

    def after_step(self, model: Adaptable, step: int, steps: int) -> None:
        config, allocator = self._parts()
        config.total_step = steps
        config.tinit, config.tfinal = int(_WARM * steps), int(_COOL * steps)
        allocator.set_total_step(steps)
        last = steps - config.tfinal
        if step > last and not config.rank_pattern:
            step = last  # peft needs the ranks by now; where steps are revised, it may lack them
        self.tuner.update_and_allocate(step)

    def state(self) -> dict[str, Tensor]:
        config, allocator = self._parts()
        averages = {
            f"{part}/{name}": value
            for part in _PARTS
            for name, value in getattr(allocator, part).items()
        }
        return averages | {
            f"kept/{name}": torch.tensor(kept) for name, kept in (config.rank_pattern or {}).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        config, allocator = self._parts()
        for key, value in state.items():
            part, _, name = key.partition("/")
            if part == "kept":
                config.rank_pattern = {**(config.rank_pattern or {}), name: value.tolist()}
            else:
                getattr(allocator, part)[name] = value.clone()
                allocator.ipt.setdefault(name, value)

    def _parts(self) -> tuple[Any, Any]:
        return next(iter(self.tuner.peft_config.values())), self.tuner.rankallocator


def _orthogonality_gap(square: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.matrix_norm(
        square - torch.eye(len(square), device=square.device)
    )
    return distance
