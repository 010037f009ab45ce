"""What a fit would take on this machine: time, memory and disk, measured with random weights."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.data.dataset import ImageDataset
from foveate.data.image_cache import MEMORY_SHARE, ImageCache, rendering_of
from foveate.data.issues import IssueLog
from foveate.errors import DataError, UsageError
from foveate.inference.features import pooled_features
from foveate.messages import Message
from foveate.modeling.backbones import family_of
from foveate.modeling.datasets import eval_dataset
from foveate.modeling.model import Model, build_model
from foveate.recipe import Recipe, with_settings
from foveate.training.planning import VALIDATION_COST, choose_mode
from foveate.training.resolve import resolve_recipe
from foveate.training.throughput import Throughput, measure_throughput
from foveate.types import IssueKind, Provides, Sample, Table
from foveate.utils import console
from foveate.utils.cache import cache_folder
from foveate.utils.device import resolve_device
from foveate.utils.memory import available_memory, keep_freed_memory, total_memory

LOW_MEMORY = IssueKind(
    "low_memory",
    "a fit may need more memory than is free",
    "warning",
    "machine",
    "use a smaller --batch-size or --size",
)
LOW_DISK = IssueKind(
    "low_disk",
    "a fit needs more disk space than is free",
    "error",
    "machine",
    "free some space, or write elsewhere with --out",
)

_STATES = 5  # of each trained tensor: itself, its average, its best, two moments of the optimizer
_CHECKPOINTS = 3  # two that are kept, and one that is being written
_REPORT_BYTES = 5e6  # of a report with its images
_ASPECT_RATIO = 4 / 3  # of a photo: pixels kept beside the square of the network
_PARTS = {
    "reading": Message("training.time_reading", "reading"),
    "features": Message("training.time_features", "features"),
    "training": Message("training.time_training", "training"),
    "scoring": Message("training.time_scoring", "scoring"),
}

Row = tuple[Message, Message | str]
"""Name and value, for a table."""


@dataclass(frozen=True)
class FitEstimate:
    """The cost of a fit.

    Attributes:
        recipe: the recipe that would be run, resolved.
        device: where it would train.
        images: number of images of each split.
        seconds: time of each part of the fit.
        memory: peak memory, bytes.
        disk: size of the run folder while it is written, and of cached features, bytes.
    """

    recipe: Recipe
    device: str
    images: dict[str, int]
    seconds: dict[str, float]
    memory: int
    disk: int

    @property
    def minutes(self) -> float:
        return sum(self.seconds.values()) / 60

    def numbers(self) -> dict[str, Any]:
        return {
            "task": self.recipe.task.name,
            "tuning": self.recipe.tuning.name,
            "backbone": self.recipe.backbone.name,
            "device": self.device,
            "images": self.images,
            "minutes": round(self.minutes, 2),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "memory_gigabytes": round(self.memory / 1e9, 2),
            "disk_megabytes": round(self.disk / 1e6, 1),
        }

    def rows(self) -> list[Row]:
        """Return names and values for a table."""
        recipe = self.recipe
        fit = Message(
            "training.estimated_fit",
            "{task}, {tuning} of {backbone}, on {device}",
            task=recipe.task.name,
            tuning=recipe.tuning.name,
            backbone=recipe.backbone.name,
            device=self.device,
        )
        if "training" in self.seconds:
            epochs = recipe.training.epochs
            text = "{fit}, {epochs:epoch|epochs}"
            fit = Message("training.estimated_epochs", text, fit=fit, epochs=epochs)
        return [
            (Message("training.estimate_of", "fit"), fit),
            (Message("training.time", "time"), _about(_duration(60 * self.minutes))),
            *((_PARTS[name], _duration(seconds)) for name, seconds in self.seconds.items()),
            (Message("training.memory", "memory"), _about(f"{self.memory / 1e9:.1f} GB")),
            (Message("training.disk", "disk"), _about(f"{self.disk / 1e6:.0f} MB")),
        ]


def _about(value: str) -> Message:
    return Message("training.about", "about {value}", value=value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate_fit(
    recipe: Recipe, table: Table, readable: Sequence[Sample], images_per_second: float
) -> FitEstimate:
    """Time some steps of a fit; the network has random weights, so none are downloaded.

    Args:
        recipe: The recipe that the user would fit with.
        table: The data.
        readable: Samples whose images can be read.
        images_per_second: Rate at which images were read and hashed.

    Raises:
        UsageError: The settings do not fit together.
        DataError: There are no training images.
    """
    device = resolve_device(recipe.device)
    recipe, _ = resolve_recipe(recipe, table)
    model = build_model(recipe, table.classes, weights="none")
    size, steps, count = model.backbone.input.size, model.tuning.needs_steps, len(table.samples)
    no_cache = ImageCache(size, model.task.framing, False, rendering_of(recipe.data))
    dataset = eval_dataset(model, _training_samples(table, readable), no_cache, recipe.seed)
    recipe = _with_mode(recipe, model, dataset, device)
    throughput = measure_throughput(model, dataset, recipe, device, gradients=steps)
    splits = _split_sizes(table, recipe)
    seconds = _seconds(splits, throughput, recipe.training.epochs, steps)
    memory = float(throughput.peak_memory)
    if recipe.data.cache_images:
        pixel = model.backbone.input.channels * recipe.data.bits // 8  # bytes
        memory += min(count * size**2 * pixel * _ASPECT_RATIO, MEMORY_SHARE * total_memory())
    return FitEstimate(
        recipe,
        str(device),
        splits,
        {"reading": count / images_per_second, **seconds},
        int(memory),
        _disk_bytes(model, steps, count),
    )


def _training_samples(table: Table, readable: Sequence[Sample]) -> list[Sample]:
    """Return the samples to train on; without a training split, a fit divides them all."""
    has_split = any(sample.split == "train" for sample in table.samples)
    samples = [
        sample
        for sample in readable
        if sample.target is not None and (not has_split or sample.split in (None, "train"))
    ]
    if not samples:
        raise DataError("there are no training images", where=table.root)
    return samples


def _with_mode(recipe: Recipe, model: Model, dataset: ImageDataset, device: torch.device) -> Recipe:
    """Return the recipe with precision and memory format, measured as a fit does.

    But not on a CPU, where that alone takes half a minute for a detector; a fit may find a mode
    there that is up to twice as fast.
    """
    if device.type != "cpu":
        decisions = choose_mode(model, dataset, recipe, device)
        return with_settings(recipe, {each.field: each.value for each in decisions})
    precision, channels_last = recipe.training.precision, recipe.training.channels_last
    settings = {
        "training.precision": "fp32" if precision == "auto" else precision,
        "training.channels_last": True if channels_last is None else channels_last,
    }
    return with_settings(recipe, settings)


def image_features(recipe: Recipe, samples: Sequence[Sample]) -> np.ndarray:
    """Return (N, D) float32 features of readable images, by the recipe's backbone.

    Raises:
        UsageError: The backbone has no pooled features.
        WeightsError: Its weights are not available.
    """
    keep_freed_memory()
    settings, device = recipe.backbone, resolve_device(recipe.device)
    backbone = family_of(settings.name).open(settings.name, settings.weights, settings.size)
    if Provides.POOLED not in backbone.provides:
        what = f"the backbone {settings.name!r} has no pooled features to compare images by"
        raise UsageError(what, where="backbone.name")
    cache = ImageCache(backbone.input.size, "crop", keep=False)
    backbone = backbone.eval().to(device)
    with console.progress(len(samples), "features") as bar:
        features = pooled_features(backbone, samples, cache, "crop", device, bar.advance)
    return features.numpy()


def _split_sizes(table: Table, recipe: Recipe) -> dict[str, int]:
    """Return how many images each split would have."""
    counts = Counter(sample.split for sample in table.samples)
    total = len(table.samples)
    if not counts["train"]:
        val, test = round(recipe.data.val * total), round(recipe.data.test * total)
        return {"train": total - val - test, "val": val, "test": test}
    train = total - counts["val"] - counts["test"]
    if counts["val"]:
        return {"train": train, "val": counts["val"], "test": counts["test"]}
    val = round(recipe.data.val * train)
    return {"train": train - val, "val": val, "test": counts["test"]}


def _seconds(
    splits: dict[str, int], throughput: Throughput, epochs: int, steps: bool
) -> dict[str, float]:
    """Return the time of training, or of features, and of scoring."""
    scored, rate = 2 * splits["val"] + splits["test"], throughput.images_per_second
    if not steps:
        return {"features": splits["train"] / rate, "scoring": scored / rate}
    training = epochs * (splits["train"] + splits["val"] * VALIDATION_COST) / rate
    return {"training": training, "scoring": scored * VALIDATION_COST / rate}


def _disk_bytes(model: Model, steps: bool, images: int) -> int:
    """Return the size of a run folder while it is written, and of cached features."""
    trained = sum(tensor.nbytes for tensor in model.trained_tensors().values())
    copies = 1 + (_STATES * _CHECKPOINTS if steps else 0)
    width = sum(each.shape[-1] for each in model.head.parameters() if each.ndim == 2) or 1000
    return int(trained * copies + 4 * images * width + _REPORT_BYTES)


def add_shortages(estimate: FitEstimate, path: Path, issues: IssueLog) -> None:
    """Record what this machine lacks for a fit that writes its run at `path`."""
    free, on_cpu = available_memory(), torch.device(estimate.device).type == "cpu"
    if on_cpu and free is not None and estimate.memory > free:
        why = f"{estimate.memory / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
        issues.add(LOW_MEMORY, "memory", why=why)
    for folder in dict.fromkeys((_existing(path), _existing(cache_folder()))):
        free = shutil.disk_usage(folder).free
        if estimate.disk > free:
            why = f"{estimate.disk / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
            issues.add(LOW_DISK, str(folder), why=why)


def _existing(path: Path) -> Path:
    """Return the nearest parent folder that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path
