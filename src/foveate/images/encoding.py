"""Encoding: (H, W, 3) uint8 -> files, bytes and texts."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def write_image(pixels: np.ndarray, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write (H, W, 3) uint8 to a file; or a mask, (H, W) uint8 or uint16.

    Args:
        pixels: The image.
        path: File; its suffix gives the format.
        metadata: Names and texts that are stored in a PNG.
    """
    image = Image.fromarray(pixels)
    if not metadata:
        image.save(path)
        return
    chunks = PngInfo()
    for name, text in metadata.items():
        chunks.add_itxt(name, text)
    image.save(path, pnginfo=chunks)


def encode_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Return (H, W, 3) uint8 as it comes back from a JPEG file of this quality, 1 to 95."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return np.array(Image.open(buffer).convert("RGB"))


def encode_pgm(pixels: np.ndarray) -> bytes:
    """Return (H, W) or (H, W, 3) uint8 as an uncompressed file that `read_image` reads."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PPM")
    return buffer.getvalue()


def encode_bands(bands: Sequence[np.ndarray]) -> bytes:
    """Return bands (H, W) of one number type as a TIFF that `read_image` reads. Needs tifffile."""
    from tifffile import imwrite

    buffer = io.BytesIO()
    imwrite(buffer, np.stack(bands), photometric="minisblack", planarconfig="separate")
    return buffer.getvalue()


def to_data_uri(pixels: np.ndarray, format: Literal["jpeg", "png"] = "jpeg") -> str:
    """Return (H, W, 3) uint8 as a `data:` URI that a page can show without a second file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format.upper())
    return f"data:image/{format};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
