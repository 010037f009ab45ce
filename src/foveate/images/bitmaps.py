"""Bitmaps of annotation tools: small PNG files in base64, or without it, inside of JSON."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from foveate.errors import BrokenImage
from foveate.images.limits import refuse_pixels


def read_bitmap(content: bytes) -> np.ndarray:
    """Return which pixels of a PNG file are set, (H, W) bool: opaque ones, or those not 0.

    Raises:
        BrokenImage: It cannot be read.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            refuse_pixels(image.width, image.height, None)
            values = np.asarray(image)
            if image.mode in ("RGBA", "LA", "PA"):
                values = values[..., -1]
            return np.asarray(values.reshape(*values.shape[:2], -1).any(axis=-1))
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise BrokenImage(
            "the bitmap of an object cannot be decoded",
            why=str(error) or type(error).__name__,
            id="undecodable_bitmap",
        ) from None


def encode_bitmap(mask: np.ndarray) -> bytes:
    """Return a mask, (H, W) bool, as the content of a PNG file with the values 0 and 1."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
