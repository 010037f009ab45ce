"""Stored values of any kind as RGB or other bands of 8 or 16 bits: depth, fractions, transparency.

Of 16 bits, 65535 is white: 257 for each of the 255 steps of a byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import BrokenImage
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
    array = select_bands(values.array, rendering.bands)
    if array.ndim == 3:
        array = array[..., :3] if array.shape[2] >= 3 else array[..., 0]
    image = Image.fromarray(np.ascontiguousarray(_scaled(array, rendering.value_range)))
    bands = values.array.shape[2] if values.array.ndim == 3 else 1
    image.format = values.format
    image.info.update(frames=values.frames, bands=bands, values=values.array)
    return image


def to_rgb(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    """Return an image of any mode as RGB, on white where it is transparent."""
    if has_deep_mode(image):
        return Image.fromarray(_scaled(np.asarray(image), value_range)).convert("RGB")
    if image.has_transparency_data and not _is_fourth_band(image):
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


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
    scaled = _scaled(values, rendering.value_range, rendering.bits)
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


def _scaled(
    values: np.ndarray, value_range: tuple[float, float] | None, bits: int = 8
) -> np.ndarray:
    """Values of any number type -> uint8 or uint16, of the same shape.

    Bytes are kept. A stated range is black to white. Otherwise 16 bits are scaled from 0..65535,
    integers that fit into bytes are kept, fractions from 0 to 1 are scaled, and other ranges are
    stretched from their minimum to their maximum; what is not finite becomes 0.
    """
    if values.dtype == np.uint8:
        return values if bits == 8 else values.astype(np.uint16) * 257
    if values.dtype == bool:
        return _stretched(values.astype(np.float64), 0, 1, bits)
    if value_range is not None:
        return _stretched(_finite(values), *value_range, bits)
    if values.dtype.kind in "iu":
        return _from_integers(values, bits)
    finite = _finite(values)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 255:
        low, high = 0, 1 if high <= 1 else 255
    return _stretched(finite, low, high, bits)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _from_integers(values: np.ndarray, bits: int) -> np.ndarray:
    """Bytes are kept, 16 bits scaled, other ranges stretched from their minimum to their
    maximum."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        return _stretched(values.astype(np.float64), low, high, bits)
    if values.dtype != np.uint16 and high <= 255:
        return _scaled(values.astype(np.uint8), None, bits)
    return _from_16_bit(values) if bits == 8 else values.astype(np.uint16)


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    """0..65535 -> 0..255. 257 = 65535 / 255: white remains white, and all 256 levels are
    reached."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _stretched(values: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    white = 2**bits - 1
    scale = white / (high - low) if high > low else 0
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.asarray(np.rint(((values - low) * scale).clip(0, white)), dtype=dtype)
