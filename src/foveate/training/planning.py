"""How to compute and how to train, where the recipe leaves it open: measured or reasoned, said, and written down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.errors import TooLittleTime
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.training.head_init import needs_features
from foveate.training.job import Job
from foveate.types import Batch
from foveate.utils.device import ComputeMode, candidate_modes, fastest_mode

_MEASURED = 8  # images in a step that is timed
_WORTH_MEASURING = (
    2000 * 224**2
)  # pixels to push through, all epochs together: below, timing costs more than it gains
_WORTH_ROUNDING = (
    1000 * 224**2
)  # pixels from which features of a frozen backbone may be rounded for speed
_LONG = 1000  # steps from which TrivialAugment is worth its noise
_SAFETY = 0.8  # of a time budget is planned for; the rest is saving and noise
_LOOK = 1 / 3  # of a training step is what looking at an image costs
_LEAST_EPOCHS = 3  # that fit before a deadline: fewer say nothing about a way to train


def plan(job: Job) -> None:
    """Decides precision, memory format, augmentation and layer-wise rates."""
    _choose_mode(job)
    _choose_policy(job)
    _choose_layer_decay(job)


def choose_norms(recipe: Recipe) -> tuple[str, str]:
    """Whether batch normalisation learns new statistics: a head that was solved on the old ones does not fit new ones."""
    if recipe.backbone.weights == "none":
        return "learn", "random weights have no statistics to keep"
    return "keep", "the pretrained statistics serve better than those of a few images"


def _choose_mode(job: Job) -> None:
    for choice in choose_mode(job.model, job.dataset("train"), job.recipe, job.device):
        job.choose(*choice)


def choose_mode(
    model: Model, pictures: ImageDataset, recipe: Recipe, device: torch.device
) -> list[tuple[str, Any, str]]:
    """Precision and memory format, with reasons: as asked, or measured on a few steps where there are enough of them to care."""
    asked, steps = recipe.training, model.tuning.needs_steps
    pixels = len(pictures) * (asked.epochs if steps else 1) * model.backbone.input.size**2
    rounded = steps or pixels >= _WORTH_ROUNDING
    candidates = candidate_modes(asked.precision if rounded else "fp32", asked.channels_last)
    if not len(pictures):
        way, why = candidates[0], "there is no image to measure on"
    elif len(candidates) > 1 and pixels < _WORTH_MEASURING and steps:
        way, why = candidates[0], "too few images to be worth measuring"
    else:
        way, why = fastest_mode(candidates, _timed_step(model, pictures, device, steps))
    return [
        ("training.precision", way.precision, why),
        ("training.channels_last", way.channels_last, why),
    ]


def _timed_step(
    model: Model, pictures: ImageDataset, device: torch.device, with_gradients: bool
) -> Callable[[ComputeMode], None]:
    """A function that runs a few training images through the model as the given way does, and leaves no trace."""
    batch = next(iter(make_loader(pictures, BatchSampler(len(pictures), _MEASURED), workers=0)))

    def step(way: ComputeMode) -> None:
        model.to(device=device, memory_format=way.memory_format)  # type: ignore[call-overload]
        time_step(model, batch, way, device, with_gradients)

    return step


def time_step(
    model: Model, batch: Batch, way: ComputeMode, device: torch.device, with_gradients: bool = True
) -> None:
    """What a step computes, and nothing of what it leaves; the model is where it should be, and in eval mode."""
    with torch.set_grad_enabled(with_gradients), way.autocast(device), torch.random.fork_rng():
        part = batch.to(device, memory_format=way.memory_format)
        loss: Any = sum(model.task.loss(model(part), part).values())
    if with_gradients:
        loss.backward()
        model.zero_grad(set_to_none=True)
        model.train().eval()  # drops what LeViT and its kin keep between passes, which leads to the freed graph
    if device.type != "cpu":  # else the clock stops before the work is done
        torch.accelerator.synchronize(device)


def cut_to_time(job: Job) -> None:
    """Cuts the epochs to the minutes that were given, and to the deadline. Raises TooLittleTime when less than three epochs (or
    the fewer that were asked) fit before a deadline."""
    training = job.recipe.training
    if (training.minutes is None and job.deadline is None) or not job.model.tuning.needs_steps:
        return
    seconds = _epoch_seconds(job)
    left = math.inf if job.deadline is None else job.deadline - time.monotonic()
    given = min(left, math.inf if training.minutes is None else 60 * training.minutes)
    epochs = max(1, min(training.epochs, int(_SAFETY * given / seconds)))
    if job.deadline is not None and _SAFETY * left < min(_LEAST_EPOCHS, training.epochs) * seconds:
        raise TooLittleTime(
            f"an epoch takes {seconds:.0f} s, {max(0, left):.0f} s are left",
            hint="give more --minutes",
        )
    if epochs < training.epochs:
        job.choose(
            "training.epochs", epochs, f"{seconds:.0f} s an epoch, {given / 60:.1f} minutes given"
        )


def _epoch_seconds(job: Job) -> float:
    """Of training and validation, measured on one step."""
    way = ComputeMode(job.recipe.training.precision, bool(job.recipe.training.channels_last))
    step = _timed_step(job.model, job.dataset("train"), job.device, True)
    step(way)
    start = time.perf_counter()
    step(way)
    images = len(job.indices("train"))
    return (
        (time.perf_counter() - start)
        / min(_MEASURED, images)
        * (images + _LOOK * len(job.indices("val")))
    )


def _choose_policy(job: Job) -> None:
    """Distorted pictures pay in a long training; a short one has no time for them."""
    training = job.recipe.training
    if job.recipe.augment.policy != "auto" or not job.model.tuning.needs_steps:
        return
    steps = training.epochs * len(BatchSampler(len(job.indices("train")), training.batch_size))
    if steps >= _LONG:
        job.choose(
            "augment.policy", "trivial", f"{steps} steps are enough to gain from distorted pictures"
        )
    else:
        job.choose(
            "augment.policy", "none", f"{steps} steps are too few to gain from distorted pictures"
        )


def _choose_layer_decay(job: Job) -> None:
    """A solved head is lost when early layers move much, and so are Transformers (BEiT); with a head that begins at random on a
    convolutional network all layers move alike, as measured (docs/log.md)."""
    tuning = job.model.tuning
    if job.recipe.training.layer_decay is not None or not (tuning.needs_steps and tuning.layerwise):
        return
    if job.recipe.backbone.weights == "none":
        job.choose(
            "training.layer_decay", 1.0, "all layers of a random network have as much to learn"
        )
    elif needs_features(job):
        job.choose(
            "training.layer_decay",
            0.75,
            "the head is solved on the features as they are: early layers move little",
        )
    elif any(hasattr(module, "running_mean") for module in job.model.backbone.modules()):
        job.choose(
            "training.layer_decay",
            1.0,
            "a convolutional network with a random head adapts best when all layers move alike",
        )
    else:
        job.choose(
            "training.layer_decay",
            0.75,
            "networks without batch normalisation adapt best when early layers move little",
        )
