"""What the name of a folder tells about the images in it."""

from __future__ import annotations

from typing import Literal

from foveate.data.split_names import split_from_name
from foveate.types import Split

Role = Literal["image", "mask"]

_IMAGES = (
    *("jpegimages", "images", "image", "imgs", "img", "leftimg8bit", "rgb"),
    *("photos", "photo", "pictures", "picture", "pics", "originals", "original"),
)
_MASKS = (
    *("gtfine", "gtcoarse", "maskimages", "segmaps"),
    *("segmentationclass", "groundtruth", "segmentations", "segmentation", "gt"),
    *("annotations", "annotation", "annots", "annot", "masks", "mask", "labels", "label"),
)
# of two that begin alike, the longer first
_SPLITS = ("training", "train", "validation", "valid", "val", "dev", "testing", "test")


def parse_folder_name(name: str) -> tuple[Split | None, Role | None] | None:
    """Return the split and the role that a name stands for; None if it stands for neither.

    'train_masks' -> ('train', 'mask'), 'images' -> (None, 'image'), 'val' -> ('val', None),
    'cats' -> None.
    """
    word = "".join(letter for letter in name.casefold() if letter.isalnum())
    for split in ("", *_SPLITS):
        if word.startswith(split):
            rest = word.removeprefix(split)
        elif word.endswith(split):
            rest = word.removesuffix(split)
        else:
            continue
        role: Role | None = "image" if rest in _IMAGES else "mask" if rest in _MASKS else None
        if role or (split and not rest):
            return split_from_name(split), role
    return None
