"""Stored values of any kind as 8-bit RGB: bands, depths, fractions, transparency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import BrokenImage
from foveate.images.readers import Values


@dataclass(frozen=True)
class Rendering:
    """How stored values become 8-bit RGB, where that is not given.

    Attributes:
        bands: Indices of the bands, from 1, that are red, green and blue, or the one that is gray;
            empty: the first three, or the first one of two.
        value_range: The values that become black and white, of images with more than 8 bits; None:
            all of 16 bits, and of other types as far as the values of each image reach.
    """

    bands: tuple[int, ...] = ()
    value_range: tuple[float, float] | None = None

    def row(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"bands": list(self.bands), "value_range": self.value_range}

    @classmethod
    def from_row(cls, row: dict[str, Any] | None) -> Rendering:
        """Return what `row` gave; the default for None."""
        if not row:
            return cls()
        stated = row["value_range"]
        return cls(tuple(row["bands"]), (stated[0], stated[1]) if stated else None)


AS_STORED = Rendering()


def from_values(values: Values, rendering: Rendering) -> Image.Image:
    """Return stored values as an image, with what `read_header` tells about it.

    Raises:
        BrokenImage: It does not have the bands that are asked for.
    """
    array = select_bands(values.array, rendering.bands)
    image = Image.fromarray(np.ascontiguousarray(_to_8_bits(array, rendering.value_range)))
    bands = values.array.shape[2] if values.array.ndim == 3 else 1
    image.format = values.format
    image.info.update(frames=values.frames, bands=bands, values=values.array)
    return image


def to_rgb(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    """Return an image of any mode as RGB, on white where it is transparent."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_to_8_bits(np.asarray(image), value_range)).convert("RGB")
    if image.has_transparency_data and not _is_fourth_band(image):
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _is_fourth_band(image: Image.Image) -> bool:
    """Whether what Pillow takes for transparency in a TIFF is another band, such as infrared.

    Its values tell: transparency is mostly none or complete.
    """
    if image.format != "TIFF" or image.mode != "RGBA":
        return False
    fourth = np.asarray(image.getchannel(3))
    return bool(2 * np.count_nonzero((fourth == 0) | (fourth == 255)) < fourth.size)


def select_bands(values: np.ndarray, bands: tuple[int, ...]) -> np.ndarray:
    """Return (H, W) or (H, W, 3): the chosen bands; else the first three, or the first.

    Raises:
        BrokenImage: There are fewer bands.
    """
    if values.ndim == 2:
        return values
    count = values.shape[2]
    chosen = bands or ((1, 2, 3) if count >= 3 else (1,))
    if not 1 <= min(chosen) <= max(chosen) <= count:
        raise BrokenImage(
            "the image does not have the bands that are asked for",
            why=f"data.bands are {', '.join(map(str, chosen))}, and it has {count}",
            hint=f"choose one or three from 1 to {count}",
            id="missing_bands",
        )
    selected = values[..., [band - 1 for band in chosen]]
    return np.asarray(selected[..., 0] if len(chosen) == 1 else selected)


def _to_8_bits(values: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """Values of any number type -> uint8, of the same shape.

    Bytes remain. A stated range is black to white. Otherwise 16 bits are scaled from 0..65535,
    integers that fit into bytes remain, fractions from 0 to 1 are scaled, and other ranges are
    stretched from their minimum to their maximum; what is not finite becomes 0.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if value_range is not None:
        return _stretched(_finite(values), *value_range)
    if values.dtype.kind in "iu":
        return _from_integers(values)
    finite = _finite(values)
    low, high = float(finite.min()), float(finite.max())
    if low < 0 or high > 255:
        return _stretched(finite, low, high)
    return np.asarray(np.rint(finite * (255 if high <= 1 else 1)), dtype=np.uint8)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _from_integers(values: np.ndarray) -> np.ndarray:
    """Bytes are kept, 16 bits scaled, other ranges stretched from their minimum to their
    maximum."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        return _stretched(values.astype(np.float64), low, high)
    is_deep = values.dtype == np.uint16 or high > 255
    return _from_16_bit(values) if is_deep else values.astype(np.uint8)


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    """0..65535 -> 0..255. 257 = 65535 / 255: white remains white, and all 256 levels are
    reached."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scale = 255 / (high - low) if high > low else 0
    return np.asarray(np.rint(((values - low) * scale).clip(0, 255)), dtype=np.uint8)
