"""The only decoder: files and bytes -> upright (H, W, 3) uint8 RGB. Every verb reads here, so every verb sees the same pixels.

Lengths are pixels. A picture that cannot be read is a BrokenImage; nothing of Pillow's own (errors, warnings) leaks out.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from foveate.errors import BrokenImage
from foveate.utils.paths import printable

MAX_PIXELS = 178_956_970  # Pillow's own default limit: about half a gigabyte once decoded

# Named one by one, because some of Pillow's other readers (EPS) start programs. JPEG covers MPO.
_READERS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    source: Path | bytes, short_side: int | None = None, long_side: int | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """The upright picture, (H, W, 3) uint8 RGB, and the (height, width) of the upright original.

    With `short_side` the picture is resized so that its short side has exactly so many pixels (bicubic, antialiased); with
    `long_side` a picture whose long side has more pixels is reduced to it, a smaller one is left alone.
    Transparency lies on white; of an animation or a document the first frame counts. Raises BrokenImage.
    """
    with _picture(source) as (image, where):
        return _decoded(image, short_side, where)


def read_size(source: Path | bytes) -> tuple[int, int]:
    """The (height, width) that `read` would give, from the file's header: no pixel is decoded. Raises BrokenImage."""
    with _picture(source) as (image, _):
        file: IO[bytes] | None = getattr(image, "fp", None)
        if image.format == "PNG" and file is not None and _metadata_at_the_end(file):
            image.load()  # the only way to it, and rare
        width, height = image.size
        # Pillow has turned the size of a TIFF by itself. Its PNG reader decodes everything before it asks for EXIF: not here
        turned = image.format != "TIFF" and _orientation(image, Image.Image.getexif) >= 5
        return (width, height) if turned else (height, width)


def read_index_mask(source: Path | bytes) -> np.ndarray:
    """The numbers that a mask holds, (H, W) integers, upright: places in the palette, or grey values of 1, 8, 16 or 32 bits.

    Nothing is converted. A colour picture counts if its three channels are equal. Raises BrokenImage.
    """
    with _picture(source) as (image, where):
        image.load()
        values = np.asarray(image)
        if values.ndim == 3:  # LA, PA: the second band is transparency
            colours = values[..., :1] if image.mode in ("LA", "PA") else values[..., :3]
            if (colours != colours[..., :1]).any():
                why = f"it is a colour picture ({image.mode}); a mask is a picture of palette or grey values"
                raise BrokenImage(
                    "this mask has colours instead of class numbers", where=where, why=why
                )
            values = colours[..., 0]
        if values.dtype.kind not in "biu":
            raise BrokenImage(
                "this mask has fractions instead of class numbers",
                where=where,
                why=f"its mode is {image.mode}",
            )
        # turned as an array: not every mode of Pillow's can be
        return np.array(
            _turned(values, _orientation(image)),
            dtype=np.uint8 if values.dtype.kind == "b" else values.dtype,
        )


@dataclass(frozen=True)
class ImageHeader:
    """What the head of a file says. `size`: upright (height, width). `format`: JPEG, MPO, PNG, ...; `mode`: Pillow's word for its
    values (RGB, CMYK, P, I;16, F, ...). `deep`: 16 bits a channel. `several`: an animation or a document of more than one picture.
    `clear`: some of it is transparent, or may be. `turned`: EXIF turns or mirrors it."""

    size: tuple[int, int]
    format: str
    mode: str
    is_16_bit: bool
    is_multi_frame: bool
    has_transparency: bool
    exif_transformed: bool


def read_header(source: Path | bytes) -> ImageHeader:
    """What the head of a file says of its picture: no pixel is decoded, but where `size` must. Raises BrokenImage."""
    upright = read_size(source)
    with _picture(source) as (image, _):
        return ImageHeader(
            size=upright,
            format=str(image.format),
            mode=image.mode,
            is_16_bit=";16" in image.mode
            or any(";16" in str(part[3]) for part in getattr(image, "tile", ())),
            is_multi_frame=bool(getattr(image, "is_animated", False)),
            has_transparency=image.has_transparency_data,
            exif_transformed=_orientation(image, Image.Image.getexif) > 1,
        )


