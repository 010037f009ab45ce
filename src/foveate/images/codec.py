"""Decoding: files and bytes -> upright (H, W, 3) uint8 RGB, or other bands, or 16 bits.

The only decoder: every command reads images here, so that all see the same pixels. Lengths are
pixels. An image that cannot be read is a BrokenImage; nothing of Pillow's own (errors, warnings)
leaks out.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from foveate.errors import BrokenImage
from foveate.images import jpeg
from foveate.images.pixels import (
    AS_STORED,
    Rendering,
    as_rgb,
    from_values,
    select_bands,
    to_bands,
    to_rgb,
)
from foveate.images.quiet import quiet_pillow
from foveate.images.readers import is_deep_color, read_deep_png, read_values
from foveate.utils.paths import printable

MAX_PIXELS = 178_956_970  # Pillow's own default limit: about half a gigabyte once decoded

# Named one by one, because some of Pillow's other readers (EPS) start programs. JPEG covers MPO.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_EXTENSIONS = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}  # others: .png
_ORIENTATION_TAG = 0x0112  # of EXIF
_TRANSPOSES = {  # by orientation: what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    source: Path | bytes, short_side: int | None = None, rendering: Rendering = AS_STORED
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an image.

    Transparent parts are laid on white; of an animation or a document the first frame counts. A
    JPEG that ends early is completed if little is missing (`jpeg.MAX_MISSING`).

    Args:
        source: File, or its content.
        short_side: Resize the image so that its short side has this length (bicubic, antialiased).
        rendering: How bands and values beyond 8 bits become channels.

    Returns:
        The upright image, (H, W, 3) uint8 RGB (another number of channels, or uint16, as the
        rendering states), and the (height, width) of the upright original.

    Raises:
        BrokenImage: It cannot be read.
    """
    try:
        with _open_image(source, rendering) as (image, where):
            return _decoded(image, short_side, where, rendering)
    except _EndsEarly as error:
        content = source if isinstance(source, bytes) else source.read_bytes()
        whole = jpeg.complete(content, str(error.where) if error.where else None)
        with _open_image(whole, rendering) as (image, where):
            return _decoded(image, short_side, where, rendering)


def read_size(source: Path | bytes) -> tuple[int, int]:
    """Return the (height, width) that `read_image` would give, from the header of the file.

    Raises:
        BrokenImage: It cannot be read.
    """
    with _open_image(source) as (image, _):
        file: IO[bytes] | None = getattr(image, "fp", None)
        if image.format == "PNG" and file is not None and _has_trailing_metadata(file):
            image.load()  # the only way to it, and rare
        width, height = image.size
        # Pillow has already turned the size of a TIFF. Its PNG reader decodes everything before it
        # looks for EXIF: not here.
        turned = image.format != "TIFF" and _orientation(image, Image.Image.getexif) >= 5
        return (width, height) if turned else (height, width)


def usual_extension(content: bytes) -> str:
    """Return the extension that files of the format of an image have: ".jpg".

    Raises:
        BrokenImage: It cannot be read.
    """
    with _open_image(content) as (image, _):
        return _EXTENSIONS.get(image.format or "", f".{(image.format or '').lower()}")


def read_index_mask(source: Path | bytes) -> np.ndarray:
    """Return the values of a mask, (H, W) integers, upright.

    They are palette indices, or gray values of 1, 8, 16 or 32 bits; nothing is converted. A color
    image counts if its three channels are equal.

    Raises:
        BrokenImage: It cannot be read, or has colors or fractions.
    """
    with _open_image(source) as (image, where):
        return _index_values(image, where)


def read_mask_pages(source: Path | bytes) -> list[np.ndarray]:
    """Return the values of each page of a TIFF as `read_index_mask`; of other files one.

    Pages that are smaller than the first, such as previews, are left out.

    Raises:
        BrokenImage: A page cannot be read, or has colors or fractions.
    """
    with _open_image(source) as (image, where):
        count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        pages = list[np.ndarray]()
        for index in range(count):
            image.seek(index)
            if not pages or image.size == pages[0].shape[::-1]:
                _refuse_bomb(image.width, image.height * count, where)
                pages.append(_index_values(image, where))
        return pages


def _index_values(image: Image.Image, where: str | None) -> np.ndarray:
    """The values of the current page of an image, as `read_index_mask` returns them."""
    image.load()
    values = image.info["values"] if "values" in image.info else np.asarray(image)
    if values.ndim == 3:  # of LA and PA the second band is transparency
        channels = values[..., :1] if image.mode in ("LA", "PA") else values[..., :3]
        if (channels != channels[..., :1]).any():
            raise BrokenImage(
                "this mask has colors instead of class numbers",
                where=where,
                why=f"its mode is {image.mode}; a mask has palette or gray values",
                id="mask_has_colors",
            )
        values = channels[..., 0]
    if values.dtype.kind not in "biu":
        raise BrokenImage(
            "this mask has fractions instead of class numbers",
            where=where,
            why=f"its mode is {image.mode}",
            id="mask_fractions",
        )
    # transposed as an array, because Pillow cannot transpose all modes
    upright = _upright_array(values, _orientation(image))
    return np.array(upright, dtype=np.uint8 if values.dtype.kind == "b" else values.dtype)


