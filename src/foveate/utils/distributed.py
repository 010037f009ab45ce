"""Several processes that train one model, started by torchrun: each takes its share of every batch."""

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
class Team:
    """The process `rank` of `size`; the first one leads: it alone writes, says and judges."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, places: Sequence[T]) -> list[T]:
        """This process's part of a batch; all get as many, so that up to `size` - 1 are left out."""
        return list(places[: len(places) // self.size * self.size][self.rank :: self.size])

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes the mean over all processes."""
        for tensor in tensors if self.size > 1 else ():
            distributed.all_reduce(tensor)
            tensor /= self.size

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it holds in any process."""
        if self.size == 1:
            return flag
        found = torch.tensor(float(flag), device=device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return bool(found)

    def told(self, value: T) -> T:
        """What the leader has."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box)
        return box[0]  # type: ignore[no-any-return]


@contextmanager
def team(device: str = "auto") -> Iterator[Team]:
    """The processes that torchrun has started, joined until the end of the block; one alone where it has not.

    `device`: what they compute on, in the recipe's word. Each takes a GPU of its own; raises UsageError where there are too few.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(_own_gpu(device))
        distributed.init_process_group("nccl")
    else:
        distributed.init_process_group("gloo")
    try:
        yield Team(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


def _own_gpu(device: str) -> int:
    place, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if ":" in device:
        raise UsageError(
            f"several processes cannot share {device}",
            where="device",
            hint="--device cuda gives each its own",
        )
    if place >= count:
        what = f"there are more processes than GPUs ({count})"
        raise UsageError(what, where="torchrun", hint=f"--nproc-per-node {count}, or --device cpu")
    return place


_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """A block in which this process does something by itself: nobody is waited for."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def present() -> Team:
    """The team that this process is in now."""
    if not distributed.is_initialized() or _alone.get():
        return Team()
    return Team(distributed.get_rank(), distributed.get_world_size())


def drawn(rows: int, width: int) -> Tensor:
    """(rows, width) from 0 to 1, of torch's generator, which stands alike in all processes: what one process alone would have drawn
    for this share of the batch."""
    now = present()
    return torch.rand(rows * now.size, width)[now.rank :: now.size]


def together(features: Tensor) -> Tensor:
    """(V, B, P) of this process -> (V, B * size, P) of all, in the order of the batch; gradients find their way back."""
    if present().size == 1:
        return features
    found: Tensor = _Gathered.apply(features)
    return found


class _Gathered(torch.autograd.Function):
    """The features of all processes; backward, what all their losses say about these."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        parts = [torch.empty_like(features) for _ in range(present().size)]
        distributed.all_gather(parts, features.contiguous())
        return torch.stack(parts, 2).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        now = present()
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient[:, now.rank :: now.size]
