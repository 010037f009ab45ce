"""What the values or colors of masks mean, and reading masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from foveate.data.formats._mask_files import is_lossy, read_layers_of, read_values
from foveate.data.formats._mask_levels import Levels
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_image
from foveate.predictions import IGNORE_INDEX
from foveate.utils.paths import printable

BACKGROUND = "background"
HOW_TO_NAME = (
    "to name the classes, put a file classes.txt beside the folders, with one name per line in the"
    " order of the values (-void to ignore one), or write a dataset config"
)
MAX_SAMPLE = 64  # masks that are read to infer what all mean
NO_LAYER = -1  # the key of pixels that are in none of the layers
_UNKNOWN = -2  # index of a value without a class

Kind = Literal["values", "colors", "smeared", "layers", "objects"]
"""What a mask holds: class values; colors; values or colors that JPEG or anti-aliasing has smeared;
a layer for each class; or a number for each object."""


@dataclass(frozen=True)
class MaskEncoding:
    """How masks are read.

    Attributes:
        classes: The classes.
        indices: Value, packed color, or number of the layer -> class index or IGNORE_INDEX.
        source: The class list, for messages; empty if there is none.
        kind: What a mask holds.
        levels: Of smeared masks, the values or colors that they had.
    """

    classes: tuple[str, ...]
    indices: dict[int, int]
    source: str
    kind: Kind = "values"
    levels: Levels | None = None


def read_mask(path: Path, encoding: MaskEncoding) -> np.ndarray:
    """Read a mask as (H, W) int64 class indices.

    Raises:
        BrokenImage: It cannot be decoded.
        DataError: It holds a value that is not a class.
    """
    if encoding.kind == "layers":
        return _from_layers(path, encoding)
    if encoding.kind == "colors":
        indices = _look_up(pack(read_image(path)[0]), encoding.indices)
        return np.where(indices == _UNKNOWN, IGNORE_INDEX, indices)
    if encoding.levels is not None:
        return _from_levels(path, encoding, encoding.levels)
    return class_indices(require_values(path), path, encoding)


def class_indices(values: np.ndarray, path: Path, encoding: MaskEncoding) -> np.ndarray:
    """Return class values, (H, W), as int64 class indices. Raises DataError for other values."""
    if encoding.kind == "objects":
        return np.asarray(values > 0, dtype=np.int64)
    indices = _look_up(values, encoding.indices)
    if (indices == _UNKNOWN).any():
        raise _no_class(path, int(values[indices == _UNKNOWN][0]), encoding)
    return indices


def read_union(paths: tuple[Path, ...], encoding: MaskEncoding) -> np.ndarray:
    """Read the masks of an image, as `read_mask` does; of several the largest class index wins.

    Raises:
        BrokenImage: A mask cannot be decoded.
        DataError: A mask holds a value that is not a class.
    """
    mask = read_mask(paths[0], encoding)
    for path in paths[1:]:
        mask = np.maximum(mask, read_mask(path, encoding))
    return mask


def read_layers(layers: tuple[tuple[int, Path], ...]) -> np.ndarray:
    """Read one binary mask per class as (H, W) int64 class indices.

    Args:
        layers: Class index and file; later ones cover earlier ones.

    Raises:
        BrokenImage: A mask cannot be decoded.
        DataError: The masks differ in size.
    """
    mask: np.ndarray | None = None
    for index, path in layers:
        inside = read_binary(path)
        mask = np.zeros(inside.shape, dtype=np.int64) if mask is None else mask
        if mask.shape != inside.shape:
            raise DataError(
                "the masks of one image differ in size",
                where=printable(path),
                why=f"it has {_format_size(inside.shape)}, another has {_format_size(mask.shape)}",
                hint="export all masks at the size of the image",
                id="mask_sizes_differ",
            )
        mask[inside] = index
    if mask is None:
        raise ValueError("an image without masks")
    return mask


def read_binary(path: Path) -> np.ndarray:
    """Read a mask of one class or object as (H, W) bool.

    Raises:
        BrokenImage: It cannot be decoded, or is in color.
    """
    values = require_values(path)
    middle = 128 if is_lossy(path) else (int(values.max()) + 1) // 2  # edges may be smoothed
    return np.asarray((values > 0) & (values >= middle))


def read_pixels(path: Path, channels: int) -> np.ndarray:
    """Read a mask as (H, W, C) int16: 3 channels of color, or 1 of values.

    Raises:
        BrokenImage: It cannot be decoded.
    """
    pixels = read_image(path)[0] if channels == 3 else require_values(path)[..., None]
    return pixels.astype(np.int16)


def pack(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int64, one integer per color, as `pack_color` does."""
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    return np.asarray(red << 16 | green << 8 | blue)


