"""LoRA whose ranks are shared out among the layers by importance while it trains (AdaLoRA, Zhang et al. 2023)."""

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
_PARTS = (
    "exp_avg_ipt",
    "exp_avg_unc",
)  # what peft's allocator averages: importance and its uncertainty, by parameter


class AdaloraSettings(TuningSettings):
    rank: int = Field(8, ge=1, description="mean rank of the updates in the end")
    start_rank: int = Field(
        12, ge=1, description="rank of every update in the beginning; more than rank"
    )
    alpha: float = Field(16.0, gt=0, description="scale of the updates")


class Adalora(PeftTuning):
    Settings: ClassVar[type[TuningSettings]] = AdaloraSettings
    settings: AdaloraSettings

    def config(self, model: Adaptable, targets: list[str]) -> Any:
        own = self.settings
        alpha: Any = own.alpha
        # the steps are known when training begins: `stepped` puts them in
        return AdaLoraConfig(
            init_r=max(own.start_rank, own.rank + 1), target_r=own.rank, lora_alpha=alpha, total_step=3, tinit=1, tfinal=1,
            target_modules=targets,
        )  # fmt: skip

    def add_gradients(self, model: Adaptable) -> None:
        """The gradient of the mean over all A and B of |A Aᵀ - 1| or |Bᵀ B - 1| (equation 4 of the paper)."""
        parts = [
            (name, value)
            for name, value in model.backbone.named_parameters()
            if "lora_A" in name or "lora_B" in name
        ]
        penalty = torch.stack(
            [
                _skew(value @ value.T if "lora_A" in name else value.T @ value)
                for name, value in parts
            ]
        ).mean()
        (_PENALTY * penalty).backward()  # type: ignore[no-untyped-call]

    def after_step(self, model: Adaptable, step: int, steps: int) -> None:
        config, allocator = self._parts()
        config.total_step = steps
        config.tinit, config.tfinal = int(_WARM * steps), int(_COOL * steps)
        allocator.set_total_step(steps)
        self.tuner.update_and_allocate(step)

    def state(self) -> dict[str, Tensor]:
        config, allocator = self._parts()
        found = {
            f"{part}/{name}": value
            for part in _PARTS
            for name, value in getattr(allocator, part).items()
        }
        return found | {
            f"kept/{name}": torch.tensor(kept) for name, kept in (config.rank_pattern or {}).items()
        }

    def load_state(self, memory: Mapping[str, Tensor]) -> None:
        config, allocator = self._parts()
        for key, value in memory.items():
            part, _, name = key.partition("/")
            if part == "kept":
                config.rank_pattern = {**(config.rank_pattern or {}), name: value.tolist()}
            else:
                getattr(allocator, part)[name] = value.clone()
                allocator.ipt.setdefault(name, value)

    def _parts(self) -> tuple[Any, Any]:
        return next(iter(self.tuner.peft_config.values())), self.tuner.rankallocator


def _skew(square: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.matrix_norm(
        square - torch.eye(len(square), device=square.device)
    )
    return distance
