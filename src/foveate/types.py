"""Every shape that travels through the house, stated once.

Letters: B images in a batch, C channels, H height, W width, N tokens (or boxes), D width of a feature, K classes.

A truth and a prediction are the same type: a truth is a prediction without scores. A metric compares the two.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from foveate.utils.rle import Runs

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
class Labels:
    """Classes of a whole image, by name.

    `names`: the classes that hold (one, or any number for multi-label). `scores`: (K,) float32 in [0, 1], the probability of
    each of the run's classes in the order of classes.json; None in a truth. `sure`: what validation images say of
    this answer.
    """

    names: tuple[str, ...]
    scores: np.ndarray | None = None
    sure: Sureness | None = None
    left_out: ClassVar[str] = "{} images left out"

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Labels | None, int]:
        """A truth of other data in the classes of a run, matched by name, and how much of it was of unknown ones, which `left_out`
        puts in words; None where nothing is left."""
        known = set(self.names) <= set(ours)
        return (self, 0) if known else (None, 1)

    def row(self, classes: tuple[str, ...], multilabel: bool) -> dict[str, Any]:
        """JSON-able: one answer and its confidence, or all answers; with the score of every class."""
        scores = {} if self.scores is None else dict(zip(classes, map(float, self.scores), strict=True))
        if multilabel:
            return {"answer": list(self.names), "scores": scores}
        sure = {} if self.sure is None else self.sure.row()
        return {"answer": self.names[0], "confidence": scores.get(self.names[0]), "scores": scores, **sure}


@dataclass(frozen=True)
class Sureness:
    """`among`: the classes of which the true one is one, with the chance that was asked. `abstain`: whether the confidence is too
    low to answer at the risk that was asked. `outside`: the share of the image's features, in [0, 1], that lies in no direction of
    the training images', and `odd` the share of validation images of which less did."""

    among: tuple[str, ...]
    abstain: bool
    outside: float
    odd: float

    def row(self) -> dict[str, Any]:
        return {"set": list(self.among), "abstain": self.abstain, "ood": self.odd}


@dataclass(frozen=True)
class Boxes:
    """Objects in an image. `xyxy`: (N, 4) float32, pixels of the upright original picture, x0 <= x1 and y0 <= y1.

    `names`: (N) class names. `scores`: (N,) float32 in [0, 1], None in a truth. `crowd`: (N,) bool, boxes round a group, which
    no answer has to find and none is blamed for. `masks`: N masks of the size of that picture, None where only boxes are known.
    """

    xyxy: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None
    masks: tuple[Runs, ...] | None = None
    left_out: ClassVar[str] = "{} boxes left out"

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """JSON-able: an object a box, in pixels, the surest first."""
        pairs = zip(self.names, self.xyxy, strict=True)
        rows: list[dict[str, Any]] = [{"name": name, "xyxy": list(map(float, box))} for name, box in pairs]
        for field_, values in (("score", self.scores), ("crowd", self.crowd)):
            for row, value in zip(rows, [] if values is None else values.tolist(), strict=False):
                row[field_] = value
        for row, mask in zip(rows, self.masks or (), strict=False):
            row["mask"] = mask
        return {"answer": rows}

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Boxes, int]:
        """As for Labels: without the boxes of unknown classes."""
        import numpy as np

        known = np.array([name in ours for name in self.names], dtype=bool)
        return self.chosen(known), int((~known).sum())

    def chosen(self, kept: np.ndarray) -> Boxes:
        """Some of the boxes; `kept`: (N,) bool."""
        scores, crowd = (None if values is None else values[kept] for values in (self.scores, self.crowd))
        names = tuple(name for name, keep in zip(self.names, kept, strict=True) if keep)
        masks = None if self.masks is None else tuple(mask for mask, keep in zip(self.masks, kept, strict=True) if keep)
        return Boxes(self.xyxy[kept], names, scores, crowd, masks)


@dataclass(frozen=True)
class Regions:
    """A class for every pixel. `stored`: (H, W) integers, places in the run's classes at the original size, -1 where nobody
    cares; or a function that reads them, because the masks of a large data set do not fit into memory."""

    stored: np.ndarray | Callable[[], np.ndarray]
    left_out: ClassVar[str] = "pixels of other classes do not count"

    @property
    def mask(self) -> np.ndarray:
        """(H, W) integers. Raises BrokenImage when it has to be read and cannot be."""
        return self.stored() if callable(self.stored) else self.stored

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Regions, int]:
        """As for Labels: pixels of unknown classes are IGNORED. Counted are the classes, for the mask is not read."""
        places = [ours.index(name) if name in ours else IGNORED for name in theirs]
        return Regions(partial(_renumbered, self, tuple(places))), places.count(IGNORED)

    def packed(self) -> Regions:
        """The same, compressed until it is read: some kilobytes for a picture of a megapixel."""
        mask = self.mask
        return Regions(partial(_unpacked, zlib.compress(mask.tobytes(), 1), mask.shape, mask.dtype.str))

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """JSON-able: class -> its pixels as run lengths in COCO's compressed form; classes without a pixel are left out."""
        from foveate.utils.rle import encoded

        mask = self.mask
        found = {name: encoded(mask == place) for place, name in enumerate(classes)}
        return {"answer": {name: runs for name, runs in found.items() if runs is not None}}


def _renumbered(regions: Regions, places: tuple[int, ...]) -> np.ndarray:
    """The mask with each class at its new place."""
    import numpy as np

    mask = regions.mask
    return np.where(mask >= 0, np.array(places)[mask.clip(min=0)], mask)


