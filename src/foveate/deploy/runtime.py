"""Exported files that predict, with NumPy, Pillow and the runtime of the file but no torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from foveate.deploy.postprocess import (
    POSTPROCESSORS,
    Frame,
    PostProcessor,
    PredictOptions,
    SpatialPostProcessor,
)
from foveate.deploy.targets import LoadedProgram, RuntimeExporter, exporter_for
from foveate.errors import UsageError, WeightsError
from foveate.images.codec import read_image
from foveate.images.pixels import AS_STORED, Rendering, as_network_input
from foveate.images.preprocessing import (
    Framing,
    decoded_short_side,
    tile_corners,
    to_square,
    view_of,
)
from foveate.inference.protocol import ImagePredictor
from foveate.utils.invocation import shell_command
from foveate.utils.log import shorten

FORMAT_VERSION = 2  # of the metadata in a file
_BATCH_SIZE = 32  # squares
_MAX_SIDE = 8192  # px, as in a recipe
_MAX_PARTS = 8  # files that belong to one
_MAX_GENERATED = 1024  # tokens of a caption, and beams


@dataclass(frozen=True)
class PreprocessedImage:
    """An image as the network sees it.

    Attributes:
        squares: N arrays of (C, S, S) uint8, or float32 up to 255: one, or a tile each.
        frames: What each square shows of the image.
        corners: Upper left corner (x, y) of each square in the image; (0, 0) unless it is a tile.
        size: (H, W) of the upright original.
    """

    squares: list[np.ndarray]
    frames: list[Frame]
    corners: list[tuple[int, int]]
    size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return sum(square.nbytes for square in self.squares)


class ExportedModel(ImagePredictor[PreprocessedImage]):
    """An exported file that predicts; `open_exported` creates it.

    Attributes:
        path: The file.
        metadata: The JSON text in it.
        postprocessor: Turns its outputs into predictions.
        size: Side S of the squares that the network sees, px.
        framing: How an image becomes a square.
        rendering: How bands and values beyond 8 bits become channels.
    """

    def __init__(self, path: Path, program: LoadedProgram, postprocessor: PostProcessor) -> None:
        self.path, self.metadata, self._run = path, program.metadata, program.run
        self.name = path.name
        self.postprocessor = postprocessor
        self.classes, self.multilabel = postprocessor.classes, postprocessor.multilabel
        self.threshold = float(program.metadata["threshold"])
        self.size = postprocessor.side
        self.framing: Framing = program.metadata["framing"]
        self.rendering = Rendering.from_row(program.metadata.get("rendering"))
        self.has_channel_files = bool(program.metadata.get("channel_files"))

    @property
    def info(self) -> dict[str, Any]:
        return {key: self.metadata[key] for key in ("task", "backbone", "license", "precision")}

    def decode(self, source: Path | bytes) -> PreprocessedImage:
        return preprocess(source, self.size, self.framing, self.rendering)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run the network on squares (B, C, S, S); returns its outputs by name, B first."""
        return self._run({"images": images})

    def predict_decoded(self, images: Sequence[PreprocessedImage]) -> list[Any]:
        squares = [square for image in images for square in image.squares]
        frames = [frame for image in images for frame in image.frames]
        options = PredictOptions(self.coverage, self.risk, self.threshold)
        predictions = list[Any]()
        for start in range(0, len(squares), _BATCH_SIZE):
            part = slice(start, start + _BATCH_SIZE)
            outputs = self.run(np.stack(squares[part]))
            predictions += self.postprocessor.postprocess(outputs, frames[part], options)
        if self.framing != "windows" or not isinstance(self.postprocessor, SpatialPostProcessor):
            return predictions
        return list(_merge_tiles(self.postprocessor, images, predictions))


def _merge_tiles(
    postprocessor: SpatialPostProcessor,
    images: Sequence[PreprocessedImage],
    predictions: Sequence[Any],
) -> Iterator[Any]:
    remaining = iter(predictions)
    for image in images:
        own = islice(remaining, len(image.squares))
        yield postprocessor.merge_tiles(list(zip(image.corners, own, strict=True)), image.size)


