"""TODO-DOC foveate.data.loading."""

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

MAX_WORKERS = 8  # loader processes at the most


_DEAD = (
    "DataLoader worker (pid",
    "unable to write to file",
    "unable to open shared memory",
    "unable to mmap",
)


def even_slices(count: int, max_size: int) -> list[slice]:
    """`count` things in parts of about one size, `most` at the most. No part of one where two were allowed: a batch
    normalisation has nothing to learn from a single image, and refuses it."""
    parts = -(-count // max_size)
    if max_size > 1 and count > 1 and count // parts < 2:
        parts = count // 2
    bounds = [place * count // parts for place in range(parts + 1)] if parts else [0]
    return [slice(start, end) for start, end in pairwise(bounds)]


class BatchSampler:
    """Batches of (epoch, index): shuffled by (seed, epoch), or in the order of the samples. `start` skips batches. `team`: of each
    batch, the share of this process."""

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
        self.count, self.batch_size, self.seed, self.epoch, self.start = (
            count,
            batch_size,
            seed,
            epoch,
            start,
        )
        self.team = team or DistributedContext()

    def __len__(self) -> int:
        return len(even_slices(self.count, self.batch_size)) - self.start

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
    """Batches in the given order, as often as they are asked for; with `workers` (default: `helpers`) the order and the pixels are
    the same. Where a loader process dies, mostly for want of shared memory, the rest is read by this one, and that is said."""
    return _Loader(
        dataset, sampler, default_num_workers(len(sampler)) if workers is None else workers
    )


@dataclass(frozen=True)
class _Loader:
    pictures: ImageDataset
    order: BatchSampler
    workers: int

    def __iter__(self) -> Iterator[Batch]:
        given = 0
        try:
            for batch in _batches(self.pictures, self.order, self.workers):
                yield batch
                given += 1
        except RuntimeError as error:
            if not self.workers or not any(word in str(error) for word in _DEAD):
                raise
            why = str(error).splitlines()[0].rstrip(".")
            log.warning(
                f"a loader process died, mostly a sign of too little shared memory (/dev/shm): this one reads on ({why})"
            )
            yield from _batches(self.pictures, list(self.order)[given:], 0)


def _batches(
    pictures: ImageDataset, order: Iterable[list[SampleIndex]], count: int
) -> DataLoader[Batch]:
    return DataLoader(
        pictures,  # type: ignore[arg-type]
        batch_sampler=order,
        num_workers=count,
        multiprocessing_context="fork" if count and sys.platform == "linux" else None,
        collate_fn=pictures.collate,
        pin_memory=torch.cuda.is_available(),
    )


def default_num_workers(batches: int) -> int:
    """Loader processes that so many batches are worth: a GPU waits for one process alone (bench/gpu.py), a processor has no core to
    spare. None where processes cannot be forked, which asks more of the caller's program."""
    if sys.platform != "linux" or not torch.cuda.is_available():
        return 0
    return max(0, min(MAX_WORKERS, len(os.sched_getaffinity(0)) - 1, batches // 2))
