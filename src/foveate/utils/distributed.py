"""Several processes that train one model, started by torchrun; they share every batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from foveate.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class DistributedContext:
    """One of several processes.

    Attributes:
        rank: Number of this process; the first one, 0, alone writes, reports and evaluates.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this process's part of a batch.

        All parts have the same length, so that up to `size` - 1 items are left out.
        """
        return list(items[: len(items) // self.size * self.size][self.rank :: self.size])

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in place."""
        for tensor in tensors if self.size > 1 else ():
            distributed.all_reduce(tensor)
            tensor /= self.size

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor(float(flag), device=device)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags)

    def broadcast(self, value: T) -> T:
        """Return the value of the first process."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box)
        return box[0]  # type: ignore[no-any-return]


@contextmanager
def join_processes(device: str = "auto") -> Iterator[DistributedContext]:
    """Join the processes that torchrun has started, for this block; without torchrun it is one.

    Args:
        device: What to compute on, as in the recipe. Each process takes a GPU of its own.

    Raises:
        UsageError: There are fewer GPUs than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield DistributedContext()
        return
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(_own_gpu(device))
        distributed.init_process_group("nccl")
    else:
        distributed.init_process_group("gloo")
    try:
        yield DistributedContext(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


def _own_gpu(device: str) -> int:
    rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if ":" in device:
        raise UsageError(
            f"several processes cannot share {device}",
            where="device",
            hint="--device cuda gives each process a GPU of its own",
        )
    if rank >= count:
        what = f"there are more processes than GPUs ({count})"
        raise UsageError(what, where="torchrun", hint=f"--nproc-per-node {count}, or --device cpu")
    return rank


_single: ContextVar[bool] = ContextVar("single_process", default=False)


@contextmanager
def single_process() -> Iterator[None]:
    """Do something in this process alone, in this block: `current_context` waits for nobody."""
    token = _single.set(True)
    try:
        yield
    finally:
        _single.reset(token)


def current_context() -> DistributedContext:
    """Return the context that this process is in now."""
    if not distributed.is_initialized() or _single.get():
        return DistributedContext()
    return DistributedContext(distributed.get_rank(), distributed.get_world_size())


def rand_share(rows: int, width: int) -> Tensor:
    """Draw (rows, width) numbers in [0, 1) from torch's generator, which is alike in all processes.

    They are what a single process would have drawn for this share of the batch.
    """
    context = current_context()
    return torch.rand(rows * context.size, width)[context.rank :: context.size]


def gather_features(features: Tensor) -> Tensor:
    """Gather the features of all processes, with gradients.

    Args:
        features: Those of this process, (V, B, P).

    Returns:
        Those of all, (V, B * size, P), in the order of the batch.
    """
    if current_context().size == 1:
        return features
    gathered: Tensor = _Gather.apply(features)
    return gathered


class _Gather(torch.autograd.Function):
    """Gathers features; the gradient of this process's part is the sum over all losses."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        parts = [torch.empty_like(features) for _ in range(current_context().size)]
        distributed.all_gather(parts, features.contiguous())
        return torch.stack(parts, 2).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        context = current_context()
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient[:, context.rank :: context.size]
