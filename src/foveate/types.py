"""Shared data types, and the shapes of the tensors in them.

Letters: B images in a batch, C channels, H height, W width, N tokens (or boxes), D feature width,
K classes.

A target and a prediction have the same type: a target is a prediction without scores. A metric
compares the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from foveate.messages import Message, counted
from foveate.predictions import NoInterval, Prediction

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Split = Literal["train", "val", "test", "unlike"]
"""`unlike`: look-alikes held out from the trials of --tuning auto, a second validation part."""
Severity = Literal["note", "warning", "error"]
Area = Literal["files", "labels", "classes", "copies", "machine"]
"""What an issue concerns; `machine`: what a fit would need of the computer."""

OBJECT_KEYS = frozenset({"boxes", "classes", "crowd", "masks"})
"""Entries of a target with one row per object: an object outside a crop is removed from all."""

VIEW_KEYS = ("global_views", "local_views")
"""Entries of a target that are further views of the image: (V, 3, s, s), in the same form as it."""

TargetTensors = dict[str, Any]
"""A target as tensors: {'labels': (K,) float32}; or {'boxes': tv_tensors.BoundingBoxes (N, 4),
'classes': (N,) int64, 'crowd': (N,) bool}, perhaps with 'masks': transforms.ObjectMasks (N, H, W);
or {'mask': tv_tensors.Mask (H, W) int64}; or whatever else a task encodes."""


class Decision(NamedTuple):
    """A setting that Foveate chose for the user.

    Attributes:
        field: The recipe field, dotted ("training.epochs").
        value: The chosen value.
        reason: Why, in one clause. It is printed, and recorded in choices.json; reports translate
            messages.
    """

    field: str
    value: Any
    reason: str | Message


class Provides(Enum):
    """What a backbone can compute; a task names the one that it needs."""

    POOLED = "pooled"  # (B, D): one vector per image
    MAPS = "maps"  # [(B, C_i, H/s_i, W/s_i)]: a feature pyramid, finest first
    TOKENS = "tokens"  # (B, N, D): a sequence, without prefix tokens
    TEXT = "text"  # embeds text into the same space as images
    NOISE = "noise"  # a denoiser: no features of images
    TEXT_DECODER = "text_decoder"  # generates text; (B, N, D): what its decoder attends to
    # its own predictions for classes given as text: boxes (B, A, 4) with logits (B, A, K), or
    # logits (B, K, h, w) of pixels
    NATIVE = "native"


class StoredImage(ABC):
    """An image that is not a file of its own: bytes in memory, or a member of an archive."""

    @property
    def format(self) -> str:
        """Name of the format of its file, where `content` has another one; else empty."""
        return ""

    @abstractmethod
    def content(self) -> Path | bytes:
        """Return what the decoder reads."""

    def decoded(self) -> tuple[np.ndarray, tuple[int, int]] | None:
        """Return the pixels and the (H, W) of the original, if already decoded."""
        return None


def content_of(image: Path | StoredImage) -> Path | bytes:
    """Return what the decoder reads of an image."""
    return image.content() if isinstance(image, StoredImage) else image


@dataclass(frozen=True)
class Sample:
    """One image and its annotation.

    Attributes:
        path: The image file; or an image that is not a file, when serving.
        key: Its name in reports and saved predictions: the path relative to the root of the data,
            with forward slashes.
        target: Its annotation; None if it has none.
        split: The split that the data assign it to.
        group: Images that belong together (a patient, a video) share it; no split divides a group.
    """

    path: Path | StoredImage
    key: str
    target: Prediction | None = None
    split: Split | None = None
    group: str | None = None

    @property
    def source(self) -> Path | bytes:
        """What the decoder reads."""
        return content_of(self.path)

    @property
    def file(self) -> Path:
        """The image file.

        Raises:
            ValueError: The image is not a file.
        """
        if isinstance(self.path, StoredImage):
            raise ValueError(f"{self.key} is not a file")
        return self.path


@dataclass(frozen=True)
class IssueKind:
    """A kind of problem of a dataset. Kinds with other hints are the same.

    Attributes:
        id: Its name in files and translations ("missing_images").
        text: The problem in English, in words that hold for every occurrence.
        severity: An error loses images or makes scores wrong, a warning costs something, a note is
            good to know.
        area: What it concerns.
        hint: What to do about it; may be empty.
    """

    id: str
    text: str
    severity: Severity = "note"
    area: Area = "labels"
    hint: str = field(default="", compare=False)

    @property
    def message(self) -> Message:
        """The text, to be translated."""
        return Message(f"issues.{self.id}", _literal(self.text))

    @property
    def hint_message(self) -> Message:
        """The hint, to be translated."""
        return Message(f"issues.{self.id}.hint", _literal(self.hint))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Location:
    """Where a problem occurs.

    Attributes:
        name: The key of an image, a file with a line, a class, ...
        why: The reason, or the particulars; may be empty.
        similar_to: The key of another image that this one resembles; may be empty.
    """

    name: str
    why: str = ""
    similar_to: str = ""

    def __str__(self) -> str:
        parts = [self.name, f"similar to {self.similar_to}" if self.similar_to else "", self.why]
        return ": ".join(part for part in parts if part)


@dataclass(frozen=True)
class Issue:
    """A problem of a dataset, or a remark on it, as users read it.

    Attributes:
        kind: The kind of problem.
        message: One sentence on all occurrences.
        occurrences: How often it occurs.
        locations: Where; of very many occurrences the first ones. None for a remark on all of the
            data.
    """

    kind: IssueKind
    message: Message
    occurrences: int = 1
    locations: tuple[Location, ...] = ()

    @property
    def title(self) -> Message:
        """The heading above its locations; the whole message for an issue without locations."""
        return self.kind.message if self.locations else self.message

    def __str__(self) -> str:
        return str(self.message)


def remark(id: str, text: str, severity: Severity = "note", **values: Any) -> Issue:
    """Return an issue of all of the data, in a sentence of its own.

    Args:
        id: Its name in files and translations, without the part before the dot.
        text: The sentence, with placeholders for `values` as in `Message`.
        severity: As of its kind.
        values: The values of the placeholders.
    """
    return Issue(IssueKind(id, text, severity), Message(f"issues.{id}", text, **values))


def _literal(text: str) -> str:
    """A text without placeholders as a template: braces stay braces."""
    return text.replace("{", "{{").replace("}", "}}")


@dataclass(frozen=True)
class Skeleton:
    """The keypoints that the objects of a class have.

    Attributes:
        class_name: The class.
        names: Names of the points, in their order; empty if the data do not state them.
        edges: Indices of the two points of each line that is drawn.
        mirrored: For each point the index of the one that it becomes in a mirrored image, such as
            the right eye for the left one; empty if the data do not state it.
    """

    class_name: str
    names: tuple[str, ...] = ()
    edges: tuple[tuple[int, int], ...] = ()
    mirrored: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """A dataset as its format reads it.

    Attributes:
        samples: The images, sorted by key.
        classes: Class names; sorted, unless the format states an order.
        format: The name of the format.
        root: What the keys of samples are relative to.
        multilabel: Whether an image may have several classes, or none.
        notes: Remarks for the user: what was skipped or assumed.
        skeletons: The keypoints of classes, where the data state them.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    format: str
    root: Path
    multilabel: bool = False
    notes: tuple[Issue, ...] = ()
    skeletons: tuple[Skeleton, ...] = ()

    def in_split(self, split: Split) -> tuple[Sample, ...]:
        """Return the samples of a split."""
        return tuple(sample for sample in self.samples if sample.split == split)

    def with_samples(self, samples: tuple[Sample, ...]) -> Table:
        """Return the same table with other samples."""
        return replace(self, samples=samples)

    def with_classes(self, classes: tuple[str, ...]) -> Table:
        """Return the same table with other classes."""
        return replace(self, classes=classes)