def read_stored_values(source: Path | bytes, rendering: Rendering = AS_STORED) -> np.ndarray:
    """Return the values that a file stores, (H, W) or (H, W, bands) of any number type.

    Args:
        source: File, or its content.
        rendering: States the bands.

    Raises:
        BrokenImage: It cannot be read.
    """
    with _open_image(source, rendering) as (image, _):
        image.load()
        if "values" in image.info:
            return select_bands(image.info["values"], rendering.bands)
        return np.asarray(image)


@dataclass(frozen=True)
class ImageHeader:
    """What the header of a file says about its image.

    Attributes:
        size: Upright (height, width).
        format: JPEG, MPO, PNG, ...
        mode: Pillow's name of the pixel type (RGB, CMYK, P, I;16, F, ...).
        is_16_bit: Whether a channel has 16 bits.
        is_deep: Whether a channel has more than 8 bits.
        is_multi_frame: Whether it is an animation or a document of several images.
        has_transparency: Whether some of it is transparent, or may be.
        exif_transformed: Whether EXIF turns or mirrors it.
        bands: Number of its bands, transparency included.
    """

    size: tuple[int, int]
    format: str
    mode: str
    is_16_bit: bool
    is_deep: bool
    is_multi_frame: bool
    has_transparency: bool
    exif_transformed: bool
    bands: int


def read_header(source: Path | bytes) -> ImageHeader:
    """Read the header of a file; no pixel is decoded except where `read_size` must.

    Raises:
        BrokenImage: It cannot be read.
    """
    upright = read_size(source)
    with _open_image(source) as (image, _):
        tiles = getattr(image, "tile", ())
        stored = image.info.get("values")
        is_16_bit = ";16" in image.mode or any(";16" in str(tile[3]) for tile in tiles)
        return ImageHeader(
            size=upright,
            format=str(image.format),
            mode=image.mode,
            is_16_bit=is_16_bit or (stored is not None and stored.dtype.itemsize == 2),
            is_deep=is_16_bit
            or image.mode in ("I", "F")
            or (stored is not None and stored.dtype.itemsize > 1),
            is_multi_frame=bool(getattr(image, "is_animated", image.info.get("frames", 1) > 1)),
            has_transparency=image.has_transparency_data,
            exif_transformed=_orientation(image, Image.Image.getexif) > 1,
            bands=image.info.get("bands", len(image.getbands())),
        )


def content_hash(source: Path | bytes) -> str:
    """Return the SHA-256 of a file, or of its content, hexadecimal.

    Raises:
        BrokenImage: It is not a file, or cannot be read.
    """
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    path = source
    if not path.is_file():
        raise BrokenImage(
            "this is not a file",
            where=printable(path),
            hint="remove it, or check the path",
            id="not_a_file",
        )
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BrokenImage(
            "this file cannot be read",
            where=printable(path),
            why=_reason(error),
            id="unreadable_file",
        ) from None


def thumbnail(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return (H, W, 3) uint8 with a long side of at most `side` pixels, of any decoded image."""
    pixels = as_rgb(pixels)
    image = Image.fromarray(pixels)
    if max(image.size) <= side:
        return pixels
    return np.asarray(image.resize(with_long_side(image.size, side), Image.Resampling.BICUBIC))


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, C) or (H, W), uint8 or uint16, to (height, width), bicubic."""
    if pixels.dtype == np.uint8 and (pixels.ndim == 2 or pixels.shape[2] == 3):
        return np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))
    if pixels.ndim == 3:
        bands = np.moveaxis(pixels, -1, 0)
        return np.stack([resize(np.ascontiguousarray(band), size) for band in bands], axis=-1)
    # of 16-bit images, Pillow resizes only floats bicubically; these exceed black and white
    image = Image.fromarray(pixels.astype(np.float32))
    resized = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))
    return np.asarray(np.rint(resized.clip(0, 65535)), dtype=np.uint16)


