"""The memory that decoding an image takes, known before its first pixel is decoded.

Counted are the pixels as the file has them, the copies on the way to the result, and what the
decoder of the format holds beside them. The figures were measured; tests hold them.
"""

from __future__ import annotations

from PIL import Image

from foveate.images.limits import refuse_large, too_slow

# samples that Pillow decodes in Python, about a million a second
MAX_SLOW_SAMPLES = 4_000_000
_ROW = 8  # bytes of a pointer to each row of an image in Pillow
_PIXEL = 4  # bytes of a pixel of every mode with colors
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# bytes a pixel that the readers of a format keep as long as the image is open
_KEPT = {"WEBP": 12.5, "AVIF": 12}
_SLACK = 1.1  # freed memory that is not used again at once
_COEFFICIENTS = 40  # bytes of a row's or column's weights while an image is resized
_DEEP_PNG = 12  # bytes a pixel that the reader of 16-bit colors takes
STRIP_BYTES = 2**20  # of the parts in which pixels are converted


def refuse_costly(
    image: Image.Image,
    working: int,
    target: tuple[int, int] | None,
    may_turn: bool,
    where: str | None,
) -> None:
    """Refuse an opened image whose decoding would take more memory or time than allowed.

    Args:
        image: The image, of which only the header was read.
        working: Bytes that the structure of its file makes the decoder hold.
        target: (width, height) to which it is resized, in the orientation of the file.
        may_turn: Whether EXIF turns or mirrors it, or may do so.
        where: Its name, for messages.

    Raises:
        BrokenImage: It takes too much.
    """
    samples = image.width * image.height * len(image.getbands())
    if any(str(tile[0]) in Image.DECODERS for tile in getattr(image, "tile", ())):
        if samples > MAX_SLOW_SAMPLES:
            raise too_slow(f"it has {samples:,} samples of a kind that is decoded slowly")
        working += 8 * samples
    refuse_large(decoding_bytes(image, working, target, may_turn), where)


def decoding_bytes(
    image: Image.Image, working: int, target: tuple[int, int] | None, may_turn: bool
) -> int:
    """Return the most bytes that are held at a time; the arguments are those of `refuse_costly`."""
    width, height = image.size
    native = _held(width, height, _MODE_BYTES.get(image.mode, _PIXEL))
    kept = int(_KEPT.get(str(image.format), 0) * width * height)
    is_rgb = image.mode == "RGB" and not image.has_transparency_data
    copies = 0 if is_rgb else _held(width, height, _PIXEL)
    if may_turn:
        copies += max(_held(width, height, _PIXEL), _held(height, width, _PIXEL))
    if image.mode in _DEEP_MODES:  # they become 8 bits first
        copies += 2 * width * height
    copies += 3 * width * height if target is None else _resizing_bytes((width, height), target)
    return int(_SLACK * (native + kept + max(working, copies))) + 16 * STRIP_BYTES


def deep_png_bytes(width: int, height: int) -> int:
    """Return the bytes that reading a PNG of 16-bit colors takes."""
    return _DEEP_PNG * width * height + 2 * _held(width, height, _PIXEL)


def _held(width: int, height: int, pixel: int) -> int:
    return height * (_ROW + width * pixel)


def _resizing_bytes(size: tuple[int, int], target: tuple[int, int]) -> int:
    """An image between the two passes, the result, its copy as an array, and weights."""
    between = max(_held(target[0], size[1], _PIXEL), _held(target[1], size[0], _PIXEL))
    weights = _COEFFICIENTS * (sum(size) + sum(target))
    return between + 2 * max(_held(*target, _PIXEL), _held(*target[::-1], _PIXEL)) + weights