def require_values(path: Path) -> np.ndarray:
    """Return the values of a mask, (H, W) integers.

    Raises:
        BrokenImage: It cannot be read, or is in color.
    """
    values = read_values(path)
    if values is None:
        raise BrokenImage(
            "this mask has colors instead of class numbers",
            where=printable(path),
            why="others of the same data have palette or gray values",
            id="mask_has_colors",
        )
    return values


def _from_levels(path: Path, encoding: MaskEncoding, levels: Levels) -> np.ndarray:
    channels = len(levels.levels[0])
    pixels = read_pixels(path, channels)
    nearest = levels.nearest(pixels)
    if (nearest < 0).any():
        raise _no_class(path, tuple(pixels[nearest < 0][0].tolist()), encoding)
    keys = pack(np.array(levels.levels)[None])[0] if channels == 3 else np.ravel(levels.levels)
    indices = np.array([encoding.indices[int(key)] for key in keys], dtype=np.int64)
    return np.asarray(indices[nearest])


def _from_layers(path: Path, encoding: MaskEncoding) -> np.ndarray:
    """The last layer that a pixel is in gives its class."""
    layers = read_layers_of(path)
    count = len(encoding.indices) - (NO_LAYER in encoding.indices)
    if layers is None or len(layers) != count:
        raise DataError(
            "the mask does not have the layers that others have",
            where=printable(path),
            why=f"it has {1 if layers is None else len(layers)}, others have {count}",
            hint="save all masks alike, with a layer for each class",
            id="mask_layers_differ",
        )
    mask = np.full(layers.shape[1:], _UNKNOWN, dtype=np.int64)
    mask[:] = encoding.indices.get(NO_LAYER, _UNKNOWN)
    for number, layer in enumerate(layers):
        mask[layer] = encoding.indices[number]
    if (mask == _UNKNOWN).any():
        raise DataError(
            "a pixel of the mask is in none of its layers",
            where=printable(path),
            why="in the masks that were looked at, every pixel was in a layer",
            hint="add a layer for the background to all masks",
            id="mask_pixel_without_layer",
        )
    return mask


def _no_class(path: Path, value: object, encoding: MaskEncoding) -> DataError:
    if isinstance(value, tuple):
        value = value[0] if len(value) == 1 else value
    return DataError(
        f"the value {value} of the mask is not a class",
        where=printable(path),
        why=None
        if encoding.source
        else f"the classes were inferred from a sample of {MAX_SAMPLE} masks",
        hint=f"add it to {encoding.source}" if encoding.source else HOW_TO_NAME,
        id="mask_value_no_class",
    )


def _look_up(values: np.ndarray, indices: dict[int, int]) -> np.ndarray:
    """The index of every value; _UNKNOWN for those without one."""
    if values.dtype.itemsize <= 2 and values.dtype.kind == "u" and values.size > 65536:
        # a table of all values is faster than a search for every pixel
        table = _look_up(np.arange(np.iinfo(values.dtype).max + 1), indices)
        return np.asarray(table[values])
    keys = np.array(sorted(indices), dtype=np.int64)
    positions = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    by_position = np.array([indices[int(key)] for key in keys], dtype=np.int64)
    return np.where(keys[positions] == values, by_position[positions], _UNKNOWN)


def _format_size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} px"