def content_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal; raises BrokenImage when it cannot be read."""
    if not path.is_file():
        raise BrokenImage(
            "this is not a file", where=printable(path), hint="remove it, or check the path"
        )
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BrokenImage(
            "this file cannot be read", where=printable(path), why=_reason(error)
        ) from None


def thumbnail(pixels: np.ndarray, side: int) -> np.ndarray:
    """A small copy of (H, W, 3) uint8 whose long side is `side` pixels; smaller pictures are kept as they are."""
    picture = Image.fromarray(pixels)
    if max(picture.size) <= side:
        return pixels
    return np.asarray(picture.resize(with_long_side(picture.size, side), Image.Resampling.BICUBIC))


def write_image(pixels: np.ndarray, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """(H, W, 3) uint8 as a file; its ending says the format. `told`: what a PNG says of itself, names and texts."""
    picture = Image.fromarray(pixels)
    if not metadata:
        picture.save(path)
        return
    notes = PngInfo()
    for name, text in metadata.items():
        notes.add_itxt(name, text)
    picture.save(path, pnginfo=notes)


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 or (H, W) -> `size`, (height, width); grey values in between are made for both."""
    return np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))


def encode_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """(H, W, 3) uint8 as it comes back from a JPEG file of this quality, 1 to 95."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return np.array(Image.open(buffer).convert("RGB"))


def to_data_uri(pixels: np.ndarray, format: Literal["jpeg", "png"] = "jpeg") -> str:
    """(H, W, 3) uint8 as a `data:` address that a page can show without a second file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format.upper())
    return f"data:image/{format};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _opened(source: Path | bytes, where: str | None) -> Path | io.BytesIO:
    """Something for Pillow to open; a pipe would block and a folder would confuse, so both are refused first."""
    if isinstance(source, bytes):
        _refuse_empty(len(source), where)
        return io.BytesIO(source)
    if not source.is_file():
        why = "it is not a regular file" if source.exists() else "there is nothing at this path"
        raise BrokenImage(
            "this picture cannot be read", where=where, why=why, hint="remove it, or check the path"
        )
    _refuse_empty(source.stat().st_size, where)
    return source


@contextmanager
def _picture(source: Path | bytes) -> Iterator[tuple[Image.Image, str | None]]:
    """The opened picture and its printable path; whatever goes wrong while it is open is a BrokenImage."""
    where = None if isinstance(source, bytes) else printable(source)
    file = _opened(source, where)
    try:
        with _quiet(), Image.open(file, formats=_READERS) as image:
            _refuse_bomb(image.width, image.height, where)
            yield image, where
    except BrokenImage:
        raise
    except Image.DecompressionBombError as error:  # newer Pillows refuse by themselves
        raise _bomb(where, str(error)) from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise BrokenImage(
            "this picture cannot be decoded",
            where=where,
            why=_reason(error),
            hint="save it again from a viewer, or remove it",
        ) from None


def _refuse_empty(size: int, where: str | None) -> None:
    if size == 0:
        raise BrokenImage(
            "this picture is empty",
            where=where,
            why="it has zero bytes",
            hint="copy it again, or remove it",
        )


def _refuse_bomb(width: int, height: int, where: str | None) -> None:
    if width * height > MAX_PIXELS:
        raise _bomb(where, f"{width} x {height} is more than {MAX_PIXELS:,} pixels")


def _bomb(where: str | None, why: str) -> BrokenImage:
    hint = "scale it down first, or cut it into tiles"
    return BrokenImage(
        "this picture is too large to decode safely", where=where, why=why, hint=hint
    )


def _fit(size: tuple[int, int], short_side: int | None, long_side: int | None) -> int | None:
    """The short side that the picture of this (width, height) or (height, width) shall have; None leaves it as it is."""
    if long_side is not None and max(size) > long_side:
        return max(1, round(min(size) * long_side / max(size)))
    return short_side


