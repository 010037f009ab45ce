"""Linear probe: the head is fitted in closed form on features of the frozen backbone."""

from __future__ import annotations

from typing import ClassVar

from foveate.errors import UsageError
from foveate.modeling.tunings import Adaptable, Tuning


class Probe(Tuning):
    search_rank: ClassVar[float | None] = 1
    needs_steps: ClassVar[bool] = False

    def apply(self, model: Adaptable) -> None:
        if not hasattr(model.head, "linear"):
            hint = "--tuning head trains the head; full, last and lora also train the backbone"
            raise UsageError(
                "the head of this task has no closed-form solution", where="tuning", hint=hint
            )
        model.backbone.requires_grad_(False)
        model.head.requires_grad_(True)
