"""What runs and exported files have in common: images in, predictions out.

Imports no torch: an exported file predicts where there is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from foveate.errors import BrokenImage
from foveate.evaluation.calibration import COVERAGE, RISK
from foveate.images.jpeg import ends_early
from foveate.predictions import ImageResult
from foveate.utils import log
from foveate.utils.paths import PathLike, printable

# bytes of decoded images that wait for a batch; those to be cut into tiles stay whole until then
_MAX_WAITING = 2**28


class InMemory(Protocol):
    """Something decoded whose size in memory is known."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""


Decoded = TypeVar("Decoded", bound=InMemory)


@dataclass
class _Chunk(Generic[Decoded]):
    """Consecutive images that are predicted together; the same file is decoded once."""

    paths: list[Path] = field(default_factory=list)
    images: dict[Path, Decoded] = field(default_factory=dict)
    errors: dict[Path, str] = field(default_factory=dict)

    def is_full(self, max_images: int) -> bool:
        waiting = sum(image.nbytes for image in self.images.values())
        return len(self.paths) >= max_images or waiting >= _MAX_WAITING


class ImagePredictor(ABC, Generic[Decoded]):
    """A trained model that predicts from image files.

    `decode` may be called by several threads at once, `predict_decoded` by one.

    Attributes:
        name: That of the run folder, or of the exported file.
        classes: Class names, in the order of the scores.
        multilabel: Whether an image may have several classes, or none.
        threshold: Score below which predicted boxes are dropped; the best one on the validation
            images of the run.
        coverage: Probability with which the set of classes contains the true class, or the
            interval the true number.
        risk: Highest accepted error rate; less certain predictions abstain. Both take effect
            where the run was calibrated.
    """

    name: str
    classes: tuple[str, ...]
    multilabel: bool
    threshold: float
    coverage: float = COVERAGE
    risk: float = RISK

    @property
    @abstractmethod
    def info(self) -> dict[str, Any]:
        """`task`, `backbone`, `license` (of the weights) and `precision`, as JSON values."""

    @abstractmethod
    def decode(self, source: Path | bytes) -> Decoded:
        """Decode and preprocess an image file or its content.

        Raises:
            BrokenImage: The image cannot be decoded.
        """

    @abstractmethod
    def predict_decoded(self, images: Sequence[Decoded]) -> list[Any]:
        """Return the prediction of each image that `decode` returned."""

    def predict(
        self, paths: Iterable[PathLike], *, strict: bool = False, batch_size: int = 32
    ) -> Iterator[ImageResult]:
        """Predict for image files, in order, a batch at a time.

        Args:
            paths: Image files.
            strict: Raise the error of an unreadable image instead of returning it as its result.
            batch_size: Images that are decoded and predicted together; fewer if they are large.

        Raises:
            BrokenImage: `strict`, and an image cannot be decoded.
        """
        for chunk in self._chunks(map(Path, paths), strict, batch_size):
            predictions = self.predict_decoded(list(chunk.images.values()))
            by_path = dict(zip(chunk.images, predictions, strict=True))
            for path in chunk.paths:
                yield ImageResult(
                    printable(path),
                    by_path.get(path),
                    chunk.errors.get(path),
                    self.classes,
                    self.multilabel,
                    self.name,
                )

    def _chunks(
        self, paths: Iterable[Path], strict: bool, batch_size: int
    ) -> Iterator[_Chunk[Decoded]]:
        chunk = _Chunk[Decoded]()
        for path in paths:
            chunk.paths.append(path)
            if path not in chunk.images and path not in chunk.errors:
                try:
                    chunk.images[path] = self.decode(path)
                    if ends_early(path):
                        log.warning(f"{printable(path)} ends early: its lowest rows are missing")
                except BrokenImage as error:
                    if strict:
                        raise
                    chunk.errors[path] = error.brief
            if chunk.is_full(batch_size):
                yield chunk
                chunk = _Chunk()
        if chunk.paths:
            yield chunk
