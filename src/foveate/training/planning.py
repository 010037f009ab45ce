"""Decisions that need the model and the data: measured on some steps, or derived from sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.errors import TooLittleTime
from foveate.inference.features import has_features
from foveate.messages import Message
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.training.clock import TimeBudget
from foveate.training.head_init import needs_features
from foveate.training.job import HEAD_IMAGES, Job
from foveate.training.reserve import after_training, limit_evaluation
from foveate.training.resolve import Resolution
from foveate.types import Batch, Decision
from foveate.utils.device import (
    MODE_ROUNDS,
    ComputeMode,
    candidate_modes,
    fastest_mode,
    to_device,
)

# input pixels of all epochs together below which timing costs more than it gains
_MIN_PIXELS_TO_MEASURE = 2000 * 224**2
# and from which features of a frozen backbone may be rounded to bf16 for speed
_MIN_PIXELS_FOR_BF16 = 1000 * 224**2
_TIMED_IMAGES = 8  # images in a step that is timed
_LONG_TRAINING = 1000  # steps from which TrivialAugment is worth its noise
MEASURING_SHARE = 0.05
"""Of the time that is left, for timing precisions and memory formats."""
_PLANNED_SHARE = 0.8  # of the time that is left, for training in the first plan
# of the time that is left, for the features of a head that is a start, or the whole fit
_HEAD_SHARE, _FIT_SHARE = 0.25, 0.5
_MIN_HEAD_IMAGES = 50  # fewer are no start for a head
VALIDATION_COST = 1 / 3  # of an image without gradients, in training steps


def plan_training(job: Job) -> tuple[Recipe, list[Decision]]:
    """Resolve what is measured or follows from the model: precision, augmentation, learning rates.

    With a time budget, this also plans the number of epochs, and the images of the first head.

    Returns:
        The recipe of the job, resolved, and what was decided.

    Raises:
        TooLittleTime: Fewer epochs fit into the time budget than it demands.
    """
    resolution, budget = Resolution(job.recipe), job.budget
    allowed = None if budget is None else MEASURING_SHARE * budget.left()
    for decision in choose_mode(job.model, job.dataset("train"), job.recipe, job.device, allowed):
        resolution.decide(*decision)
    if budget is not None:
        _limit_head(resolution, job, budget)
        _plan_epochs(resolution, job, budget)
        resolution.decisions += limit_evaluation(job)
    _resolve_augmentation(resolution, job)
    _resolve_layer_decay(resolution, job)
    return resolution.recipe, resolution.decisions


def choose_mode(
    model: Model,
    dataset: ImageDataset,
    recipe: Recipe,
    device: torch.device,
    allowed: float | None = None,
) -> list[Decision]:
    """Decide precision and memory format.

    They are as set, or measured on a few training steps if there are enough of them to matter.

    Args:
        model: The model; it is moved to the device and not changed otherwise.
        dataset: The training images.
        recipe: The recipe, with these two fields open or set.
        device: Where to train.
        allowed: Seconds that measuring may take; None for any.
    """
    settings, steps = recipe.training, model.tuning.needs_steps
    pixels = len(dataset) * (settings.epochs if steps else 1) * model.backbone.input.size**2
    may_round = steps or pixels >= _MIN_PIXELS_FOR_BF16
    precision = settings.precision if may_round else "fp32"
    candidates = candidate_modes(precision, settings.channels_last)
    count, default = _TIMED_IMAGES, candidates[0]
    if not len(dataset):
        mode = default
        reason = Message("choice.no_image_to_measure", "there is no image to measure on")
    elif len(candidates) > 1 and pixels < _MIN_PIXELS_TO_MEASURE and steps:
        mode = default
        reason = Message("choice.few_to_measure", "too few images to be worth measuring")
    else:
        if allowed is not None and len(candidates) > 1:
            seconds = _image_seconds(model, dataset, default, device, steps)
            passes = len(candidates) * (MODE_ROUNDS + 1)
            count = min(_TIMED_IMAGES, int(allowed / (passes * seconds)))
        if count > 0:
            step = _timed_step(model, dataset, device, steps, count)
            mode, reason = fastest_mode(candidates, step)
        else:
            mode = default
            text = "a measurement would take too much of the time that there is"
            reason = Message("choice.no_time_to_measure", text)
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


def _timed_step(
    model: Model,
    dataset: ImageDataset,
    device: torch.device,
    with_gradients: bool,
    count: int = _TIMED_IMAGES,
) -> Callable[[ComputeMode], None]:
    """Return a function that computes a step on `count` training images in a given mode."""
    batch = next(iter(make_loader(dataset, BatchSampler(len(dataset), count), workers=0)))

    def step(mode: ComputeMode) -> None:
        time_step(to_device(model, device, mode), batch, mode, device, with_gradients)

    return step


def _image_seconds(
    model: Model,
    dataset: ImageDataset,
    mode: ComputeMode,
    device: torch.device,
    with_gradients: bool,
    count: int = 2,
) -> float:
    """Return the seconds of an image in a step on `count` images, after one that warms up."""
    count = min(count, len(dataset))
    step = _timed_step(model, dataset, device, with_gradients, count)
    step(mode)
    start = time.monotonic()
    step(mode)
    return max(time.monotonic() - start, 1e-6) / count


def _limit_head(resolution: Resolution, job: Job, budget: TimeBudget) -> None:
    """Fit the head to as many training images as there is time for their features.

    A fitted head that is only the start of a training is not worth more than a part of the time.
    """
    dataset, steps = job.dataset("train"), job.model.tuning.needs_steps
    mode = ComputeMode.for_training(resolution.recipe.training)
    hashes = [job.scanned.hashes[index] for index in job.indices("train")]
    if not (len(dataset) and needs_features(job)) or has_features(job.model, dataset, hashes, mode):
        return
    seconds = _image_seconds(job.model, dataset, mode, job.device, with_gradients=False)
    job.forward_seconds = seconds
    share = _HEAD_SHARE if steps else _FIT_SHARE
    left = budget.left() - after_training(job).reserve(seconds)
    count = max(0, int(share * left / seconds))
    if count >= len(dataset) or (not steps and len(dataset) <= _MIN_HEAD_IMAGES):
        return
    whole = f"{len(dataset) * seconds:.0f}"
    if steps and count < _MIN_HEAD_IMAGES:
        text = "the features that a head is fitted to would take about {seconds} s"
        reason = Message("choice.no_time_for_head", text, seconds=whole)
        resolution.decide("training.head_init", "random", reason)
        job.recipe = resolution.recipe
        return
    job.head_images = max(count, _MIN_HEAD_IMAGES)
    text = "the features of all {images:image|images} would take about {seconds} s"
    reason = Message("choice.time_for_head", text, images=len(dataset), seconds=whole)
    resolution.decisions.append(Decision(HEAD_IMAGES, job.head_images, reason))


def _plan_epochs(resolution: Resolution, job: Job, budget: TimeBudget) -> None:
    """Say about how many epochs fit, where time decides; refuse a training that is too short."""
    training = resolution.recipe.training
    if not job.model.tuning.needs_steps:
        return
    mode, images = ComputeMode.for_training(training), len(job.indices("train"))
    job.image_seconds = _image_seconds(job.model, job.dataset("train"), mode, job.device, True)
    job.forward_seconds = job.forward_seconds or VALIDATION_COST * job.image_seconds
    seconds = job.image_seconds * (images + VALIDATION_COST * len(job.indices("val")))
    left = budget.left() - after_training(job).reserve(job.forward_seconds)
    needed = min(budget.min_epochs, training.epochs) * seconds
    if needed and _PLANNED_SHARE * left < needed:
        what = f"an epoch takes {seconds:.0f} s, and {max(0, left):.0f} s are left"
        raise TooLittleTime(what, hint="give more --minutes")
    if budget.open_end:
        text = (
            "about as many as fit into the {minutes} minutes that are left for training, at "
            "{seconds} s an epoch; time decides when it ends"
        )
        seconds_text, minutes = f"{seconds:.1f}", f"{max(0, left) / 60:.1f}"
        reason = Message("choice.time_budget", text, seconds=seconds_text, minutes=minutes)
        epochs = max(1, int(_PLANNED_SHARE * left / seconds))
        resolution.decide("training.epochs", epochs, reason)


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
