"""Stored values of any kind as RGB or other bands of 8 or 16 bits: depth, fractions, transparency.

Of 16 bits, 65535 is white: 257 for each of the 255 steps of a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import BrokenImage
from foveate.images.cost import STRIP_BYTES
from foveate.images.readers import Values


@dataclass(frozen=True)
class Rendering:
    """How stored values become the channels of a network, where that is not given.

    Attributes:
        bands: Indices of the bands, from 1: of red, green and blue, or of gray; two, or more than
            three, are the channels of a network of their own. Empty: the first three, or the first
            one of two.
        value_range: The values that become black and white, of images with more than 8 bits; None:
            all of 16 bits, and of other types as far as the values of each image reach.
        bits: 8 or 16, of each channel.
    """

    bands: tuple[int, ...] = ()
    value_range: tuple[float, float] | None = None
    bits: int = 8

    @property
    def channels(self) -> int:
        """Number of channels: 3 unless two, or more than three, bands are chosen."""
        return 3 if len(self.bands) in (0, 1, 3) else len(self.bands)

    @property
    def is_rgb(self) -> bool:
        """Whether images become RGB of 8 bits."""
        return self.channels == 3 and self.bits == 8

    def row(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"bands": list(self.bands), "value_range": self.value_range, "bits": self.bits}

    @classmethod
    def from_row(cls, row: dict[str, Any] | None) -> Rendering:
        """Return what `row` gave; the default for None."""
        if not row:
            return cls()
        stated = row["value_range"]
        value_range = (stated[0], stated[1]) if stated else None
        return cls(tuple(row["bands"]), value_range, row.get("bits", 8))


AS_STORED = Rendering()


def from_values(values: Values, rendering: Rendering) -> Image.Image:
    """Return stored values as an image to look at, with what `read_header` tells about it.

    Raises:
        BrokenImage: It does not have the bands that are asked for.
    """

    def shown() -> Iterator[np.ndarray]:
        for strip in _array_strips(values.array):
            array = select_bands(strip, rendering.bands)
            if array.ndim == 3:
                array = array[..., :3] if array.shape[2] >= 3 else array[..., 0]
            yield np.ascontiguousarray(array)

    image = Image.fromarray(_to_levels(shown, rendering.value_range))
    bands = values.array.shape[2] if values.array.ndim == 3 else 1
    image.format = values.format
    image.info.update(frames=values.frames, bands=bands, values=values.array)
    return image


def to_rgb(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    """Return an image of any mode as RGB, on white where it is transparent.

    Large images are converted in strips: a copy of all of them in each step would take gigabytes.
    """
    if has_deep_mode(image):
        values = _to_levels(lambda: map(np.asarray, image_strips(image)), value_range)
        return Image.fromarray(values).convert("RGB")
    if image.has_transparency_data and not _is_fourth_band(image):
        return _in_strips(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def to_array(image: Image.Image) -> np.ndarray:
    """Return an RGB image as (H, W, 3) uint8."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for rows, strip in zip(_rows_of(image), image_strips(image), strict=True):
        pixels[rows] = np.asarray(strip)
    return pixels


def image_strips(image: Image.Image) -> Iterator[Image.Image]:
    """Yield an image in parts of full width from top to bottom, each about a megabyte."""
    strips = list(_rows_of(image))
    for rows in strips:
        box = (0, rows.start, image.width, rows.stop)
        yield image if len(strips) == 1 else image.crop(box)


def _rows_of(image: Image.Image) -> Iterator[slice]:
    return _row_strips(image.height, 4 * image.width * image.height)


