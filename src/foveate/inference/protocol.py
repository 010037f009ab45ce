"""What runs and exported files have in common: images in, predictions out.

Imports no torch: an exported file predicts where there is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from foveate.data.channel_files import stack_channels
from foveate.errors import BrokenImage
from foveate.evaluation.calibration import COVERAGE, RISK
from foveate.images.jpeg import ends_early
from foveate.images.pixels import Rendering
from foveate.predictions import ImageResult
from foveate.types import Sample, StoredImage
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
    """Consecutive images that are predicted together; the same image is decoded once."""

    samples: list[Sample] = field(default_factory=list)
    images: dict[Path | StoredImage, Decoded] = field(default_factory=dict)
    errors: dict[Path | StoredImage, str] = field(default_factory=dict)

    def is_full(self, max_images: int) -> bool:
        waiting = sum(image.nbytes for image in self.images.values())
        return len(self.samples) >= max_images or waiting >= _MAX_WAITING


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
        rendering: How bands and values beyond 8 bits become channels.
        has_channel_files: Whether it learned from images whose channels are files of their own.
    """

    name: str
    classes: tuple[str, ...]
    multilabel: bool
    threshold: float
    coverage: float = COVERAGE
    risk: float = RISK
    rendering: Rendering
    has_channel_files: bool = False

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

    def join_channels(self, samples: Iterable[Sample]) -> list[Sample]:
        """Return the images that files are: where the model learned from images whose channels are
        files of their own (CASE_0000.png, CASE_0001.png), these are one image here, too.
        """
        return stack_channels(samples) if self.has_channel_files else list(samples)

    def predict(
        self, images: Iterable[PathLike | Sample], *, strict: bool = False, batch_size: int = 32
    ) -> Iterator[ImageResult]:
        """Predict for images, in order, a batch at a time.

        Args:
            images: Image files, or images as `find_samples_at` finds them.
            strict: Raise the error of an unreadable image instead of returning it as its result.
            batch_size: Images that are decoded and predicted together; fewer if they are large.

        Raises:
            BrokenImage: `strict`, and an image cannot be decoded.
        """
        for chunk in self._chunks(map(_as_sample, images), strict, batch_size):
            predictions = self.predict_decoded(list(chunk.images.values()))
            by_path = dict(zip(chunk.images, predictions, strict=True))
            for sample in chunk.samples:
                path = sample.path
                yield ImageResult(
                    sample.key,
                    by_path.get(path),
                    chunk.errors.get(path),
                    self.classes,
                    self.multilabel,
                    self.name,
                    content=path.content if isinstance(path, StoredImage) else None,
                )

    def _chunks(
        self, samples: Iterable[Sample], strict: bool, batch_size: int
    ) -> Iterator[_Chunk[Decoded]]:
        chunk = _Chunk[Decoded]()
        for sample in samples:
            chunk.samples.append(sample)
            path = sample.path
            if path not in chunk.images and path not in chunk.errors:
                try:
                    source = sample.source
                    chunk.images[path] = self.decode(source)
                    if ends_early(source):
                        log.warning(f"{sample.key} ends early: its lowest rows are missing")
                except BrokenImage as error:
                    if strict:
                        raise
                    chunk.errors[path] = error.brief
            if chunk.is_full(batch_size):
                yield chunk
                chunk = _Chunk()
        if chunk.samples:
            yield chunk


def _as_sample(image: PathLike | Sample) -> Sample:
    return image if isinstance(image, Sample) else Sample(Path(image), printable(Path(image)))
