"""Where pretrained eyes come from. A family opens backbones by name; a backbone turns pixels into Features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from foveate.shelf import Shelf
from foveate.types import Features, InputSpec, Provides


class Backbone(nn.Module, ABC):
    """A network without a task.

    `provides`: what `forward` can give. `input`: what it wants to see. `width`: D of the pooled vector. `map_widths`: C_i of
    the maps, finest first, and `map_strides`: input pixels to a step in each (about: unpadded convolutions lose some at the
    edges). `token_width`: D of the tokens. `origin`: where the weights came from, as said to the user.
    """

    provides: frozenset[Provides]
    input: InputSpec
    width: int
    map_widths: tuple[int, ...]
    map_strides: tuple[int, ...]
    token_width: int
    origin: str

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Modules from input to output; together they hold every parameter except those on the root itself."""

    @abstractmethod
    def forward(self, images: Tensor, wants: Collection[Provides]) -> Features:
        """images (B, 3, H, W) float32 normalised -> Features with all that is wanted filled in, in one pass."""


@dataclass(frozen=True)
class Card:
    """A row of `foveate models`. `parameters`: a count, without a head. `size`: input side in pixels."""

    name: str
    parameters: int
    licence: str
    size: int
    provides: tuple[str, ...]
    offline: bool


class Family(ABC):
    """A source of backbones."""

    summary: ClassVar[str]

    @abstractmethod
    def names(self) -> list[str]:
        """Every backbone that `open` accepts."""

    @abstractmethod
    def card(self, name: str) -> Card:
        """What is known about one backbone, without its weights."""

    @abstractmethod
    def open(self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0) -> Backbone:
        """The backbone with its weights: 'auto' (offline package if installed, else hub), 'hub', 'offline', 'none' or a file.

        `size` asks for another input side, `drop_path` for stochastic depth. Raises
        UnknownName, or WeightsError when the weights cannot be had or do not fit.
        """


FAMILIES: Shelf[Family] = Shelf("foveate.backbones", Family, "backbone family")
