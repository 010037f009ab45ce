"""An exported file made ready: pictures in, answers out. Needs NumPy, Pillow and the file's runtime, and no torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from foveate.deploy.postprocess import (
    POSTPROCESSORS,
    Frame,
    PostProcessor,
    PredictOptions,
    SpatialPostProcessor,
)
from foveate.deploy.targets import LoadedProgram, Runtime, exporter_of
from foveate.errors import BrokenImage, UsageError, WeightsError
from foveate.evaluation.calibration import COVERAGE, RISK
from foveate.images import codec as images
from foveate.images.preprocessing import Framing, resized_sides, tile_corners, to_square, view_of
from foveate.predictions import ImageResult
from foveate.utils.paths import printable

FORMAT = 1  # of what a file says about itself
_AT_ONCE = 32  # squares


@dataclass(frozen=True)
class PreprocessedImage:
    """What is shown of a picture of `size`, (H, W): `squares`, N of (3, S, S) uint8, what each shows, and where it begins, (x, y),
    in the picture, where it is seen through windows."""

    squares: list[np.ndarray]
    frames: list[Frame]
    corners: list[tuple[int, int]]
    size: tuple[int, int]


class ExportedModel:
    """Made by `opened`. `about`: what the file says of itself; `classes`: of its answers; `threshold`: score below which a box is
    none, the one that was best on the run's validation images."""

    def __init__(self, path: Path, found: LoadedProgram, reader: PostProcessor) -> None:
        self.path, self.about, self._run, self.reader = path, found.about, found.run, reader
        self.classes, self.multilabel = reader.classes, reader.multilabel
        self.size, self.framing = reader.side, found.about["framing"]
        self.coverage, self.risk, self.threshold = COVERAGE, RISK, float(found.about["threshold"])

    def seen(self, source: Path | bytes) -> PreprocessedImage:
        """A picture as it is shown to the network. Raises BrokenImage."""
        return preprocess(source, self.size, self.framing)

    def outputs(self, squares: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Of B squares, by name."""
        return self.run(np.stack(squares))

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The same of (B, 3, S, S) uint8."""
        return self._run({"images": images})

    def metadata(self, pictures: Sequence[PreprocessedImage]) -> list[Any]:
        """An answer to each."""
        squares = [square for picture in pictures for square in picture.squares]
        frames = [frame for picture in pictures for frame in picture.frames]
        asked, found = PredictOptions(self.coverage, self.risk, self.threshold), list[Any]()
        for start in range(0, len(squares), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found += self.reader.read(self.outputs(squares[part]), frames[part], asked)
        if self.framing != "windows" or not isinstance(self.reader, SpatialPostProcessor):
            return found
        left = iter(found)
        parts = [
            list(zip(each.corners, islice(left, len(each.squares)), strict=True))
            for each in pictures
        ]
        return [
            self.reader.merge_tiles(part, each.size) for part, each in zip(parts, pictures, strict=True)
        ]

    def predict(
        self, paths: Iterable[Path], *, strict: bool = False, batch_size: int = 32
    ) -> Iterator[ImageResult]:
        """An answer for each picture, in order. A broken one is answered with its error, or raised when strict."""
        waiting = iter(paths)
        while chunk := list(islice(waiting, batch_size)):
            yield from self._chunk(chunk, strict)

    def _chunk(self, paths: list[Path], strict: bool) -> Iterator[ImageResult]:
        pictures: dict[Path, PreprocessedImage] = {}
        errors: dict[Path, str] = {}
        for path in dict.fromkeys(paths):
            try:
                pictures[path] = self.seen(path)
            except BrokenImage as error:
                if strict:
                    raise
                errors[path] = error.brief
        told = dict(zip(pictures, self.metadata(list(pictures.values())), strict=True))
        for path in paths:
            yield ImageResult(
                printable(path), told.get(path), errors.get(path), self.classes, self.multilabel
            )


def preprocess(source: Path | bytes, side: int, framing: Framing) -> PreprocessedImage:
    """A picture as a network with squares of `side` px sees it. Raises BrokenImage."""
    pixels, size = images.read_image(source, *resized_sides(side, framing))
    if framing != "windows":
        return PreprocessedImage(
            [_channels_first(to_square(pixels, side, framing))],
            [Frame(view_of(size, side, framing), size)],
            [(0, 0)],
            size,
        )
    corners = tile_corners(size, side)
    parts = [pixels[y : y + side, x : x + side] for x, y in corners]
    frames = [
        Frame(view_of(part.shape[:2], side, framing), (part.shape[0], part.shape[1]))
        for part in parts
    ]
    return PreprocessedImage(
        [_channels_first(to_square(part, side, framing)) for part in parts], frames, corners, size
    )


def square(source: Path | bytes, size: int, framing: Framing = "crop") -> np.ndarray:
    """(3, size, size) uint8: what a network sees of a picture, or of its first window. Raises BrokenImage."""
    return preprocess(source, size, framing).squares[0]


def open_exported(path: Path) -> ExportedModel:
    """Raises UsageError for what is no exported file, or one of a later Foveate."""
    found = _opened(path)
    about = found.about
    if about.get("format") != FORMAT:
        what = f"this file is of format {about.get('format')}, and {FORMAT} is known"
        raise UsageError(what, where=path, hint="a newer Foveate")
    if "part" in about:
        raise UsageError(
            f"this file is a part of {about['of']}",
            where=path,
            hint=f"foveate predict {path.with_name(about['of'])}",
        )
    parts = {name: _opened(_beside(path, file)).run for name, file in about["parts"].items()}
    return ExportedModel(path, found, POSTPROCESSORS.get(about["task"])(about, parts))


def _opened(path: Path) -> LoadedProgram:
    maker = exporter_of(path)
    if maker is None or not path.is_file():
        raise UsageError("this is no exported file", where=path, hint="foveate export RUN")
    if not isinstance(maker, Runtime):
        raise UsageError(
            "weights alone answer nothing", where=path, hint="foveate export RUN --to onnx"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # runtimes tell of their own business
        return maker.open(path)


def _beside(path: Path, name: str) -> Path:
    """A file of this plain name in the same folder. Raises WeightsError for one that leads elsewhere."""
    if Path(name).name != name:
        raise WeightsError(
            "this file asks for one outside of its folder",
            where=path,
            why=name,
            hint="foveate export RUN",
        )
    return path.with_name(name)


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
