"""Image files that Pillow does not read: DICOM, HEIC, TIFF of many bands; what is no image at all.

The packages that read them are in the extra `imaging`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import BrokenImage
from foveate.images import dicom
from foveate.images.installed import require_reader
from foveate.images.limits import refuse_large
from foveate.images.nifti import VOLUME_EXTENSIONS

HEIC_EXTENSIONS = (".heic", ".heif")
VIDEO_EXTENSIONS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
ARCHIVE_EXTENSIONS = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_HEAD = 512  # bytes from which a format is recognized
# bytes a pixel: of HEIC in all its forms; of RGB as an image, an array and a copy
_HEIC_BYTES, _RGB_BYTES = 20, 15
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_MATROSKA = b"\x1aE\xdf\xa3"
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Values:
    """The stored values of an image.

    Attributes:
        array: (H, W) or (H, W, bands), of any number type.
        format: Name of the file format.
        frames: Number of images in the file; of a TIFF 2 for several.
    """

    array: np.ndarray
    format: str
    frames: int = 1


def read_values(source: Path | bytes, where: str | None) -> Values | None:
    """Read a file that Pillow does not recognize; None if it is of no known format either.

    Args:
        source: File, or its content.
        where: Its name, for messages.

    Raises:
        BrokenImage: It is damaged, its reader is not installed, or it is a video or an archive.
    """
    head = _head(source)
    if dicom.is_dicom(head, where or ""):
        require_reader("pydicom", "DICOM", where)
        frames = 1 if isinstance(source, bytes) else dicom.count_frames(source)
        return Values(dicom.render(source), "DICOM", frames)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        require_reader("pi_heif", "HEIC", where)
        return Values(_read_heic(source), "HEIC")
    if head[:4] in _TIFF_MARKS:
        require_reader("tifffile", "a TIFF of many bands, or of an uncommon kind", where)
        return _read_tiff(source)
    _refuse_other_media(head, where)
    return None


def is_deep_color(image: Image.Image) -> bool:
    """Whether an opened TIFF or PNG has colors of 16 bits, and the package that reads them is here.

    Of an image with one band, Pillow reads all 16 bits itself.
    """
    if image.format not in ("TIFF", "PNG") or len(image.getbands()) < 3:
        return False
    is_deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    needed = "tifffile" if image.format == "TIFF" else "imagecodecs"
    return is_deep and find_spec(needed) is not None


def is_deep_tiff(source: Path | bytes) -> bool:
    """Whether a file is a TIFF of more than 8 bits that Pillow does not read, by its header."""
    if _head(source)[:4] not in _TIFF_MARKS or find_spec("tifffile") is None:
        return False
    from tifffile import TiffFile

    try:
        with TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            return np.dtype(file.pages.first.dtype).itemsize > 1
    except Exception:  # a damaged file makes it raise nearly anything
        return False


def read_deep_png(source: Path | bytes, bands: int = 3) -> Values | None:
    """Return the values of a PNG of 16-bit colors; None if it has others than these `bands`.

    The fourth one is transparency, unless it is asked for as a band.
    """
    from imagecodecs import png_decode

    array = png_decode(source if isinstance(source, bytes) else source.read_bytes())
    return Values(array, "PNG") if array.ndim == 3 and array.shape[2] == bands else None


def _read_heic(source: Path | bytes) -> np.ndarray:
    """Upright, as the reader turns it."""
    from pi_heif import open_heif

    image = open_heif(io.BytesIO(source) if isinstance(source, bytes) else source)
    refuse_large(_HEIC_BYTES * image.size[0] * image.size[1], None)
    return np.asarray(image.to_pillow().convert("RGB"))


def _read_tiff(source: Path | bytes) -> Values:
    """The first image of a TIFF, bands last."""
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        page = file.pages.first
        refuse_large(page.nbytes + _RGB_BYTES * page.imagewidth * page.imagelength, None)
        array = page.asarray()
        if array.ndim == 3 and page.planarconfig == 2:  # separate planes: bands come first
            array = np.moveaxis(array, 0, -1)
        if array.ndim not in (2, 3):
            raise BrokenImage(
                "this TIFF is not an image of rows and columns",
                why=f"its axes are {page.axes}",
                hint="save single images, or bands",
                id="tiff_axes",
            )
        return Values(array, "TIFF", 2 if _has_second_page(file) else 1)


def _has_second_page(file: Any) -> bool:
    """Without reading the heads of all others, of which there may be a million."""
    try:
        return file.pages[1] is not None
    except IndexError:
        return False


def _refuse_other_media(head: bytes, where: str | None) -> None:
    """Raise BrokenImage, with the way out, for a volume, a video or an archive."""
    name = (where or "").lower()
    if name.endswith(VOLUME_EXTENSIONS):
        raise BrokenImage(
            "this is a volume, not an image",
            where=where,
            hint="give its path to foveate fit, check or predict, which read its slices",
            id="is_volume",
        )
    is_video = (
        name.endswith(VIDEO_EXTENSIONS) or head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3"
    )
    if is_video and not name.endswith((".heic", ".heif", ".avif")):
        raise BrokenImage(
            "this is a video, not an image",
            where=where,
            why="videos are not read yet",
            hint="take images out of it, one a second for instance:"
            " ffmpeg -i VIDEO -r 1 FOLDER/%05d.jpg",
            id="is_video",
        )
    if name.endswith(ARCHIVE_EXTENSIONS) or head.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        raise BrokenImage(
            "this is an archive, not an image",
            where=where,
            hint="unpack it, and give the folder; .zip and plain .tar files of images are read"
            " by foveate fit and predict",
            id="is_archive",
        )


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:_HEAD]
    with source.open("rb") as file:
        return file.read(_HEAD)
