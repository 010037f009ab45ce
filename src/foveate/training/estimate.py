"""What a fit of these data would take on this machine: minutes, memory, disk, measured on some pictures with random weights."""

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
from foveate.data.image_cache import MEMORY_SHARE, ImageCache
from foveate.data.issues import IssueKind, IssueLog
from foveate.errors import DataError, UsageError
from foveate.inference.engine import eval_dataset
from foveate.inference.features import pooled_features
from foveate.modeling.backbones import family_of
from foveate.modeling.model import Model, build_model
from foveate.recipe import Recipe, with_settings
from foveate.training.planning import choose_mode
from foveate.training.resolve import resolve_recipe
from foveate.training.throughput import Pace, paced
from foveate.types import Provides, Sample, Table
from foveate.utils import console
from foveate.utils.device import resolve_device
from foveate.utils.files import cache_folder
from foveate.utils.memory import available, keep_pages, total

MEMORY = IssueKind(
    "this fit may need more memory than is free",
    "warning",
    "machine",
    "a smaller --batch-size or --size",
)
DISK = IssueKind(
    "this fit needs more room than is free on the disk",
    "error",
    "machine",
    "make room, or write elsewhere: --out",
)

_LOOK = 1 / 3  # of a step is what looking at an image costs, without its gradients
_STATES = 5  # weights, their average, the best of them, and two moments of the optimiser: what a checkpoint holds
_CHECKPOINTS = 3  # two that are kept, and one that is being written
_REPORT = 5e6  # bytes of a report with its pictures
_WIDE = 4 / 3  # sides of a photo: what a decoded picture takes beside the square of the network


@dataclass(frozen=True)
class Planned:
    """`recipe`: what would be done; `images`: of each split; `seconds`: of each part of the fit; `memory`, `disk`: bytes."""

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
        recipe = self.recipe
        about = {
            "task": recipe.task.name,
            "tuning": recipe.tuning.name,
            "backbone": recipe.backbone.name,
            "device": self.device,
        }
        spent = {name: round(value, 3) for name, value in self.seconds.items()}
        sizes = {
            "memory_gigabytes": round(self.memory / 1e9, 2),
            "disk_megabytes": round(self.disk / 1e6, 1),
        }
        return {
            **about,
            "images": self.images,
            "minutes": round(self.minutes, 2),
            "seconds": spent,
            **sizes,
        }

    def rows(self) -> list[tuple[str, str]]:
        """What, and how it is."""
        epochs = f", {self.recipe.training.epochs} epochs" if "training" in self.seconds else ""
        return [
            (
                "fit",
                f"{self.recipe.task.name}, {self.recipe.tuning.name} of {self.recipe.backbone.name}{epochs}, on {self.device}",
            ),
            ("time", f"about {_time(sum(self.seconds.values()))}"),
            *((name, _time(seconds)) for name, seconds in self.seconds.items()),
            ("memory", f"about {self.memory / 1e9:.1f} GB"),
            ("disk", f"about {self.disk / 1e6:.0f} MB"),
        ]


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def planned(recipe: Recipe, table: Table, readable: Sequence[Sample], rate: float) -> Planned:
    """Times some steps of the fit that the recipe means on these data. `readable`: samples whose pictures can be read; `rate`: how
    many pictures a second were read and hashed.

    The network has random weights, so none are needed. Raises what the parts raise: UsageError for words that do not fit.
    """
    device = resolve_device(recipe.device)
    recipe, _ = resolve_recipe(recipe, table)
    model = build_model(recipe, table.classes, weights="none")
    counts = _divided(table, recipe)
    taught = _taught(table, readable)
    pictures = eval_dataset(
        model,
        taught,
        ImageCache(model.backbone.input.size, model.task.framing, keep=False),
        recipe.seed,
    )
    recipe = _with_way(recipe, model, pictures, device)
    steps = model.tuning.needs_steps
    pace = paced(model, pictures, recipe, device, gradients=steps)
    seconds = _seconds(counts, pace, recipe.training.epochs, steps, len(table.samples) / rate)
    side = model.backbone.input.size
    kept = (
        min(len(table.samples) * side * side * 3 * _WIDE, MEMORY_SHARE * total())
        if recipe.data.keep_pixels
        else 0
    )
    return Planned(
        recipe,
        str(device),
        counts,
        seconds,
        int(pace.memory + kept),
        _room(model, steps, len(table.samples)),
    )


