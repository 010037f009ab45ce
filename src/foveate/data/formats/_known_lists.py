"""Names of the classes of well-known data sets whose files do not state them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from foveate.data.formats._class_lists import ClassList, make_class_list

# by value; those of Cityscapes that are not scored begin with -
_CITYSCAPES = (
    *("-unlabeled", "-ego vehicle", "-rectification border", "-out of roi", "-static", "-dynamic"),
    *("-ground", "road", "sidewalk", "-parking", "-rail track", "building", "wall", "fence"),
    *("-guard rail", "-bridge", "-tunnel", "pole", "-polegroup", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "-caravan"),
    *("-trailer", "train", "motorcycle", "bicycle"),
)
CITYSCAPES_OBJECTS = 24  # the first value whose objects are numbered: 24007 is person 7
_TRIMAP = {1: "foreground", 2: "background", 3: "-border"}  # Oxford-IIIT Pet


def cityscapes_names() -> dict[int, str]:
    """Return the names of the classes of Cityscapes that are scored, by `labelIds`."""
    return {value: name for value, name in enumerate(_CITYSCAPES) if not name.startswith("-")}


def known_list(masks: Sequence[Path], values: Collection[int]) -> ClassList | None:
    """Return the class list of a well-known data set.

    Args:
        masks: All masks, whose names tell the data set.
        values: Values that they hold. They have to be those of its classes; at least half of them
            of classes that are scored.
    """
    for suffix, names, source in (
        ("_labelids", dict(enumerate(_CITYSCAPES)), "the labels of Cityscapes"),
        ("_labeltrainids", dict(enumerate(cityscapes_names().values())), "those of Cityscapes"),
    ):
        if all(mask.stem.casefold().endswith(suffix) for mask in masks):
            return _if_fits(make_class_list(names, source), values)
    if all(mask.parent.name.casefold() == "trimaps" for mask in masks):
        return _if_fits(make_class_list(_TRIMAP, "the trimaps of Oxford-IIIT Pet"), values)
    return None


def _if_fits(known: ClassList, values: Collection[int]) -> ClassList | None:
    others = {value for value in values if value != 255}
    fits = others <= set(known.names) and 2 * len(others & set(known.kept)) >= len(others)
    return known if fits else None
