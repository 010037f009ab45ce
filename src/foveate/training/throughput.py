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
from foveate.messages import Message
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.training.planning import time_step
from foveate.utils.device import ComputeMode, to_device

_BATCHES_PER_WORKER = 4  # batches that are timed: twice what a worker reads ahead


@dataclass(frozen=True)
class Throughput:
    """What was measured, and what follows for the whole training.

    Attributes:
        images_per_second: rate of reading, augmenting and training.
        images: training images.
        epochs: epochs of the recipe.
        peak_memory: most bytes that the process, or the GPU, has held so far.
    """

    images_per_second: float
    images: int
    epochs: int
    peak_memory: int

    @property
    def epoch_seconds(self) -> float:
        return self.images / self.images_per_second

    def numbers(self) -> dict[str, Any]:
        return {
            "images_per_second": round(self.images_per_second, 1),
            "epoch_seconds": round(self.epoch_seconds, 1),
            "hours": round(self.epochs * self.epoch_seconds / 3600, 3),
            "images": self.images,
            "epochs": self.epochs,
            "memory_gigabytes": round(self.peak_memory / 1e9, 2),
        }

    def lines(self) -> list[str]:
        rate = Message(
            "training.throughput",
            "{images_per_second} images per second: {images:image takes|images take} "
            "{epoch_seconds} s, {epochs:epoch takes|epochs take} {hours} hours",
            **self.numbers(),
        )
        return [
            str(rate),
            f"{self.numbers()['memory_gigabytes']} GB of memory at most",
            "this was a dry run: nothing was trained or written",
        ]


def measure_throughput(
    model: Model,
    dataset: ImageDataset,
    recipe: Recipe,
    device: torch.device,
    gradients: bool = True,
) -> Throughput:
    """Time reading and training steps, and leave no trace in the model.

    The first batch warms up and is not timed. The model is in eval mode, so that no statistics
    change.

    Args:
        model: The model; it is moved to the device.
        dataset: The training images.
        recipe: The recipe, with precision and memory format resolved.
        device: Where to train.
        gradients: Whether to time the backward pass too.
    """
    mode = ComputeMode.for_training(recipe.training)
    to_device(model.eval(), device, mode)
    sampler = BatchSampler(len(dataset), min(recipe.training.batch_size, len(dataset)))
    workers = recipe.data.workers
    workers = default_num_workers(len(sampler)) if workers is None else workers
    # twice: there may be one batch only
    batches = chain(*(make_loader(dataset, sampler, workers) for _ in range(2)))
    time_step(model, next(batches), mode, device, gradients)
    start, images = time.perf_counter(), 0
    # more batches than the workers had ready before the clock started
    for batch in islice(batches, 1 + _BATCHES_PER_WORKER * workers):
        time_step(model, batch, mode, device, gradients)
        images += len(batch)
    rate = images / (time.perf_counter() - start)
    return Throughput(rate, len(dataset), recipe.training.epochs, _peak_memory(device))


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