def preprocess(
    source: Path | bytes, side: int, framing: Framing, rendering: Rendering = AS_STORED
) -> PreprocessedImage:
    """Decode an image and bring it to squares of `side` px.

    Raises:
        BrokenImage: The image cannot be decoded.
    """
    pixels, size = read_image(source, decoded_short_side(side, framing), rendering)
    if framing != "windows":
        frame = Frame(view_of(size, side, framing), size)
        return PreprocessedImage([_square(pixels, side, framing)], [frame], [(0, 0)], size)
    corners = tile_corners(size, side)
    tiles = [pixels[y : y + side, x : x + side] for x, y in corners]
    frames = [Frame(view_of(tile.shape[:2], side, framing), tile.shape[:2]) for tile in tiles]
    return PreprocessedImage(
        [_square(tile, side, framing) for tile in tiles], frames, corners, size
    )


def load_square(source: Path | bytes, size: int, framing: Framing = "crop") -> np.ndarray:
    """Return (3, size, size) uint8: what a network sees of an image, or of its first tile.

    Raises:
        BrokenImage: The image cannot be decoded.
    """
    return preprocess(source, size, framing).squares[0]


def open_exported(path: Path) -> ExportedModel:
    """Open an exported file, and the files that belong to it.

    Raises:
        UsageError: It is not an exported file that predicts, or of another format version.
        WeightsError: It is damaged, or refers to a file outside its folder.
    """
    program = _open_program(path)
    try:
        return _build_model(path, program)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WeightsError(
            "the description in this file is damaged",
            where=path,
            why=shorten(f"{type(error).__name__}: {error}"),
            hint="foveate export RUN",
        ) from None


def _build_model(path: Path, program: LoadedProgram) -> ExportedModel:
    metadata = program.metadata
    if metadata.get("format") != FORMAT_VERSION:
        raise UsageError(
            f"this file has format version {shorten(metadata.get('format'))}, "
            f"this Foveate reads version {FORMAT_VERSION}",
            where=path,
            hint="export the run again with this version of Foveate",
        )
    if "part" in metadata:
        raise UsageError(
            f"this file is a part of {shorten(metadata['of'])}",
            where=path,
            hint=shell_command("predict", path.with_name(metadata["of"]), "IMAGES"),
        )
    _check_numbers(metadata)
    graphs = {
        name: _open_program(_sibling(path, file)).run for name, file in metadata["parts"].items()
    }
    return ExportedModel(path, program, POSTPROCESSORS.get(metadata["task"])(metadata, graphs))


def _check_numbers(metadata: dict[str, Any]) -> None:
    """Raise ValueError for numbers that no export has, and that would cost memory or time."""
    side = metadata["size"]
    if not (isinstance(side, int) and 0 < side <= _MAX_SIDE):
        raise ValueError(f"the side of its squares is {side}")
    if metadata["framing"] not in get_args(Framing):
        raise ValueError(f"its framing is {metadata['framing']}")
    if len(metadata["parts"]) > _MAX_PARTS:
        raise ValueError(f"it has {len(metadata['parts'])} parts")
    for name in ("max_tokens", "beams"):
        value = metadata.get("generation", {}).get(name, 1)
        if not (isinstance(value, int) and 0 < value <= _MAX_GENERATED):
            raise ValueError(f"{name} is {value}")


def _open_program(path: Path) -> LoadedProgram:
    exporter = exporter_for(path)
    if exporter is None or not path.is_file():
        raise UsageError("this is not an exported file", where=path, hint="foveate export RUN")
    if not isinstance(exporter, RuntimeExporter):
        raise UsageError(
            "a weights file cannot make predictions",
            where=path,
            hint="foveate export RUN --to onnx",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # runtimes warn about their own internals
        return exporter.open(path)


def _sibling(path: Path, name: str) -> Path:
    """Return the file `name` in the same folder.

    Raises:
        WeightsError: The name leads to another folder.
    """
    if Path(name).name != name:
        raise WeightsError(
            "this file refers to a file outside its folder",
            where=path,
            why=name,
            hint="foveate export RUN",
        )
    return path.with_name(name)


def _square(pixels: np.ndarray, side: int, framing: Framing) -> np.ndarray:
    """(H, W, C) -> (C, S, S), contiguous."""
    square = as_network_input(to_square(pixels, side, framing))
    return np.ascontiguousarray(square.transpose(2, 0, 1))
