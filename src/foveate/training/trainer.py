"""The one loop: step, accumulate, clip, schedule, average, validate, save, resume.

Everything that chance touches is keyed by (seed, epoch, index) or by the step, so a run that was killed and resumed ends with
the same weights as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from foveate.data.dataset import ImageDataset, seed_from
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.transforms import mix_batch
from foveate.errors import Diverged, Interrupted, RunError, WeightsError
from foveate.inference.microbatch import MicroBatcher
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.run.checkpoints import (
    Checkpoint,
    newest_checkpoint,
    refuse_small_disk,
    save_checkpoint,
)
from foveate.run.folder import Run, note_choice
from foveate.training import bad_steps as badsteps
from foveate.training.optimizer import Anchor, factor, flat, optimizer, restore, set_rate
from foveate.training.validation import ValidationResult, Validator
from foveate.types import Batch
from foveate.utils import console, log
from foveate.utils.device import ComputeMode
from foveate.utils.distributed import Team
from foveate.utils.signals import Stop, asked

_SHOWN = 10  # times in a training that a task shows what it makes


@dataclass
class State:
    """Where the loop stands; JSON-able, and with the tensors all that a resume needs. `done`: steps of the epoch that are over.
    `most`: images at once, where memory did not hold more. `processes`: those that train together."""

    epoch: int = 0
    done: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: list[float] = field(default_factory=list)  # [main number, -loss] of the best epoch
    best_epoch: int = -1
    bad: int = 0
    seconds: float = 0.0
    ended: str = ""
    most: int | None = None
    processes: int = 1


@dataclass(frozen=True)
class Outcome:
    """`tensors`: the weights to keep. `reason`: why the loop ended."""

    tensors: dict[str, Tensor]
    epochs: int
    best_epoch: int
    steps: int
    seconds: float
    reason: str


class Trainer:
    """Trains `model` in place on `train`; the `judge` chooses the epoch to keep, the last one is kept without it.

    `teacher`: a scalar of the output and the batch that is added to the loss. `deadline`: the moment of time.monotonic() when the
    last step begins. `team`: the processes that train this model together, each in a trainer of its own. `verb`: the word
    by which a stopped training goes on.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        run: Run,
        train: ImageDataset,
        judge: Validator | None,
        device: torch.device,
        *,
        teacher: Callable[[Any, Batch], Tensor] | None = None,
        deadline: float | None = None,
        team: Team | None = None,
        verb: str = "fit",
    ) -> None:
        self.judge, self.teacher, self.deadline = judge, teacher, deadline
        self.team, self.verb = team or Team(), verb
        self.recipe, self.run, self.device, self.pictures = recipe, run, device, train
        self.way = ComputeMode(recipe.training.precision, bool(recipe.training.channels_last))
        self.model = model.to(device=device, memory_format=self.way.memory_format)  # type: ignore[call-overload]
        self.optimizer = optimizer(model, recipe.training)
        self.anchor = Anchor(model, recipe.training.l2_sp)
        self.live = model.trained_tensors()
        self.buffers = [tensor for name, tensor in model.named_buffers() if name in self.live]
        self.average = (
            {name: tensor.clone() for name, tensor in self.live.items()}
            if recipe.training.ema
            else {}
        )
        self.kept: dict[str, Tensor] = {}
        self.state = State(processes=self.team.size)
        self.portions = MicroBatcher(recipe.training.micro_batch, self._fewer)
        self.epoch_steps = len(BatchSampler(len(train), recipe.training.batch_size))
        self.steps = recipe.training.epochs * self.epoch_steps
        self.started = self.saved = time.monotonic()
        self.board = _board(run) if recipe.training.tensorboard and self.team.leads else None

    def train(self) -> Outcome:
        """The whole story. Raises Interrupted (saved, can be resumed), DiskFull, Diverged, and RunError (what it was begun with has
        changed)."""
        self._resume()
        refuse_small_disk(self.run.folder, self._checkpoint_bytes())
        with torch.random.fork_rng(), asked() as stop:
            while self.state.epoch < self.recipe.training.epochs and not self.state.ended:
                self._epoch(stop)
                self._validate(stop)
                self._show()
                self._close_epoch()
                self._save()
                self._leave_if_asked(stop)
        return Outcome(
            tensors=self.kept or self._to_keep(),
            epochs=self.state.epoch,
            best_epoch=self.state.best_epoch,
            steps=self.state.step,
            seconds=self.state.seconds,
            reason=self.state.ended or "all epochs done",
        )

    def _epoch(self, stop: Stop) -> None:
        training = self.recipe.training
        places = {"seed": self.recipe.seed, "epoch": self.state.epoch, "start": self.state.done}
        order = BatchSampler(len(self.pictures), training.batch_size, **places, team=self.team)
        self.model.tuning.begin_epoch(self.model, self.state.epoch, training.epochs)
        self.model.train()
        title = f"epoch {self.state.epoch + 1}/{training.epochs}"
        with console.progress(len(order) * training.batch_size, title) as bar:
            for batch in make_loader(self.pictures, order, self.recipe.data.workers):
                self._step(batch)
                bar.advance(len(batch), f"loss {self.state.loss_sum / self.state.done:.3f}")
                self._leave_if_asked(stop)
                self._save_when_due()
                if self._out_of_time():
                    self.state.ended = "the time that was given was up"
                    return

    def _step(self, batch: Batch) -> None:
        """One update, of which a step whose loss or gradient is no finite number leaves no trace."""
        before = [(tensor, tensor.clone()) for tensor in self.buffers]
        loss, norm = self.pushed(batch, before)
        set_rate(self.optimizer, self.recipe.training, self.state.step, self.steps)
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer.step()
            self.anchor.pull(self.optimizer)
            self.model.tuning.after_step(self.model, self.state.step, self.steps)
            self.model.task.after_step(
                self.model.backbone, self.model.head, self.state.step, self.steps
            )
            self.team.average(tensor for tensor in self.buffers if tensor.is_floating_point())
            self._follow()
            self.state.bad, self.state.loss_sum = 0, self.state.loss_sum + loss
        else:
            self._undo(before, batch, loss, norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        self.state.done += 1

    def pushed(self, batch: Batch, before: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """The gradients of a step, clipped; gives its loss and their norm. `before`: buffers and what they held. Where memory is
        exhausted it begins again with half as many images at once; the step is of as many as ever."""
        seeded = (
            torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        )  # the latter takes 3 ms
        while True:
            seeded(seed_from(self.recipe.seed, "step", self.state.step))
            try:
                loss = self._gradients(mix_batch(batch, self.recipe.augment))
                break
            except Exception as error:
                self.portions.halve(error, len(batch))
            self._forget(before)
        loss = self._shared(loss)
        self._hold_backbone()
        self.model.tuning.add_gradients(self.model)
        return loss, float(
            torch.nn.utils.clip_grad_norm_(self._moving(), self.recipe.training.clip or math.inf)
        )

    def again(self, kept: badsteps.Kept) -> tuple[float, float]:
        """The loss of a step that was not taken, and the norm of its gradient, as they were then."""
        self.state.step, self.state.epoch = int(kept.about["step"]), int(kept.about["epoch"])
        self.portions.max_images = kept.about["most"]
        self.model.load_tensors(kept.weights)
        self.model.tuning.load_state(kept.memory)
        self.model.tuning.begin_epoch(self.model, self.state.epoch, self.recipe.training.epochs)
        self.model.train()
        with torch.random.fork_rng():
            return self.pushed(kept.batch, [])

    def _forget(self, before: list[tuple[Tensor, Tensor]]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for tensor, value in before:
            tensor.copy_(value)

    def _fewer(self, now: int, before: int) -> None:
        self.state.most = now
        if self.team.leads:
            why = f"memory is exhausted by {before} images at once; a step is of {self.recipe.training.batch_size} all the same"
            note_choice(self.run, "training.micro_batch", now, why)

    def _hold_backbone(self) -> None:
        """In the first epochs, where the recipe says so: what has no gradient, no optimiser moves."""
        if self.state.epoch < self.recipe.training.head_epochs:
            for parameter in self.model.backbone.parameters():
                parameter.grad = None

    def _gradients(self, batch: Batch) -> float:
        """Adds up the gradients of the batch, a micro-batch at a time; gives the mean loss."""
        total = 0.0
        for place in self.portions.of(len(batch)):
            part = batch.subset(place).to(self.device, memory_format=self.way.memory_format)
            with self.way.autocast(self.device):
                output = self.model(part)
                losses = self.model.task.loss(output, part)
                if self.teacher is not None:
                    losses["teacher"] = self.teacher(output, part)
                loss: Tensor = sum(losses.values()) * (len(part) / len(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _shared(self, loss: float) -> float:
        """The mean of gradients and loss over all processes."""
        if self.team.size == 1:
            return loss
        self.team.average(
            parameter.grad for parameter in self._moving() if parameter.grad is not None
        )
        found = torch.tensor(
            loss,
            dtype=torch.float64 if self.device.type == "cpu" else torch.float32,
            device=self.device,
        )
        self.team.average([found])
        return float(found)

    def _undo(
        self, before: list[tuple[Tensor, Tensor]], batch: Batch, loss: float, norm: float
    ) -> None:
        self._forget(before)
        self.state.bad += 1
        names = [self.pictures.name_of(index) for index in batch.indices.tolist()]
        if self.team.leads and self.state.bad == 1:
            about = {
                "step": self.state.step,
                "epoch": self.state.epoch,
                "loss": repr(loss),
                "norm": repr(norm),
            }
            about |= {"most": self.portions.max_images, "pictures": names}
            badsteps.keep(self.run, self.model, batch, about)
        if self.state.bad >= self.recipe.training.bad_steps:
            raise Diverged(
                f"the loss was no finite number {self.state.bad} times in a row",
                where=f"step {self.state.step}: {', '.join(names[:5])}, ...",
                why=f"the first of these steps lies in {self.run.folder / badsteps.FOLDER}",
                hint="a smaller --lr, or --set training.precision=fp32",
            )

    def _moving(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def _follow(self) -> None:
        """The running average; young averages follow faster, or they would remember the first random weights."""
        decay = min(self.recipe.training.ema, (1 + self.state.step) / (10 + self.state.step))
        for name, mean in self.average.items():
            if mean.is_floating_point():
                mean.lerp_(self.live[name], 1 - decay)
            else:
                mean.copy_(self.live[name])

    def _to_keep(self) -> dict[str, Tensor]:
        return {
            name: tensor.detach().clone() for name, tensor in (self.average or self.live).items()
        }

    # --- validation

    def _validate(self, stop: Stop) -> None:
        """Scores the weights that would be kept, and keeps them when they are the best so far."""
        training = self.recipe.training
        rate = training.lr * factor(training, self.state.step - 1, self.steps)
        row: dict[str, Any] = {
            "train_loss": self.state.loss_sum / max(1, self.state.done),
            "lr": rate,
        }
        if self.judge is None:
            self.kept, self.state.best_epoch = self._to_keep(), self.state.epoch
        else:
            with self._averaged():  # with the average in place there is no moment to save
                found = (
                    self.judge.validate(self.model, lambda: self._signalled(stop))
                    if self.team.leads
                    else None
                )
            found = self.team.told(found)
            self._leave_if_asked(stop)
            if found is not None:
                self._compare(found)
                row |= found.row
        self._log(row)

    def _show(self) -> None:
        """What the task makes of nothing, some times during the training."""
        every = max(1, self.recipe.training.epochs // _SHOWN)
        if self.board is None or (self.state.epoch + 1) % every:
            return
        with self._averaged():
            self.model.eval()
            for number, (title, picture) in enumerate(
                self.model.task.sample_images(self.model.backbone, self.model.head)
            ):
                self.board.add_image(
                    f"{number}: {title}", picture.pixels, self.state.epoch + 1, dataformats="HWC"
                )
            self.model.train()

    def _compare(self, found: ValidationResult) -> None:
        if not self.state.best or found.score > self.state.best:
            self.state.best, self.state.best_epoch, self.kept = (
                found.score,
                self.state.epoch,
                self._to_keep(),
            )
        patience = self.recipe.training.patience
        if patience and self.state.epoch - self.state.best_epoch >= patience:
            self.state.ended = f"no better validation score for {patience} epochs"
        self.state.ended = found.stop_reason or self.state.ended

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The running average in place of the weights."""
        own = {name: tensor.clone() for name, tensor in self.live.items()} if self.average else {}
        try:
            _copy(self.average, self.live)
            yield
        finally:
            _copy(own, self.live)

    def _close_epoch(self) -> None:
        self.state.epoch, self.state.done, self.state.loss_sum = self.state.epoch + 1, 0, 0.0

    def _log(self, row: dict[str, Any]) -> None:
        if not self.team.leads:
            return
        row = {
            "epoch": self.state.epoch + 1,
            "step": self.state.step,
            **row,
            "seconds": round(self._seconds(), 2),
        }
        self.run.append_metrics(row)
        shown = ", ".join(
            f"{name} {value:.4g}"
            for name, value in row.items()
            if name not in ("epoch", "step", "seconds")
        )
        log.info(f"epoch {row['epoch']}/{self.recipe.training.epochs}: {shown}")
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, row["epoch"])
            self.board.flush()

    # --- saving

    def _save_when_due(self) -> None:
        if time.monotonic() - self.saved > 60 * self.recipe.training.save_minutes:
            self._save()

    def _save(self) -> None:
        if not self.team.leads:
            return
        parts = {
            "model": self.live,
            "average": self.average,
            "kept": self.kept,
            "optimizer": flat(self.optimizer),
        }
        parts["tuning"] = self.model.tuning.state()
        tensors = {
            f"{part}.{name}": tensor.detach().cpu().contiguous().clone()
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        state = {**asdict(self.state), "seconds": self._seconds()}
        save_checkpoint(
            self.run.folder,
            f"step-{self.state.step:09d}-{self.state.epoch:06d}",
            Checkpoint(tensors, state),
        )
        self.saved = time.monotonic()
        self.state.seconds, self.started = state["seconds"], self.saved

    def _checkpoint_bytes(self) -> int:
        """Of the checkpoints to come: the optimiser keeps up to two numbers for each that moves."""
        live, moving = (
            sum(tensor.nbytes for tensor in tensors)
            for tensors in (self.live.values(), self._moving())
        )
        return (3 if self.average else 2) * live + 2 * moving

    def _resume(self) -> None:
        found = newest_checkpoint(self.run.folder, log.warning)
        if found is None:
            return
        self._take_up(found.state)
        _copy(_part(found.tensors, "model"), self.live)
        _copy(_part(found.tensors, "average"), self.average)
        self.kept = _part(found.tensors, "kept")
        restore(self.optimizer, _part(found.tensors, "optimizer"))
        self.model.tuning.load_state(_part(found.tensors, "tuning"))
        log.info(f"resumed at epoch {self.state.epoch + 1}, step {self.state.step}")

    def _take_up(self, told: dict[str, Any]) -> None:
        if told.keys() != {each.name for each in fields(State)}:
            hint = "go on with that one, or start a new run with --recipe"
            raise RunError(
                "this training was begun by another version of Foveate",
                where=self.run.folder,
                hint=hint,
            )
        self.state = State(**told)
        self.portions.max_images = self.state.most or self.portions.max_images
        if self.state.processes != self.team.size and self.team.leads:
            why = f"it went on after {self.state.processes}: from here on not what it would have been, bit for bit"
            note_choice(self.run, "processes", self.team.size, why)
        self.state.processes = self.team.size

    def _asked(self, stop: Stop) -> bool:
        """Whether any of the processes was."""
        return self.team.any(self._signalled(stop), self.device)

    def _signalled(self, stop: Stop) -> bool:
        return stop.signal is not None

    def _leave_if_asked(self, stop: Stop) -> None:
        if self._asked(stop):
            self._save()
            folder = self.run.folder
            error = Interrupted(
                "stopped as asked; the state is saved",
                where=folder,
                hint=f"foveate {self.verb} --resume {folder}",
            )
            error.exit_code = 128 + (stop.signal or signal.SIGTERM)
            raise error

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.started

    def _out_of_time(self) -> bool:
        minutes = self.recipe.training.minutes
        late = self.deadline is not None and time.monotonic() > self.deadline
        over = late or (minutes is not None and self._seconds() > 60 * minutes)
        return self.team.any(over, self.device)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in source.items():
        if name not in target or target[name].shape != tensor.shape:
            raise WeightsError(
                "the checkpoint was made by another network", where=name, hint="start a new run"
            )
        target[name].copy_(tensor)


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{part}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{part}.")
    }


def _board(run: Run) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.folder / "tensorboard"))
