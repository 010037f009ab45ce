"""Writes images, masks of class numbers, and the list of their classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from foveate.data.formats._class_lists import is_ignored_name
from foveate.data.formats._folder_names import parse_folder_name
from foveate.data.formats._image_export import Parts, copy_images
from foveate.errors import UsageError
from foveate.images.encoding import write_image
from foveate.types import Issue, Sample, Table
from foveate.utils.paths import printable

_LIST = "classes.json"
_IGNORED = "-ignored"


def write_masks(table: Table, folder: Path) -> tuple[Issue, ...]:
    """Write images/ and masks/, with folders for the splits in them, and classes.json.

    A mask is a PNG of class numbers, of 16 bits if there are more than 255 classes; the largest
    number that it can hold is that of ignored pixels.

    Args:
        table: The dataset.
        folder: Where to write.

    Returns:
        Notes on images that were renamed.

    Raises:
        UsageError: A class has a name that would be read as that of ignored pixels.
    """
    for name in table.classes:
        if is_ignored_name(name):
            raise UsageError(
                f"the class {name!r} would be read as pixels to ignore",
                where=printable(table.root),
                hint="give it another name in the data, or use --to coco_masks",
            )
    notes: list[Issue] = []
    kind = np.uint8 if len(table.classes) <= np.iinfo(np.uint8).max else np.uint16
    ignored, is_used = int(np.iinfo(kind).max), False
    for image in copy_images(table, folder / "images", notes, _place):
        mask = image.regions.mask
        is_used |= bool((mask < 0).any())
        file = (folder / "masks" / image.path).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(np.where(mask < 0, ignored, mask).astype(kind), file)
    names = {str(value): name for value, name in enumerate(table.classes)}
    # a list with a single name would mean that all but 0 is of this class
    if is_used or len(names) == 1:
        names[str(ignored)] = _IGNORED
    text = json.dumps(names, ensure_ascii=False, indent=1)
    (folder / _LIST).write_text(text + "\n", encoding="utf-8")
    return tuple(notes)


def _place(sample: Sample, parts: Parts) -> Parts:
    """The split, and the folders of an image but for those that would be taken for a role."""
    inner = tuple(each for each in parts[:-1] if parse_folder_name(each) is None)
    return (*((sample.split,) if sample.split else ()), *inner, parts[-1])
