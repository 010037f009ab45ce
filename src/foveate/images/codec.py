"""Decoding: files and bytes -> upright (H, W, 3) uint8 RGB, or other bands, or 16 bits.

The only decoder: every command reads images here, so that all see the same pixels. Lengths are
pixels. An image that cannot be read is a BrokenImage; nothing of Pillow's own (errors, warnings)
leaks out.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from foveate.errors import BrokenImage
from foveate.images import jpeg
from foveate.images.cost import deep_png_bytes, refuse_costly
from foveate.images.limits import refuse_large, refuse_pixels, too_large
from foveate.images.orientation import (
    TRANSPOSES,
    has_trailing_metadata,
    orientation_of,
    stated_orientation,
    upright_array,
)
from foveate.images.pixels import (
    AS_STORED,
    Rendering,
    as_rgb,
    from_values,
    select_bands,
    to_array,
    to_bands,
    to_rgb,
)
from foveate.images.quiet import quiet_pillow
from foveate.images.readers import is_deep_color, read_deep_png, read_values
from foveate.images.structure import working_bytes
from foveate.utils.paths import printable

# Named one by one, because some of Pillow's other readers (EPS) start programs. JPEG covers MPO.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_EXTENSIONS = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}  # others: .png


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
        with _open_image(source, rendering) as opened:
            return _decoded(opened, short_side, rendering)
    except _EndsEarly as error:
        content = source if isinstance(source, bytes) else source.read_bytes()
        whole = jpeg.complete(content, str(error.where) if error.where else None)
        with _open_image(whole, rendering) as opened:
            return _decoded(opened, short_side, rendering)


def read_size(source: Path | bytes) -> tuple[int, int]:
    """Return the (height, width) that `read_image` would give, from the header of the file.

    Raises:
        BrokenImage: It cannot be read.
    """
    with _open_image(source) as opened:
        image = opened.image
        file: IO[bytes] | None = getattr(image, "fp", None)
        opened.refuse_costly()
        if image.format == "PNG" and file is not None and has_trailing_metadata(file):
            image.load()  # the only way to it, and rare
        width, height = image.size
        # Pillow has already turned the size of a TIFF. Its PNG reader decodes everything before it
        # looks for EXIF: not here.
        turned = image.format != "TIFF" and stated_orientation(image) >= 5
        return (width, height) if turned else (height, width)


def usual_extension(content: bytes) -> str:
    """Return the extension that files of the format of an image have: ".jpg".

    Raises:
        BrokenImage: It cannot be read.
    """
    with _open_image(content) as opened:
        name = opened.image.format or ""
        return _EXTENSIONS.get(name, f".{name.lower()}")


def read_index_mask(source: Path | bytes) -> np.ndarray:
    """Return the values of a mask, (H, W) integers, upright.

    They are palette indices, or gray values of 1, 8, 16 or 32 bits; nothing is converted. A color
    image counts if its three channels are equal.

    Raises:
        BrokenImage: It cannot be read, or has colors or fractions.
    """
    with _open_image(source) as opened:
        return _index_values(opened)


def read_mask_pages(source: Path | bytes) -> list[np.ndarray]:
    """Return the values of each page of a TIFF as `read_index_mask`; of other files one.

    Pages that are smaller than the first, such as previews, are left out.

    Raises:
        BrokenImage: A page cannot be read, or has colors or fractions.
    """
    with _open_image(source) as opened:
        image = opened.image
        count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        pages = list[np.ndarray]()
        for index in range(count):
            image.seek(index)
            if not pages or image.size == pages[0].shape[::-1]:
                refuse_pixels(image.width, image.height * count, opened.where)
                pages.append(_index_values(opened))
        return pages


def _index_values(opened: _Opened) -> np.ndarray:
    """The values of the current page of an image, as `read_index_mask` returns them."""
    image, where = opened.image, opened.where
    opened.load()
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
    upright = upright_array(values, orientation_of(image))
    return np.array(upright, dtype=np.uint8 if values.dtype.kind == "b" else values.dtype)


def read_stored_values(source: Path | bytes, rendering: Rendering = AS_STORED) -> np.ndarray:
    """Return the values that a file stores, (H, W) or (H, W, bands) of any number type.

    Args:
        source: File, or its content.
        rendering: States the bands.

    Raises:
        BrokenImage: It cannot be read.
    """
    with _open_image(source, rendering) as opened:
        image = opened.image
        opened.load()
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
    with _open_image(source) as opened:
        image = opened.image
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
            exif_transformed=stated_orientation(image) > 1,
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


@dataclass(frozen=True)
class _Opened:
    """An image of which the header was read.

    Attributes:
        image: The image.
        where: Its printable path, if it has one.
        working: Bytes that the structure of the file makes the decoder hold.
    """

    image: Image.Image
    where: str | None
    working: int

    def refuse_costly(self, target: tuple[int, int] | None = None) -> None:
        """Raise BrokenImage if decoding it, and resizing it to `target`, takes too much."""
        if "values" in self.image.info:  # it is decoded already
            return
        # a PNG may state its orientation behind its pixels
        may_turn = self.image.format == "PNG" or stated_orientation(self.image) > 1
        refuse_costly(self.image, self.working, target, may_turn, self.where)

    def load(self, target: tuple[int, int] | None = None) -> None:
        """Decode it."""
        self.refuse_costly(target)
        self.image.load()


@contextmanager
def _open_image(source: Path | bytes, rendering: Rendering = AS_STORED) -> Iterator[_Opened]:
    """The opened image; whatever goes wrong inside is a BrokenImage."""
    where = None if isinstance(source, bytes) else printable(source)
    file = _openable(source, where)
    try:
        working = _working_bytes(source)
        with quiet_pillow(), _identified(file, source, where, rendering) as image:
            refuse_pixels(image.width, image.height, where)
            yield _Opened(image, where, working)
    except BrokenImage:
        raise
    except Image.DecompressionBombError as error:  # newer versions of Pillow refuse by themselves
        raise too_large(where, str(error)) from None
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


def _working_bytes(source: Path | bytes) -> int:
    if isinstance(source, bytes):
        return working_bytes(io.BytesIO(source), len(source))
    with source.open("rb") as file:
        return working_bytes(file, source.stat().st_size)


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
        refuse_large(deep_png_bytes(image.width, image.height), where)
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


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unrecognized image format"
    return str(error).replace("\n", " ") or type(error).__name__


# --- size and orientation


def _decoded(
    opened: _Opened, short_side: int | None, rendering: Rendering
) -> tuple[np.ndarray, tuple[int, int]]:
    image, full, target = opened.image, opened.image.size, None
    if short_side is not None:
        target = with_short_side(full, short_side)
        # an image of 1 x 100,000 px would grow beyond measure
        refuse_pixels(*target, opened.where)
        # a JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; other formats ignore the wish
        image.draft(None, (2 * short_side, 2 * short_side))
    drafted = image.size != full
    opened.load(target)
    # after load: Pillow turns a TIFF by itself, and a PNG may state its orientation at its end
    orientation = orientation_of(image)
    if not rendering.is_rgb:
        size = full if drafted else image.size
        size = size if orientation >= 5 else size[::-1]
        bands = upright_array(to_bands(image, rendering), orientation)
        side = bands.shape[:2] if short_side is None else with_short_side(size, short_side)
        bands = bands if bands.shape[:2] == side else resize(bands, side)
        is_gray = bands.shape[2] == 1
        return np.ascontiguousarray(bands.repeat(3, axis=2) if is_gray else bands), size
    upright = to_rgb(image, rendering.value_range)
    if orientation in TRANSPOSES:
        upright = upright.transpose(TRANSPOSES[orientation])
    width, height = (full[::-1] if orientation >= 5 else full) if drafted else upright.size
    if short_side is not None:
        size = with_short_side((width, height), short_side)
        if upright.size != size:
            upright = upright.resize(size, Image.Resampling.BICUBIC)
    return to_array(upright), (height, width)
