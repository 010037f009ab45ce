"""Other runtimes: a network as a file that answers without Foveate's, or anybody's, Python around it.

The file takes `images`, (B, 3, S, S) uint8: what evaluation shows of pictures, before it is normalised. It carries a JSON text
about itself: what it answers, class names, how pictures become squares, what validation said, whose weights it holds.
Nothing here imports torch before something is written: an exported file is opened where there is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.shelf import Shelf

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

KEY = "foveate"  # of the JSON text
_MOST = 4096  # pictures at once


@dataclass(frozen=True)
class Opened:
    """`about`: the JSON text, read. `run`: (B, 3, S, S) uint8 -> outputs by name, B first."""

    about: dict[str, Any]
    run: Callable[[np.ndarray], dict[str, np.ndarray]]


class Exporter(ABC):
    """`suffix`: of its files. `summary`: what they are, in words."""

    summary: ClassVar[str]
    suffix: ClassVar[str]

    @abstractmethod
    def write(self, graph: nn.Module, names: list[str], side: int, about: dict[str, Any], path: Path) -> None:
        """`graph`: images (B, 3, side, side) uint8 -> a tuple of tensors, which are called `names`. Raises UsageError for what this
        runtime cannot hold."""

    @abstractmethod
    def open(self, path: Path) -> Opened:
        """Raises UsageError for a file that is none of ours, WeightsError for one that is damaged or leads outside of itself."""


class SmallExporter(Exporter):
    """One that writes weights and activations of 8 bits too."""

    @abstractmethod
    def shrink(self, path: Path, batches: Iterator[np.ndarray], about: dict[str, Any], into: Path) -> None:
        """The file `path` with 8 bits, their ranges taken from the batches, as `into`."""


def program_of(graph: nn.Module, side: int) -> Any:
    """torch's own program of a graph, for any number of pictures at once."""
    import torch

    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=_MOST)}}
    return torch.export.export(graph, (example,), dynamic_shapes=dynamic)


EXPORTERS: Shelf[Exporter] = Shelf("foveate.exporters", Exporter, "runtime")


def exporter_of(path: Path) -> Exporter | None:
    """The one whose files end like this."""
    return next((made() for made in map(EXPORTERS.load, EXPORTERS.names()) if path.name.endswith(made.suffix)), None)
