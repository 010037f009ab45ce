"""Predictions, by type of task; a target is a prediction without scores.

Letters: K classes of a run, in the order of classes.json; N objects; H, W size of the upright
original; (x0, y0, x1, y1) corners in its pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from foveate.messages import Message
from foveate.utils.rle import RLE, encode_rle

IGNORE_INDEX = -1
"""The class index of pixels that are neither trained on nor scored."""


class NoInterval(StrEnum):
    """Why a score has no interval, although scores of its kind have one."""

    FEW_IMAGES = "few_images"
    FEW_GROUPS = "few_groups"
    RARE_CLASS = "rare_class"
    CONSTANT = "constant"

    @property
    def message(self) -> Message:
        """The reason as a clause."""
        return _NO_INTERVAL[self]


_NO_INTERVAL = {
    NoInterval.FEW_IMAGES: Message(
        "report.no_interval_few_images", "no interval: too few images to tell how much they vary"
    ),
    NoInterval.FEW_GROUPS: Message(
        "report.no_interval_few_groups", "no interval: too few groups to tell how much they vary"
    ),
    NoInterval.RARE_CLASS: Message(
        "report.no_interval_rare_class",
        "no interval: a class is in too few images or groups to tell how much it varies",
    ),
    NoInterval.CONSTANT: Message(
        "report.no_interval_constant", "no interval: the images do not differ in it"
    ),
}


@dataclass(frozen=True)
class Labels:
    """The class of an image, or its classes.

    Attributes:
        names: Class names; one, or any number for multi-label data.
        scores: (K,) float32 in [0, 1], the probability of each class; None in a target.
        uncertainty: What the validation images tell about this prediction, if calibrated.
        dropped_text: How to report images that `in_classes` drops.
    """

    names: tuple[str, ...]
    scores: np.ndarray | None = None
    uncertainty: Uncertainty | None = None
    dropped_text: ClassVar[str] = "{count:image|images} left out"

    def in_classes(
        self, theirs: tuple[str, ...], ours: tuple[str, ...]
    ) -> tuple[Labels | None, int]:
        """Convert a target of other data to the classes of a run, which are matched by name.

        Args:
            theirs: Classes of the other data.
            ours: Classes of the run.

        Returns:
            The target, None if nothing is left of it; and how much was dropped for unknown classes.
        """
        known = set(self.names) <= set(ours)
        return (self, 0) if known else (None, 1)

    def row(self, classes: tuple[str, ...], multilabel: bool) -> dict[str, Any]:
        """Return a JSON-able row: the class with its confidence, or all classes; all scores."""
        scores = (
            {} if self.scores is None else dict(zip(classes, map(float, self.scores), strict=True))
        )
        if multilabel:
            return {"prediction": list(self.names), "scores": scores}
        uncertainty = {} if self.uncertainty is None else self.uncertainty.row()
        return {
            "prediction": self.names[0],
            "confidence": scores.get(self.names[0]),
            "scores": scores,
            **uncertainty,
        }


@dataclass(frozen=True)
class Uncertainty:
    """The calibrated uncertainty of a classification.

    The label is the most probable class, the set holds it and every other class that cannot be
    ruled out at the requested coverage, and a prediction abstains where its confidence is too low
    for the requested risk or where the image is odder than nearly all validation images, in which
    case the set holds all classes.

    Attributes:
        prediction_set: Classes that contain the true one with the requested coverage; never empty.
        abstain: Whether the label should not be relied on.
        residual: Share of the image's features, in [0, 1], outside the subspace that the training
            images span.
        ood_percentile: Share of the validation images with a smaller residual, in [0, 1].
    """

    prediction_set: tuple[str, ...]
    abstain: bool
    residual: float
    ood_percentile: float

    def row(self) -> dict[str, Any]:
        """Return the JSON-able part of a row of predictions."""
        return {
            "prediction_set": list(self.prediction_set),
            "abstain": self.abstain,
            "ood": self.ood_percentile,
        }


@dataclass(frozen=True)
class Boxes:
    """The objects in an image.

    Attributes:
        xyxy: (N, 4) float32, corners in pixels of the upright original, x0 <= x1 and y0 <= y1.
        names: N class names.
        scores: (N,) float32 in [0, 1]; None in a target.
        crowd: (N,) bool, COCO's iscrowd: boxes around a group, ignored when matching.
        masks: N masks of the size of the original; None if only boxes are known.
        keypoints: N arrays (P, 3) float32 of P points: x and y in pixels of the upright original,
            and whether the point is not labeled (0), hidden (1) or visible (2). P depends on the
            class, and is 0 for an object without points. None if no object has points. They are
            kept for `foveate convert`; training and scores do not use them.
        dropped_text: How to report boxes that `in_classes` drops.
    """

    xyxy: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None
    masks: tuple[RLE, ...] | None = None
    keypoints: tuple[np.ndarray, ...] | None = None
    dropped_text: ClassVar[str] = "{count:box|boxes} left out"

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """Return a JSON-able row: the objects, by descending score."""
        rows: list[dict[str, Any]] = [
            {"name": name, "xyxy": list(map(float, box))}
            for name, box in zip(self.names, self.xyxy, strict=True)
        ]
        for key, values in (("score", self.scores), ("crowd", self.crowd)):
            for row, value in zip(rows, [] if values is None else values.tolist(), strict=False):
                row[key] = value
        for row, mask in zip(rows, self.masks or (), strict=False):
            row["mask"] = mask
        return {"prediction": rows}

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Boxes, int]:
        """Convert a target to the classes of a run, as for Labels: unknown classes are dropped."""
        known = np.array([name in ours for name in self.names], dtype=bool)
        return self.select(known), int((~known).sum())

    def select(self, kept: np.ndarray) -> Boxes:
        """Return some of the objects. `kept`: (N,) bool."""
        names, masks, points = np.array(self.names, dtype=object), self.masks, self.keypoints
        indices = np.flatnonzero(kept)
        return Boxes(
            xyxy=self.xyxy[kept],
            names=tuple(names[kept]),
            scores=None if self.scores is None else self.scores[kept],
            crowd=None if self.crowd is None else self.crowd[kept],
            masks=None if masks is None else tuple(masks[i] for i in indices),
            keypoints=None if points is None else tuple(points[i] for i in indices),
        )


@dataclass(frozen=True)
class Regions:
    """A class for every pixel.

    Attributes:
        source: (H, W) integers, class indices at the size of the original, or IGNORE_INDEX; or a
            function that reads them, because the masks of a large dataset do not fit into memory.
        dropped_text: How to report classes that `in_classes` drops.
    """

    source: np.ndarray | Callable[[], np.ndarray]
    dropped_text: ClassVar[str] = "pixels of other classes are ignored"

    @property
    def mask(self) -> np.ndarray:
        """(H, W) integers. Raises BrokenImage if it has to be read and cannot be."""
        return self.source() if callable(self.source) else self.source

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Regions, int]:
        """Convert a target to the classes of a run: pixels of unknown classes are ignored.

        What is counted are unknown classes, not pixels: the mask is not read.
        """
        indices = [ours.index(name) if name in ours else IGNORE_INDEX for name in theirs]
        return Regions(partial(_remapped, self, tuple(indices))), indices.count(IGNORE_INDEX)

    def compressed(self) -> Regions:
        """Return the same regions, compressed until read: some kilobytes for a megapixel."""
        mask = self.mask
        packed = zlib.compress(mask.tobytes(), 1)
        return Regions(partial(_decompressed, packed, mask.shape, mask.dtype.str))

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """Return a JSON-able row: each class that occurs, with COCO's compressed run lengths."""
        mask = self.mask
        runs = {name: encode_rle(mask == index) for index, name in enumerate(classes)}
        return {"prediction": {name: run for name, run in runs.items() if run is not None}}