def _row_strips(height: int, nbytes: int) -> Iterator[slice]:
    """Slices of rows with about STRIP_BYTES each, of `height` rows with `nbytes` together."""
    step = max(1, STRIP_BYTES * height // max(1, nbytes))
    return (slice(start, min(start + step, height)) for start in range(0, height, step))


def _array_strips(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[rows] for rows in _row_strips(len(values), values.nbytes))


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image, strip by strip, to RGB."""
    if len(list(_rows_of(image))) == 1:
        return convert(image)
    result = Image.new("RGB", image.size)
    for rows, strip in zip(_rows_of(image), image_strips(image), strict=True):
        result.paste(convert(strip), (0, rows.start))
    return result


def _on_white(image: Image.Image) -> Image.Image:
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def has_deep_mode(image: Image.Image) -> bool:
    """Whether Pillow opened an image as one band of more than 8 bits."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def to_bands(image: Image.Image, rendering: Rendering) -> np.ndarray:
    """Return a decoded image as (H, W, channels) uint8 or uint16; (H, W, 1) if it is gray.

    Raises:
        BrokenImage: It does not have the bands that are asked for.
    """
    if "values" in image.info:
        values = select_bands(image.info["values"], rendering.bands)
    elif has_deep_mode(image):
        values = select_bands(np.asarray(image), rendering.bands)
    elif rendering.channels == 3:
        values = np.asarray(to_rgb(image, rendering.value_range))
    else:
        known = image.mode in ("L", "LA", "RGB", "RGBA")
        values = select_bands(np.asarray(image if known else image.convert("RGB")), rendering.bands)
    scaled = _to_levels(lambda: _array_strips(values), rendering.value_range, rendering.bits)
    return scaled if scaled.ndim == 3 else scaled[..., None]


def as_network_input(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as uint8, or of 16 bits as float32 up to 255: bytes with fractions."""
    return pixels.astype(np.float32) / 257 if pixels.dtype == np.uint16 else pixels


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W, C) uint8 or uint16 as (H, W, 3) uint8: the first three channels, or the first.

    For people to look at; networks see all of it.
    """
    pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)
    return _from_16_bit(pixels) if pixels.dtype == np.uint16 else np.ascontiguousarray(pixels)


def _is_fourth_band(image: Image.Image) -> bool:
    """Whether what Pillow takes for transparency in a TIFF is another band, such as infrared.

    Its values tell: transparency is mostly none or complete.
    """
    if image.format != "TIFF" or image.mode != "RGBA":
        return False
    fourth = np.asarray(image.getchannel(3))
    return bool(2 * np.count_nonzero((fourth == 0) | (fourth == 255)) < fourth.size)


def select_bands(values: np.ndarray, bands: tuple[int, ...]) -> np.ndarray:
    """Return (H, W) or (H, W, C): the chosen bands; else the first three, or the first.

    An image of one band is gray where one or three are asked for.

    Raises:
        BrokenImage: There are fewer bands.
    """
    if values.ndim == 2 and len(bands) in (0, 1, 3):
        return values
    count = values.shape[2] if values.ndim == 3 else 1
    chosen = bands or ((1, 2, 3) if count >= 3 else (1,))
    if not 1 <= min(chosen) <= max(chosen) <= count:
        raise BrokenImage(
            "the image does not have the bands that are asked for",
            why=f"data.bands are {', '.join(map(str, chosen))}, and it has {count}",
            hint=f"choose from 1 to {count}",
            id="missing_bands",
        )
    selected = values[..., [band - 1 for band in chosen]]
    return np.asarray(selected[..., 0] if len(chosen) == 1 else selected)


def _to_levels(
    strips: Callable[[], Iterable[np.ndarray]],
    value_range: tuple[float, float] | None,
    bits: int = 8,
) -> np.ndarray:
    """Values of any number type -> uint8 or uint16, of the same shape.

    Bytes are kept. A stated range is black to white. Otherwise 16 bits are scaled from 0..65535,
    integers that fit into bytes are kept, fractions from 0 to 1 are scaled, and other ranges are
    stretched from their minimum to their maximum; what is not finite becomes 0.

    Args:
        strips: Returns the values in parts, from top to bottom, anew with each call.
        value_range: The values that become black and white.
        bits: 8 or 16, of the result.
    """
    convert = _conversion(strips, value_range, bits)
    return np.concatenate([convert(strip) for strip in strips()])


def _conversion(
    strips: Callable[[], Iterable[np.ndarray]],
    value_range: tuple[float, float] | None,
    bits: int,
) -> Callable[[np.ndarray], np.ndarray]:
    """What turns a part of these values into uint8 or uint16."""
    dtype = next(iter(strips())).dtype
    if dtype == np.uint8:
        return partial(_from_bytes, bits=bits)
    if dtype.kind == "b":
        return lambda values: _from_bytes(values.astype(np.uint8) * 255, bits)
    if value_range is not None:
        return lambda values: _stretched(_finite(values), *value_range, bits)
    if dtype.kind in "iu":
        return _conversion_of_integers(dtype, *_extremes(strips()), bits)
    low, high = _extremes(_finite(strip) for strip in strips())
    if low >= 0 and high <= 255:
        low, high = 0, 1 if high <= 1 else 255
    return lambda values: _stretched(_finite(values), low, high, bits)


def _extremes(strips: Iterable[np.ndarray]) -> tuple[Any, Any]:
    """The least and the greatest value, as numbers of Python."""
    pairs = [(strip.min().item(), strip.max().item()) for strip in strips]
    return min(low for low, _ in pairs), max(high for _, high in pairs)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _conversion_of_integers(
    dtype: np.dtype[Any], low: int, high: int, bits: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Bytes are kept, 16 bits scaled, other ranges stretched from their minimum to their
    maximum."""
    if low < 0 or high > 65535:
        return lambda values: _stretched(values.astype(np.float64), low, high, bits)
    if dtype != np.uint16 and high <= 255:
        return lambda values: _from_bytes(values.astype(np.uint8), bits)
    return _from_16_bit if bits == 8 else lambda values: values.astype(np.uint16)


def _from_bytes(values: np.ndarray, bits: int) -> np.ndarray:
    return values if bits == 8 else values.astype(np.uint16) * 257


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    """0..65535 -> 0..255. 257 = 65535 / 255: white remains white, and all 256 levels are
    reached."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _stretched(values: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    white = 2**bits - 1
    scale = white / (high - low) if high > low else 0
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.asarray(np.rint(((values - low) * scale).clip(0, white)), dtype=dtype)
