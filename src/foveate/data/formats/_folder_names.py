"""What the name of a folder tells about the images in it."""

from __future__ import annotations

from typing import Literal

from foveate.data.split_names import split_from_name
from foveate.types import Split

Role = Literal["image", "mask"]

_IMAGES = (
    *("jpegimages", "images", "image", "imgs", "img", "leftimg8bit", "rgb"),
    *("photos", "photo", "pictures", "picture", "pics", "originals", "original"),
    *("frames", "frame", "default", "imgsfine"),  # CVAT's default and defaultannot
)
_MASKS = (
    *("gtfine", "gtcoarse", "maskimages", "segmaps"),
    *("segmentationclass", "groundtruth", "segmentations", "segmentation", "gt"),
    *("annotations", "annotation", "annots", "annot", "masks", "mask", "labels", "label"),
    *("manual", "manual1", "1stmanual", "trimaps", "groundtruths", "gts", "labelimages"),
)
# drawn by people; a folder `mask` beside one holds fields of view (DRIVE, HRF)
_DRAWN = ("manual", "manual1", "1stmanual")
# of two that begin alike, the longer first
_SPLITS = (
    *("training", "train", "validation", "valid", "val", "dev", "testing", "test"),
    *("default",),  # of CVAT; it is none
)


def is_drawn_by_hand(name: str) -> bool:
    """Whether a folder holds masks that people drew, so that others beside it are something else.

    'manual1', '1st_manual' -> True.
    """
    return _word(name) in _DRAWN


def _word(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def parse_folder_name(name: str) -> tuple[Split | None, Role | None] | None:
    """Return the split and the role that a name stands for; None if it stands for neither.

    'train_masks' -> ('train', 'mask'), 'images' -> (None, 'image'), 'val' -> ('val', None),
    'cats' -> None.
    """
    word = _word(name)
    for split in ("", *_SPLITS):
        if word.startswith(split):
            rest = word.removeprefix(split)
        elif word.endswith(split):
            rest = word.removesuffix(split)
        else:
            continue
        role: Role | None = "image" if rest in _IMAGES else "mask" if rest in _MASKS else None
        if role or (split_from_name(split) and not rest):
            return split_from_name(split), role
    return None
