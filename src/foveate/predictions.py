"""TODO-DOC foveate.predictions."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from foveate.utils.rle import Runs


@dataclass(frozen=True)
class Labels:
    """Classes of a whole image, by name.

    `names`: the classes that hold (one, or any number for multi-label). `scores`: (K,) float32 in [0, 1], the probability of
    each of the run's classes in the order of classes.json; None in a truth. `sure`: what validation images say of
    this answer.
    """

    names: tuple[str, ...]
    scores: np.ndarray | None = None
    uncertainty: Uncertainty | None = None
    dropped_text: ClassVar[str] = "{} images left out"

    def in_classes(
        self, theirs: tuple[str, ...], ours: tuple[str, ...]
    ) -> tuple[Labels | None, int]:
        """A truth of other data in the classes of a run, matched by name, and how much of it was of unknown ones, which `left_out`
        puts in words; None where nothing is left."""
        known = set(self.names) <= set(ours)
        return (self, 0) if known else (None, 1)

    def row(self, classes: tuple[str, ...], multilabel: bool) -> dict[str, Any]:
        """JSON-able: one answer and its confidence, or all answers; with the score of every class."""
        scores = (
            {} if self.scores is None else dict(zip(classes, map(float, self.scores), strict=True))
        )
        if multilabel:
            return {"answer": list(self.names), "scores": scores}
        sure = {} if self.uncertainty is None else self.uncertainty.row()
        return {
            "answer": self.names[0],
            "confidence": scores.get(self.names[0]),
            "scores": scores,
            **sure,
        }


@dataclass(frozen=True)
class Uncertainty:
    """`among`: the classes of which the true one is one, with the chance that was asked. `abstain`: whether the confidence is too
    low to answer at the risk that was asked. `outside`: the share of the image's features, in [0, 1], that lies in no direction of
    the training images', and `odd` the share of validation images of which less did."""

    prediction_set: tuple[str, ...]
    abstain: bool
    residual: float
    ood_percentile: float

    def row(self) -> dict[str, Any]:
        return {"set": list(self.prediction_set), "abstain": self.abstain, "ood": self.ood_percentile}


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
    dropped_text: ClassVar[str] = "{} boxes left out"

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """JSON-able: an object a box, in pixels, the surest first."""
        pairs = zip(self.names, self.xyxy, strict=True)
        rows: list[dict[str, Any]] = [
            {"name": name, "xyxy": list(map(float, box))} for name, box in pairs
        ]
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
        return self.select(known), int((~known).sum())

    def select(self, kept: np.ndarray) -> Boxes:
        """Some of the boxes; `kept`: (N,) bool."""
        scores, crowd = (
            None if values is None else values[kept] for values in (self.scores, self.crowd)
        )
        names = tuple(name for name, keep in zip(self.names, kept, strict=True) if keep)
        masks = (
            None
            if self.masks is None
            else tuple(mask for mask, keep in zip(self.masks, kept, strict=True) if keep)
        )
        return Boxes(self.xyxy[kept], names, scores, crowd, masks)


@dataclass(frozen=True)
class Regions:
    """A class for every pixel. `stored`: (H, W) integers, places in the run's classes at the original size, -1 where nobody
    cares; or a function that reads them, because the masks of a large data set do not fit into memory."""

    source: np.ndarray | Callable[[], np.ndarray]
    dropped_text: ClassVar[str] = "pixels of other classes do not count"

    @property
    def mask(self) -> np.ndarray:
        """(H, W) integers. Raises BrokenImage when it has to be read and cannot be."""
        return self.source() if callable(self.source) else self.source

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Regions, int]:
        """As for Labels: pixels of unknown classes are IGNORED. Counted are the classes, for the mask is not read."""
        places = [ours.index(name) if name in ours else IGNORE_INDEX for name in theirs]
        return Regions(partial(_renumbered, self, tuple(places))), places.count(IGNORE_INDEX)

    def compressed(self) -> Regions:
        """The same, compressed until it is read: some kilobytes for a picture of a megapixel."""
        mask = self.mask
        return Regions(
            partial(_unpacked, zlib.compress(mask.tobytes(), 1), mask.shape, mask.dtype.str)
        )

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
    tokens: tuple[str, ...] = ()
    attention_maps: np.ndarray | None = None
    dropped_text: ClassVar[str] = "{} images left out"

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[Text, int]:
        """As for Labels; sentences name no classes."""
        return self, 0

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """JSON-able: the sentence, or all of them, and how sure it is."""
        answer = self.sentences[0] if len(self.sentences) == 1 else list(self.sentences)
        return (
            {"answer": answer}
            if self.score is None
            else {"answer": answer, "confidence": self.score}
        )


@dataclass(frozen=True)
class ImagePrediction:
    """An image as an answer, or as its own truth: then `pixels` is None, for the file has them. `pixels`: (H, W, 3) uint8."""

    pixels: np.ndarray | None = None
    dropped_text: ClassVar[str] = "{} images left out"

    def in_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> tuple[ImagePrediction, int]:
        """As for Labels; pictures name no classes."""
        return self, 0

    def row(self, classes: tuple[str, ...], multilabel: bool = False) -> dict[str, Any]:
        """There is nothing to say."""
        return {"answer": None}


@dataclass(frozen=True)
class DenoisingResult:
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


Prediction = Labels | Boxes | Regions | Text | ImagePrediction | DenoisingResult


@dataclass(frozen=True)
class ImageResult:
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


IGNORE_INDEX = -1
"""The class of pixels that nobody cares about."""