def _taught(table: Table, readable: Sequence[Sample]) -> list[Sample]:
    """Those to learn from; where no split is called train, a fit divides them all. Raises DataError where there are none."""
    named = any(sample.split == "train" for sample in table.samples)
    taught = [
        sample
        for sample in readable
        if sample.target is not None and (not named or sample.split in (None, "train"))
    ]
    if not taught:
        raise DataError("there is no image to learn from", where=table.root)
    return taught


def _with_way(recipe: Recipe, model: Model, pictures: ImageDataset, device: torch.device) -> Recipe:
    """The recipe with precision and memory format: measured as a fit does, but for a processor, where that alone takes half a
    minute of a detector's; a fit may find a way there that is up to twice as fast."""
    if device.type != "cpu":
        found = choose_mode(model, pictures, recipe, device)
        return with_settings(recipe, {field: value for field, value, _ in found})
    asked = recipe.training
    precision = "fp32" if asked.precision == "auto" else asked.precision
    layout = True if asked.channels_last is None else asked.channels_last
    return with_settings(
        recipe, {"training.precision": precision, "training.channels_last": layout}
    )


def features(recipe: Recipe, samples: Sequence[Sample]) -> np.ndarray:
    """(N, D) float32: what the recipe's backbone makes of pictures that can be read. Raises UsageError for one that describes none,
    and WeightsError."""
    keep_pages()
    asked, device = recipe.backbone, resolve_device(recipe.device)
    backbone = family_of(asked.name).open(asked.name, asked.weights, asked.size)
    if Provides.POOLED not in backbone.provides:
        raise UsageError(
            f"the backbone {asked.name!r} gives no vector of a picture to compare by",
            where="backbone.name",
        )
    pixels = ImageCache(backbone.input.size, "crop", keep=False)
    with console.progress(len(samples), "features") as bar:
        return pooled_features(
            backbone.eval().to(device), samples, pixels, "crop", device, bar.advance
        ).numpy()


def _divided(table: Table, recipe: Recipe) -> dict[str, int]:
    """How many images each split would have."""
    counts = Counter(sample.split for sample in table.samples)
    total, named = len(table.samples), counts["train"] + counts["val"] + counts["test"]
    if not counts["train"]:
        val, test = round(recipe.data.val * total), round(recipe.data.test * total)
        return {"train": total - val - test, "val": val, "test": test}
    train = counts["train"] + total - named
    val = counts["val"] or round(recipe.data.val * train)
    return {"train": train - (0 if counts["val"] else val), "val": val, "test": counts["test"]}


def _seconds(
    counts: dict[str, int], pace: Pace, epochs: int, steps: bool, reading: float
) -> dict[str, float]:
    """Reading, training or features, and scoring, one after the other."""
    measured = counts["val"] + counts["test"]
    if not steps:
        return {
            "reading": reading,
            "features": counts["train"] / pace.rate,
            "scoring": (measured + counts["val"]) / pace.rate,
        }
    look = _LOOK / pace.rate
    training = epochs * (counts["train"] / pace.rate + counts["val"] * look)
    return {"reading": reading, "training": training, "scoring": (measured + counts["val"]) * look}


def _room(model: Model, steps: bool, images: int) -> int:
    """Bytes of a run folder, while it is written, and of cached features."""
    moving = sum(tensor.nbytes for tensor in model.trained_tensors().values())
    width = (
        sum(parameter.shape[-1] for parameter in model.head.parameters() if parameter.ndim == 2)
        or 1000
    )
    return int(
        moving * (1 + (_STATES * _CHECKPOINTS if steps else 0)) + 4 * images * width + _REPORT
    )


def fits(plan: Planned, place: Path, found: IssueLog) -> None:
    """Adds what this machine lacks for a fit that writes its run at `place`."""
    free = available()
    if torch.device(plan.device).type == "cpu" and free is not None and plan.memory > free:
        found.add(MEMORY, "memory", why=f"{plan.memory / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    for folder in dict.fromkeys((_there(place), _there(cache_folder()))):
        room = shutil.disk_usage(folder).free
        if plan.disk > room:
            found.add(
                DISK, str(folder), why=f"{plan.disk / 1e6:.0f} MB, {room / 1e6:.0f} MB are free"
            )


def _there(place: Path) -> Path:
    """The nearest folder above that there is."""
    place = place.absolute()
    while not place.is_dir():
        place = place.parent
    return place
