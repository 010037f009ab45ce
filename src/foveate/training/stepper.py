"""One step of training: gradients in micro-batches, the optimizer, and all that follows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from foveate.data.dataset import ImageDataset, seed_from
from foveate.data.transforms import mix_batch
from foveate.errors import Diverged
from foveate.inference.microbatch import MicroBatcher
from foveate.messages import Message, counted
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.run.folder import Run
from foveate.training.bad_steps import BadStep, save_bad_step
from foveate.training.clock import TrainingPlan
from foveate.training.optimizer import L2SP, build_optimizer, set_learning_rate
from foveate.training.state import TrainingState, WeightAverage
from foveate.types import Batch, Decision
from foveate.utils.device import ComputeMode, to_device
from foveate.utils.distributed import DistributedContext


class Stepper:
    """Trains a model in place, batch by batch.

    Args:
        model: The model; it is moved to the device.
        recipe: The resolved recipe.
        run: Run folder, for steps that were skipped.
        dataset: Training images.
        plan: How many steps there are.
        device: Where to train.
        teacher: Gives an additional loss, a scalar, from the model's output and the batch.
        distributed: The processes that train this model together.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        run: Run,
        dataset: ImageDataset,
        plan: TrainingPlan,
        device: torch.device,
        teacher: Callable[[Any, Batch], Tensor] | None = None,
        distributed: DistributedContext | None = None,
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.dataset = dataset
        self.plan = plan
        self.device = device
        self.teacher = teacher
        self.distributed = distributed or DistributedContext()

        settings = recipe.training
        self.mode = ComputeMode.for_training(settings)
        self.model = to_device(model, device, self.mode)
        self.optimizer = build_optimizer(model, settings)
        self.l2_sp = L2SP(model, settings.l2_sp)
        self.live = model.trained_tensors()
        self.buffers = [tensor for name, tensor in model.named_buffers() if name in self.live]
        self.average = WeightAverage(self.live, settings.ema)
        self.micro_batcher = MicroBatcher(settings.micro_batch, self._record_micro_batch)
        threads = torch.get_num_threads()
        self.state = TrainingState(processes=self.distributed.size, threads=threads)

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

    # --- one step

    def _step(self, batch: Batch) -> None:
        """Take one step; one whose loss or gradient is not finite leaves no trace."""
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers]
        position, steps = self.plan.position(self.state)
        loss, norm = self.compute_gradients(batch, buffers)
        set_learning_rate(self.optimizer, self.recipe.training, position, steps)
        if math.isfinite(loss) and math.isfinite(norm):
            self._update(loss, int(position), steps)
        else:
            self._skip_step(buffers, batch, loss, norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        self.state.step_in_epoch += 1
        self.state.step_in_round += 1

    def _update(self, loss: float, position: int, steps: int) -> None:
        """Let the optimizer, and all that follow it, change the weights."""
        model = self.model
        self.optimizer.step()
        self.l2_sp.pull(self.optimizer)
        model.tuning.after_step(model, position, steps)
        model.task.after_step(model.backbone, model.head, position, steps)
        self.distributed.average(each for each in self.buffers if each.is_floating_point())
        self.average.update(self.state.step)
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
        if self.plan.trains_head_alone(self.state, self.recipe.training.head_epochs):
            self._drop_backbone_gradients()
        self.model.tuning.add_gradients(self.model)
        norm = clip_grad_norm_(self._trainable(), self.recipe.training.clip_norm or math.inf)
        return loss, float(norm)

    def _accumulate_gradients(self, batch: Batch) -> float:
        """Add up the gradients of the micro-batches of a batch, and return the mean loss."""
        total, weights = 0.0, None
        parts = self.micro_batcher.slices(len(batch))
        for part in parts:
            micro_batch = to_device(batch.subset(part), self.device, self.mode)
            with self.mode.autocast(self.device):
                output = self.model(micro_batch)
                losses = self.model.task.loss(output, micro_batch)
                if self.teacher is not None:
                    losses["teacher"] = self.teacher(output, micro_batch)
            if weights is None and len(parts) > 1:
                whole = to_device(batch, self.device, self.mode)
                weights = self.model.task.loss_weights(output, whole)
            own = self.model.task.loss_weights(output, micro_batch) if weights else {}
            share = len(micro_batch) / len(batch)
            for name, weight in (weights or {}).items():
                losses[name] = losses[name] * (own[name] / weight / share)
            loss: Any = sum(losses.values()) * share
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
