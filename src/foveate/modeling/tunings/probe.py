"""Only the head: the backbone runs once over the images, and the head is solved on its features."""

from __future__ import annotations

from typing import ClassVar

from foveate.errors import UsageError
from foveate.modeling.tunings import Adaptable, Tuning


class Probe(Tuning):
    ladder_rank: ClassVar[float | None] = 1
    needs_steps: ClassVar[bool] = False

    def apply(self, model: Adaptable) -> None:
        if not hasattr(model.head, "linear"):
            hint = "--tuning head trains it; full, last and lora the backbone too"
            raise UsageError(
                "this task's head cannot be solved in closed form", where="tuning", hint=hint
            )
        model.backbone.requires_grad_(False)
        model.head.requires_grad_(True)
