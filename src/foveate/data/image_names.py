"""Images by their names, and the columns of a table that name images."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.data.discovery import EXTENSIONS, extension_of, find_images, is_image, remember
from foveate.data.stored_images import ParquetImage

_MAX_NAME = 1000  # characters of a cell that may name an image
_LEADING = 0.5  # share of the cells of a column of images that lead to one; others may be missing
_DIFFERENT = 0.5  # share of them that differ: an image may have several rows, but classes repeat

ImageIndex = dict[str, tuple[Path, ...]]
"""Images by their names with and without extension; of several of a name only the first two."""


def index_images(folder: Path) -> ImageIndex:
    """Return the images below a folder by their names."""
    index: ImageIndex = {}
    for path in find_images(folder):
        for name in {_fold_name(path.name), _fold_name(path.stem)}:
            index[name] = (*index.get(name, ()), path)[:2]
    return index


def last_name(name: str) -> str:
    """Return the name of a file in a path of any system, as it stands in an index."""
    return _fold_name(name.replace("\\", "/").rpartition("/")[2])


def _fold_name(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def image_columns(cells: Mapping[str, Sequence[Any]], folder: Path) -> list[str]:
    """Return the columns whose cells lead to images, by path or by a name that is unique.

    If some of them state extensions of images, these are returned alone: whole numbers may well
    be something else.

    Args:
        cells: Column -> its first cells.
        folder: The folder of the table; images are searched below it.

    Raises:
        DataError: A folder cannot be listed.
    """
    index = remember(("image names", folder), lambda: index_images(folder))
    columns = [name for name, own in cells.items() if _lead_to_images(own, folder, index)]
    explicit = [name for name in columns if _have_extensions(cells[name])]
    return explicit or columns


def _lead_to_images(cells: Iterable[Any], folder: Path, index: ImageIndex) -> bool:
    stored = [cell for cell in cells if isinstance(cell, ParquetImage)]
    names = [name for cell in cells if (name := _name(cell))]
    different = set(names)
    if stored or not names or len(different) < _DIFFERENT * len(names):
        return bool(stored)
    leading = sum(_leads_to_image(name, folder, index) for name in different)
    return leading >= _LEADING * len(different)


def _name(cell: Any) -> str:
    is_name = isinstance(cell, str | int) and not isinstance(cell, bool)
    name = str(cell).strip()[:_MAX_NAME] if is_name else ""
    return "" if "://" in name else name  # an address is for the export of a tool to explain


def _leads_to_image(name: str, folder: Path, index: ImageIndex) -> bool:
    if len(index.get(last_name(name), ())) == 1:
        return True
    path = folder / name
    try:
        return is_image(path) and path.is_file()
    except (OSError, ValueError):
        return False


def _have_extensions(cells: Iterable[Any]) -> bool:
    return any(
        isinstance(cell, ParquetImage) or extension_of(_name(cell)) in EXTENSIONS for cell in cells
    )
