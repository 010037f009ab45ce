"""The images that a user names for predictions: files, what is inside files, folders.

Imports no torch: exported files predict where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from foveate.data.discovery import extension_of, find_images_at
from foveate.data.parquet_rows import read_parquet
from foveate.data.stored_images import (
    ARCHIVES,
    ParquetImage,
    find_images_in,
    find_members,
    may_hold_images,
)
from foveate.errors import DataError
from foveate.types import Sample, StoredImage
from foveate.utils.paths import printable

PARQUET = ".parquet"


def find_samples_at(paths: Iterable[Path]) -> Iterator[Sample]:
    """Yield the images in files and folders, without labels, by names that lead back to them.

    Slices of a volume, frames of DICOM and tiles of a slide are named FILE#PART, rows of a Parquet
    file FILE#ROW, members of an archive ARCHIVE/MEMBER. A file that holds no images, or cannot be
    read, is yielded itself: decoding it says what is wrong.

    Args:
        paths: Image files, volumes, slides, Parquet files, .zip and .tar archives, and folders.

    Raises:
        UsageError: A path does not exist, or a folder contains no images.
    """
    for path in find_images_at(paths):
        name = printable(path)
        try:
            inside = [Sample(image, f"{name}{part}") for part, image in _images_inside(path)]
        except DataError:
            inside = []
        yield from inside or [Sample(path, name)]


def _images_inside(path: Path) -> Iterator[tuple[str, StoredImage]]:
    """The images in a file, by what is appended to its name; none if it is one image.

    Raises:
        DataError: It cannot be read.
    """
    extension = extension_of(path.name)
    if extension in ARCHIVES:
        for name, image in find_members(path):
            yield f"/{name}", image
    elif extension == PARQUET:
        for number, cells in read_parquet(path, lambda name: False):
            images = [cell for cell in cells.values() if isinstance(cell, ParquetImage)]
            if images:
                yield f"#{number:06d}", images[0]
    elif may_hold_images(path.name):
        for part, image in find_images_in(path).items():
            yield f"#{part}", image
