"""Which way up an image is: EXIF orientations, wherever a file states them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from PIL import Image

_ORIENTATION_TAG = 0x0112  # of EXIF
TRANSPOSES = {  # by orientation: what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(
    image: Image.Image, exif: Callable[[Any], Image.Exif] = lambda image: image.getexif()
) -> int:
    """1 to 8; unreadable EXIF is no reason to lose the image, so it counts as upright."""
    try:
        value = exif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata raises nearly anything
        return 1
    return value if value in TRANSPOSES else 1


def stated_orientation(image: Image.Image) -> int:
    """What is known before anything is decoded; Pillow's PNG reader would decode first."""
    return orientation_of(image, Image.Image.getexif)


def upright_array(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W) or (H, W, C) upright; the same as Pillow's transpose with TRANSPOSES[orientation]."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def has_trailing_metadata(file: IO[bytes]) -> bool:
    """Whether a PNG has metadata after its pixels; only the heads of its chunks are read.

    A head is 8 bytes: length and name.
    """
    after_pixels, start = False, file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8:
        name = head[4:]
        if after_pixels and name in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            break
        after_pixels = after_pixels or name == b"IDAT"
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)  # 4: the checksum
    file.seek(start)
    return len(head) == 8
