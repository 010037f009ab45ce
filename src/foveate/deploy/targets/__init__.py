"""Exporters: a network as a file for another runtime.

The main file of a run takes `images`, (B, 3, S, S) uint8, preprocessed but not normalized:
other channels where the run has other bands, and float32 up to 255 where it keeps 16 bits.
Some tasks need a second file. Each file carries a JSON text: the task, class names, preprocessing,
calibration, the license of the weights.

Nothing here imports torch before a file is written: exported files are opened where there is none.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from foveate.errors import UsageError, WeightsError
from foveate.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

METADATA_KEY = "foveate"  # of the JSON text in a file
MAX_ELEMENTS = 2**28  # of a tensor that a file asks for, for an image
_MAX_LENGTH = 4096  # of the batch and of other axes of any length


@dataclass(frozen=True)
class ExportProgram:
    """A network to write to a file.

    Attributes:
        module: Takes the tensors of `example` in their order, returns a tensor or a tuple of them.
        example: Inputs by name.
        dynamic_axes: By input name, the axes of any length; the first one is the batch.
        outputs: Names of the outputs.
    """

    module: nn.Module
    example: dict[str, Tensor]
    dynamic_axes: dict[str, tuple[int, ...]]
    outputs: list[str]


@dataclass(frozen=True)
class LoadedProgram:
    """A network that was read from a file.

    Attributes:
        metadata: The JSON text in the file.
        run: Returns outputs by name for inputs by name, B first in all of them.
    """

    metadata: dict[str, Any]
    run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class Exporter(ABC):
    """Base class of what writes files; plug-ins subclass one of the classes below.

    Attributes:
        summary: What the files are, for `--help` and the documentation.
        suffix: Ending of the file names.
    """

    summary: ClassVar[str]
    suffix: ClassVar[str]


class WeightsExporter(Exporter):
    """Writes tensors, which cannot make predictions on their own."""

    @abstractmethod
    def write_tensors(
        self, tensors: dict[str, Tensor], metadata: dict[str, Any], path: Path
    ) -> None:
        """Write the tensors of a model.

        Args:
            tensors: By their names in Foveate.
            metadata: The JSON text of the file.
            path: The file.
        """


class RuntimeExporter(Exporter):
    """Writes files that a runtime computes predictions with, and opens them."""

    @abstractmethod
    def write(self, program: ExportProgram, metadata: dict[str, Any], path: Path) -> None:
        """Write a network.

        Args:
            program: The network.
            metadata: The JSON text of the file.
            path: The file.

        Raises:
            UsageError: The format cannot represent this network.
        """

    @abstractmethod
    def open(self, path: Path) -> LoadedProgram:
        """Open a file.

        Raises:
            UsageError: Foveate did not write the file.
            WeightsError: The file is damaged, or keeps data elsewhere.
        """


class QuantizableExporter(RuntimeExporter):
    """Writes weights and activations of 8 bits, too."""

    @abstractmethod
    def quantize(
        self, path: Path, batches: Iterator[np.ndarray], metadata: dict[str, Any], output: Path
    ) -> None:
        """Quantize a written file to 8 bits.

        Args:
            path: The file, which takes `images`.
            batches: Images as the file takes them, from which the ranges of activations are taken.
            metadata: The JSON text of the new file.
            output: The new file.
        """


def trace(program: ExportProgram) -> Any:
    """Return the network as a `torch.export.ExportedProgram`.

    Raises:
        UsageError: The control flow of the network depends on its input.
    """
    import torch

    batch = torch.export.Dim("batch", min=1, max=_MAX_LENGTH)
    shapes = tuple(
        {
            axis: batch if axis == 0 else torch.export.Dim(f"{name}_{axis}", min=1, max=_MAX_LENGTH)
            for axis in program.dynamic_axes[name]
        }
        for name in program.example
    )
    try:
        return torch.export.export(
            program.module, tuple(program.example.values()), dynamic_shapes=shapes
        )
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(
            "torch.export cannot trace this network",
            where="--to",
            why=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}",
            hint="another --backbone, or another task.head",
        ) from None


EXPORTERS: Registry[Exporter] = Registry("foveate.deploy.targets", Exporter, "runtime", "exporters")


def foreign_file(path: Path, why: str) -> WeightsError:
    """Return the error of a file that could take any time or memory."""
    return WeightsError(
        "this file is not one that foveate export writes, and is not run",
        where=path,
        why=why,
        hint="foveate export RUN",
    )


def parse_metadata(text: str, path: Path) -> dict[str, Any]:
    """Return the JSON text of a file.

    Raises:
        WeightsError: It is not a JSON object.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise WeightsError(
            "the description in this file is damaged",
            where=path,
            why="it is not a JSON object",
            hint="foveate export RUN",
        )
    return content


def num_threads() -> int:
    """Return OMP_NUM_THREADS, which torch obeys, too; 0 (the default of the runtime) if unset."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdigit() else 0


def exporter_for(path: Path) -> Exporter | None:
    """Return the exporter whose files have the suffix of `path`, if there is one."""
    exporters = (EXPORTERS.get(name)() for name in EXPORTERS.names())
    return next((each for each in exporters if path.name.endswith(each.suffix)), None)
