"""Batches in a reproducible order, loaded by worker processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.utils.data import DataLoader

from foveate.data.dataset import ImageDataset, SampleIndex, seed_from
from foveate.types import Batch
from foveate.utils import log
from foveate.utils.distributed import DistributedContext

MAX_WORKERS = 8  # worker processes of a loader
# messages of a DataLoader whose worker died, mostly for lack of shared memory
_DEAD_WORKER = (
    "DataLoader worker (pid",
    "unable to write to file",
    "unable to open shared memory",
    "unable to mmap",
)


def even_slices(count: int, max_size: int) -> list[slice]:
    """Divide `count` things into parts of about equal size.

    No part has a single item if two are allowed: batch normalization cannot train on one image.

    Args:
        count: Number of things.
        max_size: The largest part.
    """
    parts = -(-count // max_size)
    if max_size > 1 and count > 1 and count // parts < 2:
        parts = count // 2
    bounds = [part * count // parts for part in range(parts + 1)] if parts else [0]
    return [slice(start, end) for start, end in pairwise(bounds)]


class BatchSampler:
    """Batches of (epoch, index).

    Args:
        count: Number of samples.
        batch_size: The largest batch.
        seed: Shuffles by (seed, epoch); None: the order of the samples.
        epoch: The epoch.
        start: Number of batches to skip.
        team: Of each batch, only the share of this process is yielded.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        team: DistributedContext | None = None,
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch, self.start, self.team = epoch, start, team or DistributedContext()

    def __len__(self) -> int:
        return len(even_slices(self.count, self.batch_size)) - self.start

    @property
    def image_count(self) -> int:
        """Number of images in the batches that are yielded."""
        parts = even_slices(self.count, self.batch_size)[self.start :]
        return sum(len(self.team.share(list(range(part.start, part.stop)))) for part in parts)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        order = list(range(self.count))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(seed_from(self.seed, "order", self.epoch))
            order = torch.randperm(self.count, generator=generator).tolist()
        for part in even_slices(self.count, self.batch_size)[self.start :]:
            yield [(self.epoch, index) for index in self.team.share(order[part])]


def make_loader(
    dataset: ImageDataset, sampler: BatchSampler, workers: int | None = None
) -> Iterable[Batch]:
    """Return batches in the order of a sampler; they can be iterated several times.

    If a worker process dies, this process loads the remaining batches, with a warning.

    Args:
        dataset: The images.
        sampler: The order.
        workers: Number of worker processes, which changes neither order nor pixels; None: as many
            as are worth it.
    """
    if workers is None:
        workers = default_num_workers(len(sampler))
    return _Loader(dataset, sampler, workers)


@dataclass(frozen=True)
class _Loader:
    dataset: ImageDataset
    sampler: BatchSampler
    workers: int

    def __iter__(self) -> Iterator[Batch]:
        done = 0
        try:
            for batch in _data_loader(self.dataset, self.sampler, self.workers):
                yield batch
                done += 1
        except RuntimeError as error:
            if not self.workers or not any(text in str(error) for text in _DEAD_WORKER):
                raise
            why = str(error).splitlines()[0].rstrip(".")
            log.warning(
                "a loader worker died, mostly a sign of too little shared memory (/dev/shm);"
                f" continuing without workers ({why})"
            )
            yield from _data_loader(self.dataset, list(self.sampler)[done:], 0)


def _data_loader(
    dataset: ImageDataset, sampler: Iterable[list[SampleIndex]], workers: int
) -> DataLoader[Batch]:
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=workers,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        collate_fn=dataset.collate,
        pin_memory=torch.cuda.is_available(),
    )


def default_num_workers(batches: int) -> int:
    """Return how many worker processes a number of batches is worth.

    A GPU would wait for a single process (bench/gpu.py); on a CPU no core is free. 0 where
    processes cannot be forked: spawned ones impose conditions on the caller's program.
    """
    if sys.platform != "linux" or not torch.cuda.is_available():
        return 0
    return max(0, min(MAX_WORKERS, len(os.sched_getaffinity(0)) - 1, batches // 2))