def _remapped(regions: Regions, indices: tuple[int, ...]) -> np.ndarray:
    """Read a mask and replace each class index by the one at its position in `indices`."""
    mask = regions.mask
    return np.where(mask >= 0, np.array(indices)[mask.clip(min=0)], mask)


def _decompressed(content: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(content), dtype=dtype).reshape(shape)


@dataclass(frozen=True)
class Text:
    """Text about an image.

    Attributes:
        sentences: One sentence; several in a target are alternatives.
        score: Geometric mean of the token probabilities, in [0, 1]; None in a target.
        tokens: The T pieces that were generated one after the other.
        attention_maps: (T, h, w) float16 over the upright image: the attention while each token
            was generated.
        dropped_text: How to report images that `in_classes` drops.
    """

    sentences: tuple[str, ...]
    score: float | None = None
    tokens: tuple[str, ...] = ()
    attention_maps: np.ndarray | None = None
    dropped_text: ClassVar[str] = "{count:image|images} left out"

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Text, int]:
        """Return the target itself: text has no classes."""
        return self, 0

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """Return a JSON-able row: the sentence or sentences, and the confidence."""
        text = self.sentences[0] if len(self.sentences) == 1 else list(self.sentences)
        confidence = {} if self.score is None else {"confidence": self.score}
        return {"prediction": text, **confidence}


