"""JPEG files that end early: how much of the image is missing, and decoding what is there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from foveate.errors import BrokenImage
from foveate.images.limits import refuse_large
from foveate.images.pixels import image_strips
from foveate.utils.paths import printable

MAX_MISSING = 0.1  # share of the rows that may be missing
_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"  # markers
_HELD_BACK = (
    18  # rows that the decoder holds back: one row of blocks, and the edge of the one above
)
_BYTES_FOR_TWO = 9  # a pixel, of the image and of its completion
_TAIL = 4096  # bytes; some cameras append padding or a trailer after the end marker


def is_jpeg(head: bytes) -> bool:
    """Whether a file is a JPEG, by its first two bytes."""
    return head.startswith(_START)


def ends_early(source: Path | bytes) -> bool:
    """Whether this is a JPEG that can be read although its end is missing.

    Cheap for other files: their first and last bytes are read.

    Raises:
        BrokenImage: It is a JPEG of which too much is missing.
    """
    content = source if isinstance(source, bytes) else _read_if_suspicious(source)
    if not content.startswith(_START) or _END in content[-_TAIL:]:
        return False
    if _is_decodable(content):
        return False
    complete(content, None if isinstance(source, bytes) else printable(source))
    return True


def complete(content: bytes, where: str | None) -> bytes:
    """Return the content of a JPEG that ends early with an end marker; what is missing turns flat.

    Args:
        content: The content of the file.
        where: Its name, for messages.

    Raises:
        BrokenImage: More than MAX_MISSING of the rows are missing, or a progressive image lacks
            scans that cover all of it.
    """
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        if image.info.get("progressive"):
            first_pass = 1 + len(image.getbands())  # coarse colors, then the details of each band
            missing = 0.0 if content.count(_SCAN) > first_pass else 1.0
        else:
            missing = _missing_rows(image, content + _END) / image.height
    if missing > MAX_MISSING:
        raise BrokenImage(
            "this image file ends early",
            where=where,
            why=f"about {missing:.0%} of the image is missing; up to {MAX_MISSING:.0%} is accepted",
            hint="copy it again, or remove it",
            id="cut_off_image",
        )
    return content + _END


def _missing_rows(image: Image.Image, completed: bytes) -> int:
    """How many rows at the bottom could not be decoded.

    The decoder leaves them black; what is black in the completed image as well is not missing.
    """
    refuse_large(_BYTES_FOR_TWO * image.width * image.height, None)
    try:
        image.load()
    except OSError:
        image.tile = []  # type: ignore[attr-defined]  # what was decoded until then stays in the image
    with Image.open(io.BytesIO(completed), formats=("JPEG",)) as whole:
        is_missing = _has_light(whole) & ~_has_light(image)
    present = (~is_missing).nonzero()[0]
    last = int(present[-1]) + 1 if len(present) else 0
    return max(0, image.height - last - _HELD_BACK)


def _has_light(image: Image.Image) -> np.ndarray:
    """(H,) bool: whether a row is not black."""
    strips = map(np.asarray, image_strips(image))
    return np.concatenate([strip.reshape(len(strip), -1).any(1) for strip in strips])


def _is_decodable(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            image.load()
    except Exception:  # a damaged file makes Pillow raise nearly anything
        return False
    return True


def _read_if_suspicious(path: Path) -> bytes:
    """The content of a JPEG without an end marker near its end; nothing for all other files."""
    try:
        with path.open("rb") as file:
            if file.read(2) != _START:
                return b""
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - _TAIL))
            if _END in file.read():
                return b""
            file.seek(0)
            return file.read()
    except OSError:
        return b""
