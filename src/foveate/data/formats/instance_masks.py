"""Images with masks that number the objects, or have a mask for each object: boxes and outlines.

    images/1.tif      masks/1.tif               0, and 1 to n for the n objects (StarDist)
    1.png             1_cp_masks.png            beside the images (Cellpose); 1_masks.tif
    7/images/7.png    7/masks/x.png, y.png      a black and white mask per object (DSB 2018)
    leftImg8bit/...   gtFine/..._instanceIds.png    class times 1000, plus a number (Cityscapes)

Where it is doubtful whether values are classes or objects, it is asked.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np

from foveate.data.boxes import RawBoxes
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._box_table import BoxTableBuilder
from foveate.data.formats._instance_ids import Numbering, add_objects
from foveate.data.formats._known_lists import CITYSCAPES_OBJECTS, cityscapes_names
from foveate.data.formats._mask_inference import numbering_of, object_name
from foveate.data.formats._mask_pairs import Pair, Pairing, find_pairs, read_splits
from foveate.data.formats._mask_values import read_binary, require_values
from foveate.data.formats.masks import class_list_of, numbering_in, require_equal_size
from foveate.data.issues import skip_and_record
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_size
from foveate.predictions import Boxes
from foveate.types import IssueKind, Table, remark
from foveate.utils.paths import printable

_LABEL_IDS = re.compile(r"_labelids$", re.IGNORECASE)
_MANY = 0.5  # share of images with several masks from which each mask may be an object
_PER_CLASS = 1000  # values per class of Cityscapes

_BROKEN = IssueKind(
    "unreadable_mask_of_objects", "masks that cannot be read, dropped with their images", "error"
)


class InstanceMasks(Format):
    """Masks that tell objects apart."""

    summary: ClassVar[str] = "masks that tell objects apart"
    target: ClassVar[type | None] = Boxes

    def sniff(self, path: Path) -> Reading | None:
        """A folder in which the values of masks are numbers of objects, or masks are objects."""
        try:
            pairing = find_pairs(path) if path.is_dir() else None
            if pairing is None or pairing.layout == "per_class":
                return None
            if pairing.layout == "per_object":
                return Reading(Fit.STATED)
            if _instance_ids(pairing.pairs[0]) or _have_several(pairing):
                return Reading(Fit.POSSIBLE)
        except DataError:
            return None
        numbering = numbering_in(pairing)
        return _reading(numbering) if numbering else None

    def read(self, path: Path) -> Table:
        """Read the masks, each of which is opened.

        Raises:
            DataError: There are none, their values are classes, or one has another size than its
                image.
        """
        pairing = find_pairs(path)
        name = object_name(class_list_of(pairing))
        is_cityscapes = bool(_instance_ids(pairing.pairs[0]))
        if pairing.layout != "per_object" and not is_cityscapes and not _have_several(pairing):
            self._require_numbers(pairing)
        splits = read_splits(pairing)
        builder = BoxTableBuilder(pairing.config.root)
        builder.notes += pairing.notes()
        for pair in pairing.pairs:
            raw = RawBoxes()
            try:
                with skip_and_record():
                    _add_pair(pair, name, pairing.layout == "per_object", raw)
            except BrokenImage as error:
                builder.log.add(_BROKEN, builder.key(pair.image.path), why=error.why or error.what)
                continue
            split = splits.get(pair.image.path.stem) or pair.image.split
            builder.add_image(pair.image.path, raw, split)
        if is_cityscapes:
            text = (
                "groups of objects whose members are not told apart, and classes without objects"
                " (road, sky), are left out"
            )
            builder.notes.append(remark("cityscapes_groups", text))
        names = cityscapes_names().values() if is_cityscapes else (name,)
        return builder.build(names, "instance_masks")

    def _require_numbers(self, pairing: Pairing) -> None:
        if not numbering_of(pairing.masks, None):
            raise DataError(
                "the values of the masks do not number objects",
                where=printable(pairing.masks[0]),
                why="numbers of objects run from 1 to n in each mask, and the pixels of each are"
                " connected",
                hint="to read the values as classes, use --format masks",
                id="masks_do_not_number",
            )


def _reading(numbering: Numbering) -> Reading:
    if numbering.certainty == "certain":
        return Reading(Fit.STATED)
    return Reading(Fit.LIKELY, (f"the values, at most {numbering.most}, may be classes",))


def _have_several(pairing: Pairing) -> bool:
    several = sum(len(pair.masks) > 1 for pair in pairing.pairs)
    return several >= _MANY * len(pairing.pairs)


def _instance_ids(pair: Pair) -> Path | None:
    """The file beside the class mask of Cityscapes that numbers the objects."""
    mask = pair.masks[0].path
    if not _LABEL_IDS.search(mask.stem):
        return None
    file = mask.with_name(_LABEL_IDS.sub("_instanceIds", mask.stem) + mask.suffix)
    return file if file.is_file() else None


def _add_pair(pair: Pair, name: str, is_object: bool, raw: RawBoxes) -> None:
    """Add the objects of an image; `is_object`: a mask is one. Raises BrokenImage, DataError."""
    size = read_size(pair.image.path)
    instance_ids = _instance_ids(pair)
    for mask in pair.masks:
        if len(pair.masks) > 1 or is_object:
            values = read_binary(mask.path).astype(np.uint8)
        else:
            values = require_values(instance_ids or mask.path)
        height, width = values.shape
        require_equal_size(pair.image.path, size, mask.path, (height, width))
        add_objects(raw, values, _cityscapes_values(values) if instance_ids else name)


def _cityscapes_values(values: np.ndarray) -> dict[int, str]:
    """The class of each value that is a single object: 26003 is a car."""
    names = cityscapes_names()
    numbers = [number for number in np.unique(values).tolist() if number >= _PER_CLASS]
    classes = {number: number // _PER_CLASS for number in numbers}
    return {
        number: names[value]
        for number, value in classes.items()
        if value >= CITYSCAPES_OBJECTS and value in names
    }
