"""What the name of a folder says about the pictures in it."""

from __future__ import annotations

from foveate.data.splits import split_from_name
from foveate.types import Split

_IMAGES = ("jpegimages", "images", "image", "imgs", "img")
_MASKS = (
    "segmentationclass", "groundtruth", "segmentations", "segmentation", "annotations", "annotation", "annots", "annot",
    "masks", "mask", "labels", "label", "gt",
)  # fmt: skip
_SPLITS = (
    "training",
    "train",
    "validation",
    "valid",
    "val",
    "dev",
    "testing",
    "test",
)  # the longer of two that begin alike first


def said_by(name: str) -> tuple[Split | None, str | None] | None:
    """'train_masks' -> ('train', 'mask'), 'images' -> (None, 'image'), 'val' -> ('val', None), 'cats' -> None."""
    word = "".join(letter for letter in name.casefold() if letter.isalnum())
    for split in ("", *_SPLITS):
        if word.startswith(split) or word.endswith(split):
            rest = word.removeprefix(split) if word.startswith(split) else word.removesuffix(split)
            role = "image" if rest in _IMAGES else "mask" if rest in _MASKS else None
            if role or (split and not rest):
                return split_from_name(split), role
    return None