@dataclass(frozen=True)
class InputSpec:
    """The input that a network expects.

    Attributes:
        size: Side of the square, px.
        mean: Mean of each of C channels, mostly RGB, of pixels in [0, 1].
        std: Standard deviation of each channel.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Number C of channels."""
        return len(self.mean)

    def normalizing(self, mean: Sequence[float], std: Sequence[float]) -> InputSpec:
        """Return the same input with another mean and deviation, each unless it is empty."""
        return replace(self, mean=tuple(mean) or self.mean, std=tuple(std) or self.std)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn (..., C, H, W) uint8, or float32 up to 255, into normalized float32.

        The memory format stays.
        """
        pixels = images.clone() if images.is_floating_point() else images.float()
        mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        # image by image on a CPU, where each stays in the caches; a GPU is faster with all at once
        for part in pixels if pixels.device.type == "cpu" and pixels.ndim > 3 else (pixels,):
            part.mul_(1 / 255).sub_(mean).div_(std)
        return pixels


@dataclass
class Batch:
    """The input of a network.

    Attributes:
        images: (B, C, H, W) float32, normalized; or with a `spec` as a loader delivers them, uint8,
            or float32 up to 255 where 16 bits are kept: bytes are a quarter of the transfer to a
            GPU, and `to` normalizes them there.
        targets: B dictionaries of tensors, empty for images without a target.
        views: (B, 4) float32, the rectangle (x0, y0, x1, y1) of the upright original, px, that the
            network sees. Predictions in network coordinates are mapped back with it. It may reach
            beyond the image (padding).
        sizes: (B, 2) int64, height and width of the upright original.
        indices: (B,) int64, indices into the samples.
        spec: The normalization that images, and views in the targets, still need.
    """

    images: Tensor
    targets: list[TargetTensors]
    views: Tensor
    sizes: Tensor
    indices: Tensor
    spec: InputSpec | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def subset(self, part: slice) -> Batch:
        """Return some of the images, with all that belongs to them."""
        return replace(
            self,
            images=self.images[part],
            targets=self.targets[part],
            views=self.views[part],
            sizes=self.sizes[part],
            indices=self.indices[part],
        )

    def to(self, device: Any, **options: Any) -> Batch:
        """Return the batch on a device, normalized.

        Args:
            device: Target of the images and targets.
            options: Further arguments of `Tensor.to` for the images (memory_format).
        """
        targets = [
            {name: _to_device(value, device) for name, value in target.items()}
            for target in self.targets
        ]
        return replace(
            self, images=self.images.to(device, non_blocking=True, **options), targets=targets
        ).normalized()

    def pin_memory(self) -> Batch:
        """Return the batch with its images in page-locked memory, which a GPU reads on its own.

        A DataLoader calls it by this name.
        """
        return replace(self, images=self.images.pin_memory())

    def normalized(self) -> Batch:
        """Return the batch with the normalization of `spec` applied, if it is still to be done."""
        if self.spec is None:
            return self
        normalize = self.spec.normalize
        targets = [
            {
                name: normalize(value) if name in VIEW_KEYS else value
                for name, value in target.items()
            }
            for target in self.targets
        ]
        return replace(self, images=normalize(self.images), targets=targets, spec=None)


def _to_device(value: Any, device: Any) -> Any:
    return value.to(device, non_blocking=True) if hasattr(value, "to") else value


@dataclass
class Features:
    """The output of a backbone; only what was requested is set. Shapes as in `Provides`."""

    pooled: Tensor | None = None
    maps: list[Tensor] = field(default_factory=list)
    tokens: Tensor | None = None
    native: Any = None

    def of_image(self, index: int) -> Features:
        """Return the features of one image, as a batch of one, without `native`."""
        part = slice(index, index + 1)
        return Features(
            pooled=None if self.pooled is None else self.pooled[part],
            maps=[level[part] for level in self.maps],
            tokens=None if self.tokens is None else self.tokens[part],
        )


@dataclass(frozen=True)
class Score:
    """A metric value and its uncertainty.

    Attributes:
        value: The estimate.
        low: Lower end of the 95 % interval, if one was computed.
        high: Upper end of it.
        count: Number of images (or boxes) that it is computed from.
        groups: Number of groups that the images belong to (patients, videos, near-copies), over
            which the interval was computed; 0 where every image is on its own.
        no_interval: Why there is no interval; None also for scores of a kind that has none.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0
    groups: int = 0
    no_interval: NoInterval | None = None

    @property
    def with_interval(self) -> str:
        """The value and, if there is one, its interval: "0.912 [0.880, 0.937]"."""
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def signed(self) -> str:
        """A difference and, if there is one, its interval: "+0.012 [-0.003, +0.027]"."""
        if self.low is None or self.high is None:
            return f"{self.value:+.3f}"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    def __str__(self) -> str:
        of_groups = f" of {counted(self.groups, 'group', 'groups')}" if self.groups else ""
        why = f"; {NoInterval(self.no_interval).message}" if self.no_interval else ""
        images = f"{self.count} images" if self.groups else str(self.count)
        return f"{self.with_interval} (n = {images}{of_groups}{why})"


_UNBALANCED = 0.6  # share of the most frequent class, from which accuracy alone misleads


@dataclass(frozen=True)
class Scores:
    """Everything that a metric computed.

    Attributes:
        numbers: Scores by metric name, the main one first.
        per_class: One row per class.
        tables: Larger results, JSON-able (the confusion matrix).
        as_percent: Whether the main score reads as a percentage.
    """

    numbers: dict[str, Score]
    per_class: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)
    as_percent: bool = True

    @property
    def main(self) -> str:
        """Name of the main score."""
        return next(iter(self.numbers))

    @property
    def headline(self) -> str:
        """Name of the score to show first: one that a single answer to all images cannot reach.

        That is the main score, or the balanced accuracy where most images are of one class.
        """
        majority = self.numbers.get("majority_accuracy")
        is_unbalanced = majority is not None and majority.value >= _UNBALANCED
        return "balanced_accuracy" if is_unbalanced else self.main
