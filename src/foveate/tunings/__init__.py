"""Which weights move, and how. A tuning changes a model that does not know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict
from torch import nn

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

    `needs_steps`: False when the head is solved on features of the frozen backbone and nothing else moves.
    `layerwise`: whether learning rates fall towards the input (training.layer_decay).
    """

    needs_steps: ClassVar[bool] = True
    layerwise: ClassVar[bool] = True
    Settings: ClassVar[type[TuningSettings]] = TuningSettings

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def apply(self, model: Adaptable) -> None:
        """Freezes, unfreezes or injects; called once on a fresh model, before training as before loading."""

    def merge(self, model: Adaptable) -> None:  # noqa: B027  (most tunings add nothing that could be merged)
        """Folds added parameters into the weights, so that the network is the plain one again."""


TUNINGS: Shelf[Tuning] = Shelf("foveate.tunings", Tuning, "tuning")
