"""How fast a training would go, and what it would take, before it starts."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, default_num_workers, make_loader
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.training.planning import time_step
from foveate.utils.device import ComputeMode

_AHEAD = 4  # batches a loader process: twice what it reads ahead
_SAFETY = 0.9  # of the minutes that were given are planned for


@dataclass(frozen=True)
class Pace:
    """`rate`: images a second, with reading, cutting and a step's gradients. `images`, `epochs`: of the whole training. `memory`:
    the most bytes that the process, or the GPU, has held so far."""

    rate: float
    images: int
    epochs: int
    memory: int

    @property
    def epoch_seconds(self) -> float:
        return self.images / self.rate

    def fitting(self, minutes: float) -> int:
        """Epochs that fit into so many minutes, one at least."""
        return max(1, int(_SAFETY * 60 * minutes / self.epoch_seconds))

    def numbers(self) -> dict[str, Any]:
        hours = self.epochs * self.epoch_seconds / 3600
        about = {
            "images_per_second": round(self.rate, 1),
            "epoch_seconds": round(self.epoch_seconds, 1),
            "hours": round(hours, 3),
        }
        return {
            **about,
            "images": self.images,
            "epochs": self.epochs,
            "memory_gigabytes": round(self.memory / 1e9, 2),
        }

    def lines(self) -> list[str]:
        told = self.numbers()
        return [
            f"{told['images_per_second']} images a second: {self.images} images take {told['epoch_seconds']} s, "
            f"{self.epochs} epochs {told['hours']} hours",
            f"{told['memory_gigabytes']} GB of memory at the most",
            "this was a dry run: nothing was trained or written",
        ]


def paced(
    model: Model, pictures: ImageDataset, recipe: Recipe, device: torch.device, gradients: bool = True
) -> Pace:
    """Times reading and steps after the first batch, in eval mode, which moves no statistics: no trace is left in the model.
    Without `gradients` it is looking alone that is timed."""
    way = ComputeMode(recipe.training.precision, bool(recipe.training.channels_last))
    model.eval().to(device=device, memory_format=way.memory_format)  # type: ignore[call-overload]
    order = BatchSampler(len(pictures), min(recipe.training.batch_size, len(pictures)))
    workers = default_num_workers(len(order)) if recipe.data.workers is None else recipe.data.workers
    batches = chain(
        *(make_loader(pictures, order, workers) for _ in range(2))
    )  # twice: there may be but one
    time_step(model, next(batches), way, device, gradients)
    start, seen = time.perf_counter(), 0
    for batch in islice(
        batches, 1 + _AHEAD * workers
    ):  # more than the loader had ready before the clock ran
        time_step(model, batch, way, device, gradients)
        seen += len(batch)
    return Pace(
        seen / (time.perf_counter() - start), len(pictures), recipe.training.epochs, _held(device)
    )


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