def _decoded(
    image: Image.Image, short_side: int | None, where: str | None
) -> tuple[np.ndarray, tuple[int, int]]:
    full = image.size
    if (
        short_side is not None
    ):  # a JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; other formats ignore the wish
        image.draft(None, (2 * short_side, 2 * short_side))
    drafted = image.size != full
    image.load()
    orientation = _orientation(
        image
    )  # after load: Pillow turns a TIFF by itself, and a PNG may state it at its end
    picture = _rgb(image)
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    width, height = (full[::-1] if orientation >= 5 else full) if drafted else picture.size
    if short_side is not None:
        picture = _resized(picture, with_short_side((width, height), short_side), where)
    return np.array(picture), (height, width)


def _orientation(
    image: Image.Image, exif: Callable[[Any], Image.Exif] = lambda image: image.getexif()
) -> int:
    """1 to 8; unreadable EXIF is no reason to lose the picture, so it counts as upright."""
    try:
        value = exif(image).get(_ORIENTATION, 1)
    except Exception:  # as in `read`: damaged metadata raises anything
        return 1
    return value if value in _UPRIGHT else 1


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W) upright; the same as Pillow's transpose with _UPRIGHT[orientation]."""
    if orientation >= 5:
        values = values.T
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def _metadata_at_the_end(file: IO[bytes]) -> bool:
    """Whether a PNG states something after its pixels; only the heads of its chunks are read (8 bytes: length and name)."""
    behind, here = False, file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8:
        name = head[4:]
        if behind and name in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            break
        behind = behind or name == b"IDAT"
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)  # 4: the checksum
    file.seek(here)
    return len(head) == 8


def with_short_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width), or the other way round, with the short side at `side`, the aspect kept."""
    scale = side / min(size)
    return max(side, round(size[0] * scale)), max(side, round(size[1] * scale))


def with_long_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The same with the long side at `side`."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(picture: Image.Image, size: tuple[int, int], where: str | None) -> Image.Image:
    _refuse_bomb(*size, where)  # a picture of 1 x 100,000 px would grow beyond measure
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow's as RGB, on white where it is transparent."""
    if image.mode.startswith("I;16"):
        return _grey(_from_16_bits(np.asarray(image)))
    if image.mode == "I":
        return _grey(_from_integers(np.asarray(image)))
    if image.mode == "F":
        return _grey(_from_floats(np.asarray(image)))
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(values)).convert("RGB")


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    """0..65535 -> 0..255: 257 = 65535 / 255, so that white stays white and all 256 levels are reached."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_integers(values: np.ndarray) -> np.ndarray:
    """Bytes stay, 16 bits are scaled, anything wider or below zero is stretched from its least to its greatest value."""
    if values.min() < 0 or values.max() > 65535:
        return _stretched(values.astype(np.float64))
    return _from_16_bits(values) if values.max() > 255 else values.astype(np.uint8)


def _from_floats(values: np.ndarray) -> np.ndarray:
    """0..1 times 255, 0..255 as they are, other ranges stretched; what is not a finite number becomes 0."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if values.min() < 0 or values.max() > 255:
        return _stretched(values)
    scale = 255 if values.max() <= 1 else 1
    return np.asarray(np.rint(values * scale), dtype=np.uint8)


def _stretched(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    scale = 255 / (high - low) if high > low else 0
    return np.asarray(np.rint((values - low) * scale), dtype=np.uint8)


def _reason(error: Exception) -> str:
    text = str(error).replace("\n", " ")
    return (
        "no reader knows its content"
        if isinstance(error, UnidentifiedImageError)
        else text or type(error).__name__
    )


_lock = threading.Lock()
_readers_inside = 0
_filters: warnings.catch_warnings[None] | None = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Pillow's warnings in. catch_warnings is not safe across threads: the first reader sets it, the last resets it."""
    global _readers_inside, _filters
    with _lock:
        _readers_inside += 1
        if _readers_inside == 1:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        yield
    finally:
        with _lock:
            _readers_inside -= 1
            if _readers_inside == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
                _filters = None
