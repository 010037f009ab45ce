"""The training loop: step, average, validate, save, resume.

All randomness is keyed by (seed, epoch, index) or by the step, so a run that was killed and
resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.errors import Interrupted
from foveate.messages import Message, message_from
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.run.checkpoints import require_disk_space
from foveate.run.folder import Run
from foveate.training.clock import AfterTraining, TimeBudget, TrainingPlan
from foveate.training.optimizer import load_optimizer_tensors, lr_factor, optimizer_tensors
from foveate.training.state import (
    NamedTensors,
    TrainingResult,
    copy_tensors,
    load_training,
    save_training,
)
from foveate.training.stepper import Stepper
from foveate.training.validation import ValidationResult, Validator
from foveate.types import Batch, Decision
from foveate.utils import console, log
from foveate.utils.distributed import DistributedContext
from foveate.utils.invocation import shell_command
from foveate.utils.signals import StopRequest, signal_name, stop_requested

_ALL_DONE = Message("training.all_epochs", "all epochs done")
_TIME_IS_UP = Message("training.time_is_up", "time budget used up")
_SAMPLE_EPOCHS = 10  # epochs of a training after which generated samples go to TensorBoard


class Trainer(Stepper):
    """Trains a model in place, and keeps the weights of its best round.

    A round is an epoch. With a time budget it is the time between two validations, which may be a
    part of an epoch or several of them.

    Args:
        model: The model; it is moved to the device.
        recipe: The resolved recipe.
        run: Run folder, for checkpoints and metrics.
        dataset: Training images, augmented.
        validator: Scores every round; without one the last one is kept.
        device: Where to train.
        score_start: Whether the weights before training are a candidate, too, as those of a round
            are: a fitted head, or an earlier run.
        teacher: Gives an additional loss, a scalar, from the model's output and the batch.
        budget: The time that there is; None for any.
        after: What has to follow training within the budget.
        image_seconds: Time of an image in a step, as far as it is known before the first one.
        distributed: The processes that train this model together, each with a trainer of its own.
        command: Command that resumes this training, for messages.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        run: Run,
        dataset: ImageDataset,
        validator: Validator | None,
        device: torch.device,
        *,
        score_start: bool = False,
        teacher: Callable[[Any, Batch], Tensor] | None = None,
        budget: TimeBudget | None = None,
        after: AfterTraining | None = None,
        image_seconds: float = 0.0,
        distributed: DistributedContext | None = None,
        command: str = "fit",
    ) -> None:
        settings = recipe.training
        batches = len(BatchSampler(len(dataset), settings.batch_size))
        expected_step = image_seconds * min(settings.batch_size, len(dataset))
        plan = TrainingPlan(
            settings.epochs, batches, budget, after or AfterTraining(), expected_step
        )
        super().__init__(model, recipe, run, dataset, plan, device, teacher, distributed)
        self.validator = validator
        self.score_start = score_start and validator is not None
        self.command = command
        self.kept: NamedTensors = {}
        self.saved_at = time.monotonic()
        use_board = settings.tensorboard and self.distributed.is_main
        self.board = _tensorboard_writer(run) if use_board else None

    def train(self) -> TrainingResult:
        """Train until all epochs are done, or one of the reasons to stop earlier holds.

        Raises:
            Interrupted: A signal asked to stop; the state is saved and can be resumed.
            DiskFull: There is no space for the checkpoints.
            Diverged: The loss was not finite for several steps in a row.
            RunError: The inputs of the run have changed since it was begun.
        """
        self._resume()
        require_disk_space(self.run.folder, self.checkpoint_bytes())
        with torch.random.fork_rng(), stop_requested() as stop:
            self._limit_validation()
            self._begin(stop)
            while not self.plan.is_done(self.state) and not self.state.stop_reason:
                self._train_round(stop)
                self._validate(stop)
                self._log_sample_images()
                self._end_round()
                self._save()
                self._exit_if_stopped(stop)
        return TrainingResult(
            tensors=self.kept or self.average.snapshot(),
            epochs=_round_epochs(self.plan.epochs_done(self.state)),
            best_epoch=self.state.best_epoch,
            steps=self.state.step,
            seconds=self.state.seconds,
            reason=message_from(self.state.stop_reason) if self.state.stop_reason else _ALL_DONE,
            kept_start=self.score_start and self.state.step > 0 and self.state.best_round < 0,
        )

    def _begin(self, stop: StopRequest) -> None:
        """Score the start if it is a candidate; where there is no time for a step, it is kept."""
        unscored = self.score_start and not self.state.step and not self.state.best_score
        if unscored and not self._time_is_up():
            self._validate_start(stop)
        self.plan.begin()
        if (unscored or self.kept) and self._time_is_up():
            self.state.stop_reason = self._cut_reason().row()

    def _time_is_up(self) -> bool:
        return self.distributed.any(self.plan.time_is_up(), self.device)

    # --- one round

    def _train_round(self, stop: StopRequest) -> None:
        """Train to the next validation."""
        while not self._train_epoch(stop) and self.plan.budget is not None:
            self._end_epoch()
            if self.plan.is_done(self.state):
                return

    def _train_epoch(self, stop: StopRequest) -> bool:
        """Train to the end of the epoch, or return True where the round ends before that."""
        epoch, settings = self.state.epoch, self.recipe.training
        sampler = BatchSampler(
            len(self.dataset),
            settings.batch_size,
            seed=self.recipe.seed,
            epoch=epoch,
            start=self.state.step_in_epoch,
            team=self.distributed,
        )
        epochs = self.plan.epochs(self.state)
        self.model.tuning.begin_epoch(self.model, epoch, epochs)
        self.model.train()
        with console.progress(sampler.image_count, f"epoch {epoch + 1}/{epochs}") as bar:
            for batch in make_loader(self.dataset, sampler, self.recipe.data.workers):
                self._step(batch)
                mean_loss = self.state.loss_sum / self.state.step_in_round
                bar.advance(len(batch), f"loss {mean_loss:.3f}")
                round_is_over = self._count_step()
                self._exit_if_stopped(stop)
                self._save_if_due()
                if round_is_over:
                    return True
        return False

    def _count_step(self) -> bool:
        """Revise the plan after a step; return whether the round ends with it."""
        turn = self.plan.count_step(self.state)
        if self.plan.budget is None:
            return False
        turn = self.distributed.broadcast(turn)  # clocks differ, and so do speeds
        self.state.progress, self.plan.planned = turn.progress, turn.steps
        if turn.is_last and not self.plan.is_done(self.state):
            self.state.stop_reason = self._cut_reason().row()
        return turn.validate or turn.is_last

    def _cut_reason(self) -> Message:
        """Say that time is up, and where epochs were asked for, how many of them are done."""
        if self.plan.open_end:
            return _TIME_IS_UP
        done = f"{_round_epochs(self.plan.epochs_done(self.state)):g}"
        text = "ended by the time budget after {done} of {epochs} epochs"
        return Message("training.cut_by_time", text, done=done, epochs=self.recipe.training.epochs)

    # --- validation

    def _limit_validation(self) -> None:
        """Score a fixed part of the images where all of them would take too much of the time."""
        validator, limit = self.validator, self.state.validation_images
        if validator is None or self.plan.budget is None:
            return
        if self.distributed.is_main:
            count, seconds = validator.images, validator.time_image(self.model)
            limit = limit or self.plan.fitting_images(count, seconds)
            limit = validator.limit(self.model, limit) if limit < count else count
            self.plan.expect_validation(seconds, limit)
            self.plan.write_seconds = validator.time_writing(self.model)
            if limit < count:
                text = (
                    "during training {limit} of {count} validation images, drawn at random, are "
                    "scored: all of them would take about {seconds} s each time"
                )
                whole = f"{count * seconds:.0f}"
                log.info(Message("training.part", text, limit=limit, count=count, seconds=whole))
        self.state.validation_images = self.distributed.broadcast(limit)

    def _validate_start(self, stop: StopRequest) -> None:
        """Score the weights before training, and keep them until an epoch is better."""
        result = self._score_weights(stop)
        if result is not None:
            self.state.best_score, self.kept = result.score, self.average.snapshot()
            self._log_epoch(0, result.row)

    def _validate(self, stop: StopRequest) -> None:
        """Score the weights that would be kept, and keep them if they are the best so far."""
        settings, state = self.recipe.training, self.state
        position, steps = self.plan.position(state)
        row: dict[str, Any] = {
            "train_loss": state.loss_sum / max(1, state.step_in_round),
            "lr": settings.lr * lr_factor(settings, max(0, position - 1), steps),
        }
        if self.validator is None:
            self.kept = self.average.snapshot()
            state.best_epoch, state.best_round = state.epoch, state.round
        else:
            result = self._score_weights(stop)
            if result is not None:
                self._keep_if_best(result)
                row |= result.row
        budgeted = self.plan.budget is not None
        self._log_epoch(self.plan.epochs_done(state) if budgeted else state.epoch + 1, row)

    def _score_weights(self, stop: StopRequest) -> ValidationResult | None:
        assert self.validator is not None
        result, start = None, time.monotonic()
        with self.average.applied():  # no checkpoint may be written inside of this block
            if self.distributed.is_main:
                result = self.validator.validate(self.model, lambda: stop.signal is not None)
        result = self.distributed.broadcast(result)
        self.plan.note_validation(time.monotonic() - start, self.validator.images)
        self._exit_if_stopped(stop)
        return result

    def _keep_if_best(self, result: ValidationResult) -> None:
        state, patience = self.state, self.recipe.training.patience
        if not state.best_score or result.score > state.best_score:
            state.best_score = result.score
            state.best_epoch, state.best_round = state.epoch, state.round
            self.kept = self.average.snapshot()
        if patience and state.round - state.best_round >= patience:
            text = "no better validation score for {epochs:epoch|epochs}"
            reason = Message("training.patience", text, epochs=patience)
            if self.plan.budget is not None:
                text = "no better score in {count:validation|validations}"
                reason = Message("training.patience_in_time", text, count=patience)
            state.stop_reason = reason.row()
        if result.stop_reason is not None:
            state.stop_reason = result.stop_reason.row()

    def _log_epoch(self, epoch: float, row: dict[str, Any]) -> None:
        """Write the numbers of an epoch to the log, to metrics.jsonl and to TensorBoard.

        Epoch 0 is the state before training.
        """
        if not self.distributed.is_main:
            return
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        log.info(f"epoch {epoch:.4g}/{self.plan.epochs(self.state)}: {numbers}")
        seconds = round(self._seconds(), 2)
        row = {"epoch": epoch, "step": self.state.step, **row, "seconds": seconds}
        self.run.append_metrics(row)
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, epoch)
            self.board.flush()

    def _log_sample_images(self) -> None:
        """Show samples of a generative task in TensorBoard, after every tenth of the training."""
        epoch = self.state.round + 1
        interval = max(1, self.plan.rounds // _SAMPLE_EPOCHS)
        if self.board is None or epoch % interval:
            return
        with self.average.applied():
            self.model.eval()
            samples = self.model.task.sample_images(self.model.backbone, self.model.head)
            for number, (title, image) in enumerate(samples):
                tag = f"{number}: {title}"
                self.board.add_image(tag, image.pixels, epoch, dataformats="HWC")
            self.model.train()

    def _end_epoch(self) -> None:
        self.state.epoch += 1
        self.state.step_in_epoch = 0

    def _end_round(self) -> None:
        if self.plan.budget is None:
            self._end_epoch()
        self.state.round += 1
        self.state.step_in_round, self.state.loss_sum = 0, 0.0
        self.plan.begin_round()

    # --- saving and resuming

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved_at > 60 * self.recipe.training.checkpoint_minutes:
            self._save()

    def _save(self) -> None:
        """Write a checkpoint; the time that this takes does not count as training."""
        if not self.distributed.is_main:
            return
        self.state.seconds = self._seconds()
        if self.plan.budget is not None:
            self.state.used = self.plan.budget.used()
        parts = {
            "model": self.live,
            "average": self.average.tensors,
            "kept": self.kept,
            "optimizer": optimizer_tensors(self.optimizer),
            "tuning": self.model.tuning.state(),
        }
        save_training(self.run.folder, self.state, parts)
        self.saved_at = time.monotonic()

    def checkpoint_bytes(self) -> int:
        """Return the size of the checkpoints to come, with two moments for every parameter."""
        live = sum(tensor.nbytes for tensor in self.live.values())
        trainable = sum(parameter.nbytes for parameter in self._trainable())
        copies = 3 if self.average.tensors else 2
        return copies * live + 2 * trainable

    def _resume(self) -> None:
        """Continue from the newest checkpoint, if there is one."""
        saved = load_training(self.run.folder)
        if saved is None:
            return
        self.state, parts = saved
        self.micro_batcher.max_images = self.state.max_images or self.micro_batcher.max_images
        if self.plan.budget is not None:
            self.plan.budget.charge(self.state.used)
        self._record_resources()
        copy_tensors(parts["model"], self.live)
        copy_tensors(parts["average"], self.average.tensors)
        self.kept = parts["kept"]
        load_optimizer_tensors(self.optimizer, parts["optimizer"])
        self.model.tuning.load_state(parts["tuning"])
        log.info(f"resumed at epoch {self.state.epoch + 1}, step {self.state.step}")

    def _record_resources(self) -> None:
        """Record that a run is resumed with other numbers of processes or threads than before."""
        now = {"processes": self.distributed.size, "threads": torch.get_num_threads()}
        for name, count in now.items():
            before = getattr(self.state, name)
            if before not in (0, count) and self.distributed.is_main:
                reason = Message(
                    "choice.processes",
                    "resumed after training with {count}: from here on no longer bit for bit "
                    "what it would have been",
                    count=before,
                )
                self.run.record([Decision(name, count, reason)])
            setattr(self.state, name, count)

    # --- stopping

    def _stop_requested(self, stop: StopRequest) -> bool:
        """Whether a signal asked any of the processes to stop."""
        return self.distributed.any(stop.signal is not None, self.device)

    def _exit_if_stopped(self, stop: StopRequest) -> None:
        if not self._stop_requested(stop):
            return
        self._save()
        error = Interrupted(
            f"stopped by {signal_name(stop.signal)}; the training is saved",
            where=self.run.folder,
            hint=shell_command(self.command, "--resume", self.run.folder),
        )
        error.exit_code = 128 + (stop.signal or signal.SIGTERM)
        raise error

    def _seconds(self) -> float:
        """Return the time spent on training so far."""
        return self.state.seconds + time.monotonic() - self.saved_at


def _round_epochs(epochs: float) -> float:
    """Return whole epochs as they are, and parts of them in two digits or so."""
    return epochs if isinstance(epochs, int) else round(epochs, 1 if epochs >= 1 else 2)


def _tensorboard_writer(run: Run) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.folder / "tensorboard"))
