"""What a training consists of between two steps: its counters, its weights, and their average.

A checkpoint holds all of it, so that a resumed training ends with the same weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.errors import RunError, WeightsError
from foveate.messages import Message
from foveate.run.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from foveate.utils import log

NamedTensors = dict[str, Tensor]


@dataclass
class TrainingState:
    """The counters of a training, as JSON in every checkpoint.

    Attributes:
        epoch: finished epochs.
        step_in_epoch: finished steps of the current epoch.
        step: finished steps of the whole training.
        round: finished rounds, each of which ends with a validation; an epoch each, unless there is
            a time budget.
        step_in_round: finished steps of the current round.
        loss_sum: summed losses of the current round.
        progress: share of the training that is done; 0 without a time budget, where steps tell.
        best_score: [main metric, -loss] of the best epoch; empty before the first validation.
        best_epoch: number of that epoch, from 0; -1 before the first validation, and as long as
            the weights before training are the best.
        best_round: round of these weights, as `best_epoch`.
        bad_steps: steps in a row that were skipped, because their loss or gradient was not finite.
        seconds: time spent on training until the last checkpoint.
        stop_reason: row of a `Message`: why the training ends before its last epoch; empty until
            then.
        used: seconds of the time budget that were used until the last checkpoint.
        validation_images: images that a validation scores; None for all.
        max_images: largest micro-batch that fits into memory; None where that was no problem.
        processes: number of processes that train together.
        threads: number of threads of each; 0 until it is known.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    round: int = 0
    step_in_round: int = 0
    loss_sum: float = 0.0
    progress: float = 0.0
    best_score: list[float] = field(default_factory=list)
    best_epoch: int = -1
    best_round: int = -1
    bad_steps: int = 0
    seconds: float = 0.0
    stop_reason: dict[str, Any] = field(default_factory=dict)
    used: float = 0.0
    validation_images: int | None = None
    max_images: int | None = None
    processes: int = 1
    threads: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        tensors: the weights to keep.
        epochs: finished epochs; with a part of the last one where time ended it.
        best_epoch: the epoch of these weights, from 0; -1 where none was scored, or none was better
            than the start.
        steps: steps of the optimizer.
        seconds: time spent on training.
        reason: why it ended.
        kept_start: whether no epoch was better on the validation images than the weights before
            training.
    """

    tensors: NamedTensors
    epochs: float
    best_epoch: int
    steps: int
    seconds: float
    reason: Message
    kept_start: bool = False

    def row(self) -> dict[str, Any]:
        """Return everything but the tensors, for finished.json."""
        names = ("epochs", "best_epoch", "steps", "seconds", "kept_start")
        return {**{name: getattr(self, name) for name in names}, "reason": self.reason.row()}


class WeightAverage:
    """An exponential moving average of the tensors that training changes.

    It holds those tensors alone. The classes of torch (AveragedModel) and timm (ModelEmaV3) copy
    the whole module, with the frozen backbone that a LoRA leaves as it is, and warm up otherwise.

    Attributes:
        tensors: the average by name; empty if the decay is 0 (off).
    """

    def __init__(self, live: NamedTensors, decay: float) -> None:
        self.live = live
        self.decay = decay
        self.tensors = {name: tensor.clone() for name, tensor in live.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the live tensors after step number `step`, from 0.

        A young average follows faster: it would remember the random first weights otherwise.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, mean in self.tensors.items():
            if mean.is_floating_point():
                mean.lerp_(self.live[name], 1 - decay)
            else:
                mean.copy_(self.live[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for the length of the block."""
        own = {name: self.live[name].clone() for name in self.tensors}
        try:
            copy_tensors(self.tensors, self.live)
            yield
        finally:
            copy_tensors(own, self.live)

    def snapshot(self) -> NamedTensors:
        """Return a copy of the average, or of the live tensors if it is off."""
        return {name: each.detach().clone() for name, each in (self.tensors or self.live).items()}


def save_training(
    folder: Path, state: TrainingState, parts: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write a checkpoint of the training into its run folder.

    Args:
        folder: Run folder.
        state: Counters.
        parts: Tensors by part ("model", "optimizer", ...) and name; copied to the CPU.

    Raises:
        DiskFull: There is no space for it; the checkpoints before it stay.
    """
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous().clone()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    name = f"step-{state.step:09d}-{state.round:06d}"
    save_checkpoint(folder, name, Checkpoint(tensors, asdict(state)))


def load_training(folder: Path) -> tuple[TrainingState, Mapping[str, NamedTensors]] | None:
    """Return state and tensors by part of the newest intact checkpoint; None if there is none.

    Raises:
        RunError: It is from another version of Foveate, or recipe, classes or splits have changed
            since.
    """
    checkpoint = newest_checkpoint(folder, log.warning)
    if checkpoint is None:
        return None
    if checkpoint.state.keys() != {each.name for each in fields(TrainingState)}:
        raise RunError(
            "this training was begun by another version of Foveate",
            where=folder,
            hint="resume it with that version, or start a new run with --recipe",
        )
    parts: defaultdict[str, NamedTensors] = defaultdict(dict)
    for name, tensor in checkpoint.tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return TrainingState(**checkpoint.state), parts


@torch.no_grad()
def copy_tensors(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copy tensors in place, by name.

    Raises:
        WeightsError: `target` lacks one of them, or has it in another shape.
    """
    for name, tensor in source.items():
        if name not in target or target[name].shape != tensor.shape:
            raise WeightsError(
                "the checkpoint belongs to another network", where=name, hint="start a new run"
            )
        target[name].copy_(tensor)