def with_short_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size, in its own order, with the short side at `side` and the aspect kept."""
    scale = side / min(size)
    return max(side, round(size[0] * scale)), max(side, round(size[1] * scale))


def with_long_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size, in its own order, with the long side at `side` and the aspect kept."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


# --- opening


class _EndsEarly(BrokenImage):
    """A JPEG ends before its image does."""


@contextmanager
def _open_image(
    source: Path | bytes, rendering: Rendering = AS_STORED
) -> Iterator[tuple[Image.Image, str | None]]:
    """The opened image and its printable path; whatever goes wrong inside is a BrokenImage."""
    where = None if isinstance(source, bytes) else printable(source)
    file = _openable(source, where)
    try:
        with quiet_pillow(), _identified(file, source, where, rendering) as image:
            _refuse_bomb(image.width, image.height, where)
            yield image, where
    except BrokenImage:
        raise
    except Image.DecompressionBombError as error:  # newer versions of Pillow refuse by themselves
        raise _bomb(where, str(error)) from None
    except PermissionError as error:
        raise _unreadable(where, error.strerror or str(error)) from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        ends_early = "truncated" in str(error) and _starts_as_jpeg(source)
        raise (_EndsEarly if ends_early else BrokenImage)(
            "this image cannot be decoded",
            where=where,
            why=_reason(error),
            hint="save it again from a viewer, or remove it",
            id="undecodable_image",
        ) from None


def _identified(
    file: Path | io.BytesIO, source: Path | bytes, where: str | None, rendering: Rendering
) -> Image.Image:
    """The image as Pillow opens it; or of another reader, already decoded."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        values = read_values(source, where)
        if values is None:
            raise
        return from_values(values, rendering)
    is_tiff = image.format == "TIFF"
    if (rendering.bands and is_tiff) or is_deep_color(image):
        # Pillow may have left bands out, and takes the upper 8 bits of 16-bit colors
        bands = max(rendering.channels, 3)
        values = read_values(source, where) if is_tiff else read_deep_png(source, bands)
        if values is not None:
            image.close()
            return from_values(values, rendering)
    return image


def _starts_as_jpeg(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        return jpeg.is_jpeg(source)
    with source.open("rb") as file:
        return jpeg.is_jpeg(file.read(2))


def _openable(source: Path | bytes, where: str | None) -> Path | io.BytesIO:
    """What Pillow can open. A pipe would block and a folder would confuse it: both are refused."""
    if isinstance(source, bytes):
        _refuse_empty(len(source), where)
        return io.BytesIO(source)
    if not source.is_file():
        why = "it is not a regular file" if source.exists() else "there is nothing at this path"
        raise _unreadable(where, why)
    _refuse_empty(source.stat().st_size, where)
    return source


def _unreadable(where: str | None, why: str) -> BrokenImage:
    return BrokenImage(
        "this image cannot be read",
        where=where,
        why=why,
        hint="check its path and its permissions, or remove it",
        id="unreadable_image",
    )


def _refuse_empty(size: int, where: str | None) -> None:
    if size == 0:
        raise BrokenImage(
            "this image file is empty",
            where=where,
            why="it has zero bytes",
            hint="copy it again, or remove it",
            id="empty_image",
        )


def _refuse_bomb(width: int, height: int, where: str | None) -> None:
    if width * height > MAX_PIXELS:
        raise _bomb(where, f"{width} x {height} is more than {MAX_PIXELS:,} pixels")


def _bomb(where: str | None, why: str) -> BrokenImage:
    return BrokenImage(
        "this image is too large to decode safely",
        where=where,
        why=why,
        hint="scale it down first, or cut it into tiles",
        id="too_large_image",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unrecognized image format"
    return str(error).replace("\n", " ") or type(error).__name__


# --- size and orientation


def _decoded(
    image: Image.Image, short_side: int | None, where: str | None, rendering: Rendering
) -> tuple[np.ndarray, tuple[int, int]]:
    full = image.size
    if short_side is not None:
        # a JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; other formats ignore the wish
        image.draft(None, (2 * short_side, 2 * short_side))
    drafted = image.size != full
    image.load()
    # after load: Pillow turns a TIFF by itself, and a PNG may state its orientation at its end
    orientation = _orientation(image)
    if not rendering.is_rgb:
        size = full if drafted else image.size
        size = size if orientation >= 5 else size[::-1]
        bands = _upright_array(to_bands(image, rendering), orientation)
        if short_side is not None:
            bands = _resized_bands(bands, with_short_side(size, short_side), where)
        is_gray = bands.shape[2] == 1
        return np.ascontiguousarray(bands.repeat(3, axis=2) if is_gray else bands), size
    upright = to_rgb(image, rendering.value_range)
    if orientation in _TRANSPOSES:
        upright = upright.transpose(_TRANSPOSES[orientation])
    width, height = (full[::-1] if orientation >= 5 else full) if drafted else upright.size
    if short_side is not None:
        upright = _resized(upright, with_short_side((width, height), short_side), where)
    return np.array(upright), (height, width)


def _orientation(
    image: Image.Image, exif: Callable[[Any], Image.Exif] = lambda image: image.getexif()
) -> int:
    """1 to 8; unreadable EXIF is no reason to lose the image, so it counts as upright."""
    try:
        value = exif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata raises nearly anything
        return 1
    return value if value in _TRANSPOSES else 1


def _upright_array(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W) or (H, W, C) upright; the same as Pillow's transpose with _TRANSPOSES[orientation]."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def _has_trailing_metadata(file: IO[bytes]) -> bool:
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


def _resized_bands(bands: np.ndarray, size: tuple[int, int], where: str | None) -> np.ndarray:
    _refuse_bomb(*size, where)
    return bands if bands.shape[:2] == size else resize(bands, size)


def _resized(image: Image.Image, size: tuple[int, int], where: str | None) -> Image.Image:
    _refuse_bomb(*size, where)  # an image of 1 x 100,000 px would grow beyond measure
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
