"""The training loop: step, average, validate, save, resume.

All randomness is keyed by (seed, epoch, index) or by the step, so a run that was killed and
resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from foveate.data.dataset import ImageDataset, seed_from
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.transforms import mix_batch
from foveate.errors import Diverged, Interrupted
from foveate.inference.microbatch import MicroBatcher
from foveate.messages import Message, counted, message_from
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.run.checkpoints import require_disk_space
from foveate.run.folder import Run
from foveate.training.bad_steps import BadStep, save_bad_step
from foveate.training.optimizer import (
    L2SP,
    build_optimizer,
    load_optimizer_tensors,
    lr_factor,
    optimizer_tensors,
    set_learning_rate,
)
from foveate.training.state import (
    NamedTensors,
    TrainingResult,
    TrainingState,
    WeightAverage,
    copy_tensors,
    load_training,
    save_training,
)
from foveate.training.validation import ValidationResult, Validator
from foveate.types import Batch, Decision
from foveate.utils import console, log
from foveate.utils.device import ComputeMode, to_device
from foveate.utils.distributed import DistributedContext
from foveate.utils.invocation import shell_command
from foveate.utils.signals import StopRequest, signal_name, stop_requested

_ALL_DONE = Message("training.all_epochs", "all epochs done")
_TIME_IS_UP = Message("training.time_is_up", "time budget used up")
_SAMPLE_EPOCHS = 10  # epochs of a training after which generated samples go to TensorBoard


class Trainer:
    """Trains a model in place, and keeps the weights of its best epoch.

    Args:
        model: The model; it is moved to the device.
        recipe: The resolved recipe.
        run: Run folder, for checkpoints and metrics.
        dataset: Training images, augmented.
        validator: Scores every epoch; without one the last epoch is kept.
        device: Where to train.
        score_start: Whether the weights before training are a candidate, too, as those of an
            epoch are: a fitted head, or an earlier run.
        teacher: Gives an additional loss, a scalar, from the model's output and the batch.
        deadline: Moment of `time.monotonic()` after which no step begins.
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
        deadline: float | None = None,
        distributed: DistributedContext | None = None,
        command: str = "fit",
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.dataset = dataset
        self.validator = validator
        self.device = device
        self.score_start = score_start and validator is not None
        self.teacher = teacher
        self.deadline = deadline
        self.distributed = distributed or DistributedContext()
        self.command = command

        settings = recipe.training
        self.mode = ComputeMode.for_training(settings)
        self.model = to_device(model, device, self.mode)
        self.optimizer = build_optimizer(model, settings)
        self.l2_sp = L2SP(model, settings.l2_sp)
        self.live = model.trained_tensors()
        self.buffers = [tensor for name, tensor in model.named_buffers() if name in self.live]
        self.average = WeightAverage(self.live, settings.ema)
        self.kept: NamedTensors = {}
        self.micro_batcher = MicroBatcher(settings.micro_batch, self._record_micro_batch)
        self.steps = settings.epochs * len(BatchSampler(len(dataset), settings.batch_size))
        threads = torch.get_num_threads()
        self.state = TrainingState(processes=self.distributed.size, threads=threads)
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
            if self.score_start and not self.state.step and not self.state.best_score:
                self._validate_start(stop)
            while self.state.epoch < self.recipe.training.epochs and not self.state.stop_reason:
                self._train_epoch(stop)
                self._validate(stop)
                self._log_sample_images()
                self._end_epoch()
                self._save()
                self._exit_if_stopped(stop)
        return TrainingResult(
            tensors=self.kept or self.average.snapshot(),
            epochs=self.state.epoch,
            best_epoch=self.state.best_epoch,
            steps=self.state.step,
            seconds=self.state.seconds,
            reason=message_from(self.state.stop_reason) if self.state.stop_reason else _ALL_DONE,
            kept_start=self.score_start and self.state.best_epoch < 0,
        )

    def replay_step(self, step: BadStep) -> tuple[float, float]:
        """Return loss and gradient norm of a skipped step, computed again from its saved state."""
        self.state.step, self.state.epoch = int(step.info["step"]), int(step.info["epoch"])
        self.micro_batcher.max_images = step.info["max_images"]
        self.model.load_tensors(step.weights)
        self.model.tuning.load_state(step.tuning_state)
        self.model.tuning.begin_epoch(self.model, self.state.epoch, self.recipe.training.epochs)
        self.model.train()
        with torch.random.fork_rng():
            return self.compute_gradients(step.batch, [])

    # --- one epoch

    def _train_epoch(self, stop: StopRequest) -> None:
        epoch, settings = self.state.epoch, self.recipe.training
        sampler = BatchSampler(
            len(self.dataset),
            settings.batch_size,
            seed=self.recipe.seed,
            epoch=epoch,
            start=self.state.step_in_epoch,
            team=self.distributed,
        )
        self.model.tuning.begin_epoch(self.model, epoch, settings.epochs)
        self.model.train()
        title = f"epoch {epoch + 1}/{settings.epochs}"
        with console.progress(sampler.image_count, title) as bar:
            for batch in make_loader(self.dataset, sampler, self.recipe.data.workers):
                self._step(batch)
                mean_loss = self.state.loss_sum / self.state.step_in_epoch
                bar.advance(len(batch), f"loss {mean_loss:.3f}")
                self._exit_if_stopped(stop)
                self._save_if_due()
                if self._time_is_up():
                    self.state.stop_reason = _TIME_IS_UP.row()
                    return

    def _step(self, batch: Batch) -> None:
        """Take one step; one whose loss or gradient is not finite leaves no trace."""
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers]
        loss, norm = self.compute_gradients(batch, buffers)
        set_learning_rate(self.optimizer, self.recipe.training, self.state.step, self.steps)
        if math.isfinite(loss) and math.isfinite(norm):
            self._update(loss)
        else:
            self._skip_step(buffers, batch, loss, norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        self.state.step_in_epoch += 1

    def _update(self, loss: float) -> None:
        """Let the optimizer, and all that follow it, change the weights."""
        model, step = self.model, self.state.step
        self.optimizer.step()
        self.l2_sp.pull(self.optimizer)
        model.tuning.after_step(model, step, self.steps)
        model.task.after_step(model.backbone, model.head, step, self.steps)
        self.distributed.average(each for each in self.buffers if each.is_floating_point())
        self.average.update(step)
        self.state.bad_steps = 0
        self.state.loss_sum += loss

    # --- gradients

    def compute_gradients(
        self, batch: Batch, buffers: list[tuple[Tensor, Tensor]]
    ) -> tuple[float, float]:
        """Compute the clipped gradients of a step.

        If memory is exhausted, it begins again with micro-batches of half the size; the step is
        the same otherwise.

        Args:
            batch: The images of the step.
            buffers: Buffers of the model and their values before the step.

        Returns:
            The loss, and the norm of the gradient before clipping.
        """
        # torch.manual_seed takes 3 ms, for it also seeds the accelerators
        on_cpu = self.device.type == "cpu"
        set_seed = torch.default_generator.manual_seed if on_cpu else torch.manual_seed
        while True:
            set_seed(seed_from(self.recipe.seed, "step", self.state.step))
            try:
                loss = self._accumulate_gradients(mix_batch(batch, self.recipe.augment))
                break
            except Exception as error:
                self.micro_batcher.halve(error, len(batch))
            self._discard_gradients(buffers)
        loss = self._average_over_processes(loss)
        if self.state.epoch < self.recipe.training.head_epochs:
            self._drop_backbone_gradients()
        self.model.tuning.add_gradients(self.model)
        norm = clip_grad_norm_(self._trainable(), self.recipe.training.clip_norm or math.inf)
        return loss, float(norm)

    def _accumulate_gradients(self, batch: Batch) -> float:
        """Add up the gradients of the micro-batches of a batch, and return the mean loss."""
        total = 0.0
        for part in self.micro_batcher.slices(len(batch)):
            micro_batch = to_device(batch.subset(part), self.device, self.mode)
            with self.mode.autocast(self.device):
                output = self.model(micro_batch)
                losses = self.model.task.loss(output, micro_batch)
                if self.teacher is not None:
                    losses["teacher"] = self.teacher(output, micro_batch)
                loss: Any = sum(losses.values()) * (len(micro_batch) / len(batch))
            loss.backward()
            total += float(loss.detach())
        return total

    def _average_over_processes(self, loss: float) -> float:
        """Average gradients and loss over all processes, and return the loss."""
        if self.distributed.size == 1:
            return loss
        self.distributed.average(each.grad for each in self._trainable() if each.grad is not None)
        dtype = torch.float64 if self.device.type == "cpu" else torch.float32
        mean = torch.tensor(loss, dtype=dtype, device=self.device)
        self.distributed.average([mean])
        return float(mean)

    def _drop_backbone_gradients(self) -> None:
        """Keep the backbone still: the optimizer skips what has no gradient."""
        for parameter in self.model.backbone.parameters():
            parameter.grad = None

    def _discard_gradients(self, buffers: list[tuple[Tensor, Tensor]]) -> None:
        """Undo what the passes of a step have changed."""
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, value in buffers:
            buffer.copy_(value)

    def _skip_step(
        self, buffers: list[tuple[Tensor, Tensor]], batch: Batch, loss: float, norm: float
    ) -> None:
        """Undo a step that is not finite, and save it if it is the first one in a row."""
        self._discard_gradients(buffers)
        self.state.bad_steps += 1
        step, count = self.state.step, self.state.bad_steps
        names = [self.dataset.name_of(index) for index in batch.indices.tolist()]
        if self.distributed.is_main and count == 1:
            info = {
                "step": step,
                "epoch": self.state.epoch,
                "loss": repr(loss),
                "gradient_norm": repr(norm),
                "max_images": self.micro_batcher.max_images,
                "images": names,
            }
            save_bad_step(self.run.folder, self.model, batch, info)
        if count >= self.recipe.training.max_bad_steps:
            raise Diverged(
                f"the loss or its gradient was NaN or infinite in "
                f"{counted(count, 'step', 'steps in a row')}",
                where=f"step {step}: {', '.join(names[:5])}, ...",
                why=f"the first of these steps is saved in {self.run.folder / 'bad_steps'}",
                hint="use a smaller --lr, or --set training.precision=fp32",
            )

    def _record_micro_batch(self, size: int, too_large: int) -> None:
        """Record that memory holds `size` images, but not `too_large`."""
        self.state.max_images = size
        if self.distributed.is_main:
            batch_size = self.recipe.training.batch_size
            text = "out of memory with {images} images; the batch size stays {batch_size}"
            reason = Message("choice.micro_batch", text, images=too_large, batch_size=batch_size)
            self.run.record([Decision("training.micro_batch", size, reason)])

    def _trainable(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    # --- validation

    def _validate_start(self, stop: StopRequest) -> None:
        """Score the weights before training, and keep them until an epoch is better."""
        result = self._score_weights(stop)
        if result is not None:
            self.state.best_score, self.kept = result.score, self.average.snapshot()
            self._log_epoch(0, result.row)

    def _validate(self, stop: StopRequest) -> None:
        """Score the weights that would be kept, and keep them if they are the best so far."""
        settings, state = self.recipe.training, self.state
        row: dict[str, Any] = {
            "train_loss": state.loss_sum / max(1, state.step_in_epoch),
            "lr": settings.lr * lr_factor(settings, state.step - 1, self.steps),
        }
        if self.validator is None:
            self.kept, state.best_epoch = self.average.snapshot(), state.epoch
        else:
            result = self._score_weights(stop)
            if result is not None:
                self._keep_if_best(result)
                row |= result.row
        self._log_epoch(state.epoch + 1, row)

    def _score_weights(self, stop: StopRequest) -> ValidationResult | None:
        assert self.validator is not None
        result = None
        with self.average.applied():  # no checkpoint may be written inside of this block
            if self.distributed.is_main:
                result = self.validator.validate(self.model, lambda: stop.signal is not None)
        result = self.distributed.broadcast(result)
        self._exit_if_stopped(stop)
        return result

    def _keep_if_best(self, result: ValidationResult) -> None:
        state, patience = self.state, self.recipe.training.patience
        if not state.best_score or result.score > state.best_score:
            state.best_score, state.best_epoch = result.score, state.epoch
            self.kept = self.average.snapshot()
        if patience and state.epoch - state.best_epoch >= patience:
            text = "no better validation score for {epochs:epoch|epochs}"
            state.stop_reason = Message("training.patience", text, epochs=patience).row()
        if result.stop_reason is not None:
            state.stop_reason = result.stop_reason.row()

    def _log_epoch(self, epoch: int, row: dict[str, Any]) -> None:
        """Write the numbers of an epoch to the log, to metrics.jsonl and to TensorBoard.

        Epoch 0 is the state before training.
        """
        if not self.distributed.is_main:
            return
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        log.info(f"epoch {epoch}/{self.recipe.training.epochs}: {numbers}")
        seconds = round(self._seconds(), 2)
        row = {"epoch": epoch, "step": self.state.step, **row, "seconds": seconds}
        self.run.append_metrics(row)
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, epoch)
            self.board.flush()

    def _log_sample_images(self) -> None:
        """Show samples of a generative task in TensorBoard, after every tenth of the training."""
        epoch = self.state.epoch + 1
        interval = max(1, self.recipe.training.epochs // _SAMPLE_EPOCHS)
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
        self.state.loss_sum = 0.0

    # --- saving and resuming

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved_at > 60 * self.recipe.training.checkpoint_minutes:
            self._save()

    def _save(self) -> None:
        """Write a checkpoint; the time that this takes does not count as training."""
        if not self.distributed.is_main:
            return
        self.state.seconds = self._seconds()
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

    def _time_is_up(self) -> bool:
        minutes = self.recipe.training.minutes
        late = self.deadline is not None and time.monotonic() > self.deadline
        over = minutes is not None and self._seconds() > 60 * minutes
        return self.distributed.any(late or over, self.device)

    def _seconds(self) -> float:
        """Return the time spent on training so far."""
        return self.state.seconds + time.monotonic() - self.saved_at


def _tensorboard_writer(run: Run) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.folder / "tensorboard"))
