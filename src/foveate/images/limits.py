"""Bounds on what decoding an image may take, for every reader of images."""

from __future__ import annotations

from foveate.errors import BrokenImage

MAX_PIXELS = 178_956_970  # Pillow's own default limit
MAX_DECODED_BYTES = 3_000_000_000  # what 178,956,970 pixels take with all copies, of most kinds
MAX_PIECES = 10_000  # of a file: segments, chunks or blocks; and one more for each kilobyte of it
_max_bytes = MAX_DECODED_BYTES


def limit_decoding(max_bytes: int) -> None:
    """Set the memory that decoding one image may take in this process, instead of the default.

    Args:
        max_bytes: Bytes of the pixels and of all that readers hold beside them.
    """
    global _max_bytes
    _max_bytes = max_bytes


def refuse_pixels(width: int, height: int, where: str | None) -> None:
    """Raise BrokenImage if an image has more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise too_large(where, f"{width} x {height} is more than {MAX_PIXELS:,} pixels")


def refuse_large(size: int, where: str | None) -> None:
    """Raise BrokenImage if decoding an image takes more memory than allowed; `size` is in bytes."""
    if size > _max_bytes:
        accepted = f"{_max_bytes / 1e6:,.0f} MB are accepted"
        raise too_large(where, f"decoding it takes {size / 1e6:,.0f} MB, and {accepted}")


def too_large(where: str | None, why: str) -> BrokenImage:
    """Return the error of an image that takes too much memory."""
    return BrokenImage(
        "this image is too large to decode safely",
        where=where,
        why=why,
        hint="scale it down first, or cut it into tiles",
        id="too_large_image",
    )


def too_slow(why: str) -> BrokenImage:
    """Return the error of an image that takes too much time."""
    return BrokenImage(
        "this image would take too long to decode",
        why=why,
        hint="save it again from a viewer, or remove it",
        id="slow_image",
    )