def _unpacked(content: bytes, shape: tuple[int, ...], kind: str) -> np.ndarray:
    import numpy as np

    return np.frombuffer(zlib.decompress(content), dtype=kind).reshape(shape)


@dataclass(frozen=True)
class Text:
    """Sentences about an image; several in a truth are alternatives.

    Of an answer: `score`, in [0, 1], the geometric mean of its words' probabilities; `words`, the T pieces that were written one
    after the other, and `looks`, (T, h, w) float16 over the upright picture, where the network looked before it wrote each.
    """

    sentences: tuple[str, ...]
    score: float | None = None
    words: tuple[str, ...] = ()
    looks: np.ndarray | None = None
    left_out: ClassVar[str] = "{} images left out"

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Text, int]:
        """As for Labels; sentences name no classes."""
        return self, 0

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """JSON-able: the sentence, or all of them, and how sure it is."""
        answer = self.sentences[0] if len(self.sentences) == 1 else list(self.sentences)
        return {"answer": answer} if self.score is None else {"answer": answer, "confidence": self.score}


@dataclass(frozen=True)
class Picture:
    """An image as an answer, or as its own truth: then `pixels` is None, for the file has them. `pixels`: (H, W, 3) uint8."""

    pixels: np.ndarray | None = None
    left_out: ClassVar[str] = "{} images left out"

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Picture, int]:
        """As for Labels; pictures name no classes."""
        return self, 0

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """There is nothing to say."""
        return {"answer": None}


@dataclass(frozen=True)
class Denoised:
    """How well noise was taken off an image: the share of it that was told from the picture, 1 for all, below 0 for worse than
    saying nothing."""

    explained: float

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        return {"answer": self.explained}


@dataclass(frozen=True)
class Embedding:
    """Where an image lies among others: a backbone's pooled vector, (D,) float32."""

    vector: np.ndarray

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """JSON-able."""
        return {"answer": self.vector.tolist()}


Prediction = Labels | Boxes | Regions | Text | Picture | Denoised


@dataclass(frozen=True)
class Answer:
    """One picture's answer, or the reason why there is none."""

    path: str
    prediction: Any = None
    error: str | None = None
    classes: tuple[str, ...] = ()
    multilabel: bool = False

    def row(self) -> dict[str, Any]:
        """JSON-able: path, answer, confidence, scores; or path and error."""
        if self.prediction is None:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, **self.prediction.row(self.classes, self.multilabel)}


@dataclass(frozen=True)
class Sample:
    """One image on disk and what is known about it.

    `key` names it in reports and saved predictions: the path relative to the data's root, with forward slashes.
    `group`: images that belong together (a patient, a video); a split never divides a group.
    """

    path: Path
    key: str
    truth: Prediction | None = None
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

    def of(self, split: Split) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.split == split)

    def with_samples(self, samples: tuple[Sample, ...]) -> Table:
        return replace(self, samples=samples)

    def with_classes(self, classes: tuple[str, ...]) -> Table:
        return replace(self, classes=classes)


VIEWS = ("wide", "narrow")  # entries of a target that are views of the image: (V, 3, s, s), in the same form as it


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to see. `size`: the square's side in pixels. `mean`, `std`: per RGB channel, of pixels in [0, 1]."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def seen(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 -> float32, normalised, laid out in memory as it was."""
        found = images.float()
        mean, std = (found.new_tensor(each).view(3, 1, 1) for each in (self.mean, self.std))
        # one after the other where they stay in a processor's caches; a GPU is better off with all at once
        for part in found if found.device.type == "cpu" and found.ndim > 3 else (found,):
            part.mul_(1 / 255).sub_(mean).div_(std)
        return found


Target = dict[str, Any]
"""A truth as tensors: {'labels': (K,) float32}, or {'boxes': tv_tensors.BoundingBoxes (N, 4), 'classes': (N,) int64, 'crowd':
(N,) bool} and perhaps 'masks': transforms.ObjectMasks (N, H, W) uint8, or {'mask': tv_tensors.Mask (H, W) int64}, or what else
a task encodes."""

OF_OBJECTS = frozenset({"boxes", "classes", "crowd", "masks"})
"""The entries of a target with a row for each object: an object that leaves the picture leaves all of them."""

IGNORED = -1
"""The class of pixels that nobody cares about."""


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
    targets: list[Target]
    views: Tensor
    sizes: Tensor
    indices: Tensor
    spec: InputSpec | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def part(self, cut: slice) -> Batch:
        """Some of the images."""
        parts: dict[str, Any] = {name: getattr(self, name)[cut] for name in ("images", "targets", "views", "sizes", "indices")}
        return replace(self, **parts)

    def to(self, device: Any, **options: Any) -> Batch:
        """The same batch elsewhere, ready for the network; `options` (memory_format) go to the images."""
        targets = [{name: _moved(value, device) for name, value in target.items()} for target in self.targets]
        return replace(self, images=self.images.to(device, non_blocking=True, **options), targets=targets).ready()

    def pin_memory(self) -> Batch:
        """The same batch with images in memory that a GPU reads by itself, while the program goes on; a DataLoader asks for it."""
        return replace(self, images=self.images.pin_memory())

    def ready(self) -> Batch:
        """The same batch where it is, with images as the network wants them."""
        if self.spec is None:
            return self
        seen = self.spec.seen
        targets = [{name: seen(value) if name in VIEWS else value for name, value in target.items()} for target in self.targets]
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

    def one(self, place: int) -> Features:
        """Of one image of the batch, which stays one; without what is `native`."""
        pooled, tokens = (None if each is None else each[place : place + 1] for each in (self.pooled, self.tokens))
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
    share: bool = True

    @property
    def main(self) -> str:
        return next(iter(self.numbers))
