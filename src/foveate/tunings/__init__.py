"""Which weights move, and how. A tuning changes a model that does not know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from foveate.backbones import Backbone
from foveate.shelf import Shelf


class TuningSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Adaptable(Protocol):
    """What a tuning may touch: a module with these two parts."""

    backbone: Backbone
    head: nn.Module


class Tuning(ABC):
    """One way to adapt.

    `needs_steps`: False when `solve` finds the weights in closed form from features of the frozen backbone.
    """

    needs_steps: ClassVar[bool] = True
    Settings: ClassVar[type[TuningSettings]] = TuningSettings

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def apply(self, model: Adaptable) -> None:
        """Freezes, unfreezes or injects; called once on a fresh model, before training as before loading."""

    def solve(self, model: Adaptable, features: Tensor, targets: Tensor, seed: int) -> dict[str, Any]:
        """features (N, D), targets (N, K) in {0, 1} -> sets the head's weights; gives what was chosen, for the record."""
        raise TypeError(f"{type(self).__name__} learns by steps")

    def merge(self, model: Adaptable) -> None:  # noqa: B027  (most tunings add nothing that could be merged)
        """Folds added parameters into the weights, so that the network is the plain one again."""


TUNINGS: Shelf[Tuning] = Shelf("foveate.tunings", Tuning, "tuning")