@dataclass(frozen=True)
class Number:
    """A number for an image, such as an age or a count.

    Attributes:
        value: The number, in the unit of the data.
        low: Lower end of the prediction interval; None in a target, and without an interval.
        high: Upper end of it.
        dropped_text: How to report images that `in_classes` drops.
    """

    value: float
    low: float | None = None
    high: float | None = None
    dropped_text: ClassVar[str] = "{count:image|images} left out"

    @property
    def with_interval(self) -> str:
        """The value and, if there is one, its interval: "31.5 [24.0, 39.0]"."""
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Number, int]:
        """Return the target itself: a number has no classes."""
        return self, 0

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """Return a JSON-able row: the number, and the ends of its interval if it has one."""
        if self.low is None or self.high is None:
            return {"prediction": self.value}
        return {"prediction": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class ImagePrediction:
    """An image as a prediction; or as its own target.

    Attributes:
        pixels: (H, W, 3) uint8; None in a target, whose pixels are in the image file.
        dropped_text: How to report images that `in_classes` drops.
    """

    pixels: np.ndarray | None = None
    dropped_text: ClassVar[str] = "{count:image|images} left out"

    def in_classes(
        self, theirs: tuple[str, ...], ours: tuple[str, ...]
    ) -> tuple[ImagePrediction, int]:
        """Return the target itself: it has no classes."""
        return self, 0

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """Return an empty row: the pixels are written to a file."""
        return {"prediction": None}


@dataclass(frozen=True)
class DenoisingResult:
    """How well a denoiser predicted the noise of an image.

    Attributes:
        explained: Explained share of the noise: 1 for all, below 0 for worse than predicting none.
    """

    explained: float

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """Return a JSON-able row."""
        return {"prediction": self.explained}


@dataclass(frozen=True)
class Embedding:
    """The position of an image in feature space.

    Attributes:
        vector: (D,) float32, the pooled features of a backbone.
    """

    vector: np.ndarray

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """Return a JSON-able row."""
        return {"prediction": self.vector.tolist()}


Prediction = Labels | Boxes | Regions | Text | Number | ImagePrediction | DenoisingResult


@dataclass(frozen=True)
class ImageResult:
    """The prediction for an image, or the reason why there is none.

    Attributes:
        path: The image, as the user named it.
        prediction: A `Prediction` or an `Embedding`; None if the image cannot be read.
        error: Why there is no prediction.
        classes: Classes of the run.
        multilabel: Whether an image may have several classes, or none.
        model: The name of the run or exported file that predicted.
        stated: The class that the data state, where the prediction is a suggestion to review.
        content: Returns what the decoder reads, of an image that is no file of its own, such as a
            slice of a volume.
    """

    path: str
    prediction: Any = None
    error: str | None = None
    classes: tuple[str, ...] = ()
    multilabel: bool = False
    model: str = ""
    stated: str = ""
    content: Callable[[], Path | bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def source(self) -> Path | bytes:
        """What the decoder reads of the image."""
        return Path(self.path) if self.content is None else self.content()

    def row(self) -> dict[str, Any]:
        """Return a JSON-able row: path and prediction, or path and error."""
        if self.prediction is None:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, **self.prediction.row(self.classes, self.multilabel)}
