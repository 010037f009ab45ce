"""Every shape that travels through the house, stated once.

Letters: B images in a batch, C channels, H height, W width, N tokens (or boxes), D width of a feature, K classes.

A truth and a prediction are the same type: a truth is a prediction without scores. A metric compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foveate.predictions import Prediction

if TYPE_CHECKING:
    from torch import Tensor


Split = Literal["train", "val", "test"]


class Provides(Enum):
    """What a backbone can give; a task names the one that it needs."""

    POOLED = "pooled"  # (B, D): one vector an image
    MAPS = "maps"  # [(B, C_i, H/s_i, W/s_i)]: a pyramid, finest first
    TOKENS = "tokens"  # (B, N, D): a sequence, prefix tokens left out
    TEXT = "text"  # embeds sentences into the same space as images
    NOISE = "noise"  # takes noise off pictures, and describes none
    WORDS = "words"  # writes about pictures: (B, N, D), what its decoder sees of them
    NATIVE = "native"  # answers about classes in words: boxes (B, A, 4) with logits (B, A, K), or pixels' logits (B, K, h, w)


@dataclass(frozen=True)
class Sample:
    """One image on disk and what is known about it.

    `key` names it in reports and saved predictions: the path relative to the data's root, with forward slashes.
    `group`: images that belong together (a patient, a video); a split never divides a group.
    """

    path: Path
    key: str
    target: Prediction | None = None
    split: Split | None = None
    group: str | None = None


@dataclass(frozen=True)
class Table:
    """What a format read: samples, class names in order, and what there is to say about them.

    `classes` is sorted unless the format states an order. `notes` are sentences for the user: what was skipped or guessed.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    format: str
    root: Path
    multilabel: bool = False
    notes: tuple[str, ...] = ()

    def in_split(self, split: Split) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.split == split)

    def with_samples(self, samples: tuple[Sample, ...]) -> Table:
        return replace(self, samples=samples)

    def with_classes(self, classes: tuple[str, ...]) -> Table:
        return replace(self, classes=classes)


VIEW_KEYS = (
    "wide",
    "narrow",
)  # entries of a target that are views of the image: (V, 3, s, s), in the same form as it


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to see. `size`: the square's side in pixels. `mean`, `std`: per RGB channel, of pixels in [0, 1]."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalize(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 -> float32, normalised, laid out in memory as it was."""
        found = images.float()
        mean, std = (found.new_tensor(each).view(3, 1, 1) for each in (self.mean, self.std))
        # one after the other where they stay in a processor's caches; a GPU is better off with all at once
        for part in found if found.device.type == "cpu" and found.ndim > 3 else (found,):
            part.mul_(1 / 255).sub_(mean).div_(std)
        return found


TargetTensors = dict[str, Any]
"""A truth as tensors: {'labels': (K,) float32}, or {'boxes': tv_tensors.BoundingBoxes (N, 4), 'classes': (N,) int64, 'crowd':
(N,) bool} and perhaps 'masks': transforms.ObjectMasks (N, H, W) uint8, or {'mask': tv_tensors.Mask (H, W) int64}, or what else
a task encodes."""

OBJECT_KEYS = frozenset({"boxes", "classes", "crowd", "masks"})
"""The entries of a target with a row for each object: an object that leaves the picture leaves all of them."""


@dataclass
class Batch:
    """What the network is fed.

    `images`: (B, 3, H, W) float32, normalised; or uint8 as they come from a loader, with the `spec` of what is still to be done to
    them, and to other views in the targets: `to` sees to it, where bytes have become a quarter of the way.
    `targets`: B dictionaries of tensors, empty where there is no truth.
    `views`: (B, 4) float32, the rectangle (x0, y0, x1, y1) of the upright original, in its pixels, that the network sees:
    an answer in network coordinates is mapped back with it. It may reach outside the picture (padding).
    `sizes`: (B, 2) int64, height and width of the upright original. `indices`: (B,) int64, places in the list of samples.
    """

    images: Tensor
    targets: list[TargetTensors]
    views: Tensor
    sizes: Tensor
    indices: Tensor
    spec: InputSpec | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def subset(self, cut: slice) -> Batch:
        """Some of the images."""
        parts: dict[str, Any] = {
            name: getattr(self, name)[cut]
            for name in ("images", "targets", "views", "sizes", "indices")
        }
        return replace(self, **parts)

    def to(self, device: Any, **options: Any) -> Batch:
        """The same batch elsewhere, ready for the network; `options` (memory_format) go to the images."""
        targets = [
            {name: _moved(value, device) for name, value in target.items()}
            for target in self.targets
        ]
        return replace(
            self, images=self.images.to(device, non_blocking=True, **options), targets=targets
        ).normalized()

    def pin_memory(self) -> Batch:
        """The same batch with images in memory that a GPU reads by itself, while the program goes on; a DataLoader asks for it."""
        return replace(self, images=self.images.pin_memory())

    def normalized(self) -> Batch:
        """The same batch where it is, with images as the network wants them."""
        if self.spec is None:
            return self
        seen = self.spec.normalize
        targets = [
            {name: seen(value) if name in VIEW_KEYS else value for name, value in target.items()}
            for target in self.targets
        ]
        return replace(self, images=seen(self.images), targets=targets, spec=None)


def _moved(value: Any, device: Any) -> Any:
    return value.to(device, non_blocking=True) if hasattr(value, "to") else value


@dataclass
class Features:
    """What a backbone gives; only what was wanted is filled in. Shapes as in `Provides`."""

    pooled: Tensor | None = None
    maps: list[Tensor] = field(default_factory=list)
    tokens: Tensor | None = None
    native: Any = None

    def of_image(self, place: int) -> Features:
        """Of one image of the batch, which stays one; without what is `native`."""
        pooled, tokens = (
            None if each is None else each[place : place + 1] for each in (self.pooled, self.tokens)
        )
        return Features(pooled, [each[place : place + 1] for each in self.maps], tokens)


@dataclass(frozen=True)
class Score:
    """A number with its uncertainty. `low`, `high`: a 95 % interval. `count`: the images (or boxes) behind it."""

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f} (n = {self.count})"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.count})"


@dataclass(frozen=True)
class Scores:
    """All that a metric computed. `numbers`: by metric name, the main one first. `per_class`: a row a class.
    `tables`: anything larger, JSON-able (the confusion matrix). `share`: whether the main number reads as percent."""

    numbers: dict[str, Score]
    per_class: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)
    as_percent: bool = True

    @property
    def main(self) -> str:
        return next(iter(self.numbers))
