"""Other runtimes: a network as a file that answers without Foveate's, or anybody's, Python around it.

The first file of a run takes `images`, (B, 3, S, S) uint8: what evaluation shows of pictures, before it is normalised; some tasks
need a second one. Each carries a JSON text about itself: what it answers, class names, how pictures become squares, what
validation said, whose weights it holds. Nothing here imports torch before something is written: an exported file is opened where
there is none.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.errors import UsageError
from foveate.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

KEY = "foveate"  # of the JSON text
_MOST = 4096  # pictures at once, and of what else may have any length


@dataclass(frozen=True)
class ExportProgram:
    """What is written. `module`: the tensors of `example`, in their order -> a tensor, or a tuple of them, called `outputs`.
    `free`: the axes, by the inputs' names, that may have any length; the first one of each input is that of the pictures."""

    module: nn.Module
    example: dict[str, Tensor]
    free: dict[str, tuple[int, ...]]
    outputs: list[str]


@dataclass(frozen=True)
class LoadedProgram:
    """`about`: the JSON text, read. `run`: inputs by name -> outputs by name, B first in all of them."""

    about: dict[str, Any]
    run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class Exporter(ABC):
    """`suffix`: of its files. `summary`: what they are, in words. It is one of the kinds below."""

    summary: ClassVar[str]
    suffix: ClassVar[str]


class Weights(Exporter):
    """One whose files hold tensors, and answer nothing."""

    @abstractmethod
    def write_tensors(self, tensors: dict[str, Tensor], about: dict[str, Any], path: Path) -> None:
        """By the names that they have here."""


class Runtime(Exporter):
    """One whose files answer."""

    @abstractmethod
    def write(self, program: ExportProgram, about: dict[str, Any], path: Path) -> None:
        """Raises UsageError for what this runtime cannot hold."""

    @abstractmethod
    def open(self, path: Path) -> LoadedProgram:
        """Raises UsageError for a file that is none of ours, WeightsError for one that is damaged or leads outside of itself."""


class QuantizableRuntime(Runtime):
    """One that writes weights and activations of 8 bits too."""

    @abstractmethod
    def quantize(
        self, path: Path, batches: Iterator[np.ndarray], about: dict[str, Any], into: Path
    ) -> None:
        """The file `path`, which takes images, with 8 bits, their ranges taken from the batches, as `into`."""


def program_of(program: ExportProgram) -> Any:
    """The same as torch's own. Raises UsageError for a network whose steps depend on what it sees."""
    import torch

    batch = torch.export.Dim("batch", min=1, max=_MOST)
    shapes = tuple(
        {
            axis: batch if axis == 0 else torch.export.Dim(f"{name}_{axis}", min=1, max=_MOST)
            for axis in program.free[name]
        }
        for name in program.example
    )
    try:
        return torch.export.export(
            program.module, tuple(program.example.values()), dynamic_shapes=shapes
        )
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        hint = "another --backbone, or another task.head"
        raise UsageError(
            "torch cannot write down this network's steps", where="--to", why=why, hint=hint
        ) from None


EXPORTERS: Registry[Exporter] = Registry("foveate.deploy.targets", Exporter, "runtime", "exporters")


def threads() -> int:
    """As many as OMP_NUM_THREADS says, which torch minds as well; 0: as the runtime likes."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdigit() else 0


def exporter_of(path: Path) -> Exporter | None:
    """The one whose files end like this."""
    return next(
        (
            made()
            for made in map(EXPORTERS.get, EXPORTERS.names())
            if path.name.endswith(made.suffix)
        ),
        None,
    )
