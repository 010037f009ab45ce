"""Decisions that need the model and the data: measured on some steps, or derived from sizes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.errors import TooLittleTime
from foveate.messages import Message
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.training.head_init import needs_features
from foveate.training.job import Job
from foveate.training.resolve import Resolution
from foveate.types import Batch, Decision
from foveate.utils.device import ComputeMode, candidate_modes, fastest_mode, to_device

# input pixels of all epochs together below which timing costs more than it gains
_MIN_PIXELS_TO_MEASURE = 2000 * 224**2
# and from which features of a frozen backbone may be rounded to bf16 for speed
_MIN_PIXELS_FOR_BF16 = 1000 * 224**2
_TIMED_IMAGES = 8  # images in a step that is timed
_LONG_TRAINING = 1000  # steps from which TrivialAugment is worth its noise
_PLANNED_SHARE = 0.8  # of a time budget; the rest is for saving and for noise
VALIDATION_COST = 1 / 3  # of an image without gradients, in training steps
_MIN_EPOCHS = 3  # before a deadline: fewer say nothing about a fine-tuning method


def plan_training(job: Job) -> tuple[Recipe, list[Decision]]:
    """Resolve precision, memory format, augmentation and layer-wise learning rates.

    Returns:
        The recipe of the job, resolved, and what was decided.
    """
    resolution = Resolution(job.recipe)
    for decision in choose_mode(job.model, job.dataset("train"), job.recipe, job.device):
        resolution.decide(*decision)
    _resolve_augmentation(resolution, job)
    _resolve_layer_decay(resolution, job)
    return resolution.recipe, resolution.decisions


def choose_mode(
    model: Model, dataset: ImageDataset, recipe: Recipe, device: torch.device
) -> list[Decision]:
    """Decide precision and memory format.

    They are as set, or measured on a few training steps if there are enough of them to matter.

    Args:
        model: The model; it is moved to the device and not changed otherwise.
        dataset: The training images.
        recipe: The recipe, with these two fields open or set.
        device: Where to train.
    """
    settings, steps = recipe.training, model.tuning.needs_steps
    pixels = len(dataset) * (settings.epochs if steps else 1) * model.backbone.input.size**2
    may_round = steps or pixels >= _MIN_PIXELS_FOR_BF16
    precision = settings.precision if may_round else "fp32"
    candidates = candidate_modes(precision, settings.channels_last)
    if not len(dataset):
        mode = candidates[0]
        reason = Message("choice.no_image_to_measure", "there is no image to measure on")
    elif len(candidates) > 1 and pixels < _MIN_PIXELS_TO_MEASURE and steps:
        mode = candidates[0]
        reason = Message("choice.few_to_measure", "too few images to be worth measuring")
    else:
        mode, reason = fastest_mode(candidates, _timed_step(model, dataset, device, steps))
    return [
        Decision("training.precision", mode.precision, reason),
        Decision("training.channels_last", mode.channels_last, reason),
    ]


def time_step(
    model: Model,
    batch: Batch,
    mode: ComputeMode,
    device: torch.device,
    with_gradients: bool = True,
) -> None:
    """Compute what a training step computes, and leave no trace of it.

    Args:
        model: The model, on the device and in eval mode.
        batch: Images to compute on.
        mode: Precision and memory format.
        device: Where the model is.
        with_gradients: Whether to compute the backward pass too.
    """
    with torch.set_grad_enabled(with_gradients), mode.autocast(device), torch.random.fork_rng():
        batch = to_device(batch, device, mode)
        loss: Any = sum(model.task.loss(model(batch), batch).values())
    if with_gradients:
        loss.backward()
        model.zero_grad(set_to_none=True)
        # LeViT and similar models keep tensors between passes, which lead to the freed graph
        model.train().eval()
    if device.type != "cpu":  # else the clock stops before the work is done
        torch.accelerator.synchronize(device)


def limit_epochs(job: Job) -> tuple[Recipe, list[Decision]]:
    """Reduce the epochs to those that fit into the time budget and before the deadline.

    Returns:
        The recipe of the job, and the decision if there was one.

    Raises:
        TooLittleTime: Fewer than three epochs (or than were set) fit before the deadline.
    """
    training, resolution = job.recipe.training, Resolution(job.recipe)
    if not job.model.tuning.needs_steps or (training.minutes is None and job.deadline is None):
        return job.recipe, []
    seconds = _measure_epoch(job)
    left = math.inf if job.deadline is None else job.deadline - time.monotonic()
    budget = min(left, math.inf if training.minutes is None else 60 * training.minutes)
    needed = min(_MIN_EPOCHS, training.epochs) * seconds
    if job.deadline is not None and _PLANNED_SHARE * left < needed:
        what = f"an epoch takes {seconds:.0f} s, and {max(0, left):.0f} s are left"
        raise TooLittleTime(what, hint="give more --minutes")
    epochs = max(1, min(training.epochs, int(_PLANNED_SHARE * budget / seconds)))
    if epochs < training.epochs:
        reason = Message(
            "choice.time_budget",
            "an epoch takes {seconds} s, the budget is {minutes} minutes",
            seconds=f"{seconds:.0f}",
            minutes=f"{budget / 60:.1f}",
        )
        resolution.decide("training.epochs", epochs, reason)
    return resolution.recipe, resolution.decisions


def _timed_step(
    model: Model, dataset: ImageDataset, device: torch.device, with_gradients: bool
) -> Callable[[ComputeMode], None]:
    """Return a function that computes a step on a few training images in a given mode."""
    batch = next(iter(make_loader(dataset, BatchSampler(len(dataset), _TIMED_IMAGES), workers=0)))

    def step(mode: ComputeMode) -> None:
        time_step(to_device(model, device, mode), batch, mode, device, with_gradients)

    return step


def _measure_epoch(job: Job) -> float:
    """Return the seconds of an epoch of training and validation, measured on one step."""
    mode = ComputeMode.for_training(job.recipe.training)
    step = _timed_step(job.model, job.dataset("train"), job.device, with_gradients=True)
    step(mode)
    start = time.perf_counter()
    step(mode)
    images = len(job.indices("train"))
    per_image = (time.perf_counter() - start) / min(_TIMED_IMAGES, images)
    return per_image * (images + VALIDATION_COST * len(job.indices("val")))


def _resolve_augmentation(resolution: Resolution, job: Job) -> None:
    """Augmentation pays off in a long training; a short one has no time for it."""
    training = job.recipe.training
    if job.recipe.augment.policy != "auto" or not job.model.tuning.needs_steps:
        return
    steps = training.epochs * len(BatchSampler(len(job.indices("train")), training.batch_size))
    if steps >= _LONG_TRAINING:
        text = "{steps:step is|steps are} enough for augmentation to help"
        reason = Message("choice.long_enough", text, steps=steps)
        resolution.decide("augment.policy", "trivial", reason)
    else:
        text = "{steps:step is|steps are} too few for augmentation to help"
        reason = Message("choice.too_short", text, steps=steps)
        resolution.decide("augment.policy", "none", reason)


def _resolve_layer_decay(resolution: Resolution, job: Job) -> None:
    """Decide how much less early layers learn, as measured (docs/log).

    A fitted head is lost if early layers change much, and so are Transformers (BEiT). With a
    randomly initialized head, all layers of a convolutional network learn alike.
    """
    tuning, name = job.model.tuning, "training.layer_decay"
    if job.recipe.training.layer_decay is not None or not (tuning.needs_steps and tuning.layerwise):
        return
    has_batch_norm = any(hasattr(each, "running_mean") for each in job.model.backbone.modules())
    if job.recipe.backbone.weights == "none":
        text = "all layers of a random network have as much to learn"
        resolution.decide(name, 1.0, Message("choice.all_layers", text))
    elif needs_features(job):
        text = "the head is fitted to the features as they are, so early layers change little"
        resolution.decide(name, 0.75, Message("choice.fitted_head", text))
    elif has_batch_norm:
        text = "a convolutional network with a random head learns best at equal rates"
        resolution.decide(name, 1.0, Message("choice.equal_rates", text))
    else:
        text = "networks without batch normalization learn best if early layers change little"
        resolution.decide(name, 0.75, Message("choice.no_batch_norm", text))
