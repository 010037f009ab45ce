"""Text and a cache of training images with trained keys (Tip-Adapter-F, Zhang et al. 2022)."""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.errors import UsageError
from foveate.modeling.tunings import Adaptable
from foveate.modeling.tunings._tip import TipTuning


class TipF(TipTuning):
    trained: ClassVar[bool] = True
    default_overrides: ClassVar[dict[str, Any]] = {
        **TipTuning.default_overrides,
        "task.smoothing": 0.0,
        "training.lr": 1e-3,
        "training.epochs": 20,
    }

    def begin_epoch(self, model: Adaptable, epoch: int, epochs: int) -> None:
        head: Any = model.head
        if not len(head.keys):
            hint = "--set training.head_init=probe"
            raise UsageError(
                "the cache holds no training images", where="training.head_init", hint=hint
            )
