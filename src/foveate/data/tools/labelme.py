"""LabelMe's JSON for an image."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from foveate.data.tools import class_masks, cropped, masks_of, scores_of
from foveate.images.bitmaps import encode_bitmap
from foveate.predictions import Boxes, Labels, Regions

LABELS = "labels.txt"
"""The list of classes, as for `labelme --labels`."""
_VERSION = "5.5.0"  # of the LabelMe whose files these are like


def to_json(
    image_path: str,
    size: tuple[int, int],
    target: Labels | Boxes | Regions,
    classes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the content of the file of an image.

    Args:
        image_path: The image, relative to the file.
        size: Its (H, W).
        target: What is on it; classes of the image become its flags.
        classes: All classes, for flags and regions.
    """
    shapes = list[dict[str, Any]]()
    if isinstance(target, Boxes):
        parts = zip(target.names, target.xyxy, masks_of(target), scores_of(target), strict=True)
        for name, corners, mask, score in parts:
            part = None if mask is None else cropped(mask)
            shape = _mask(name, *part) if part else _rectangle(name, corners)
            shapes.append(shape if score is None else {**shape, "score": score})
    elif isinstance(target, Regions):
        for name, inside in class_masks(target, classes):
            part = cropped(inside)
            assert part is not None
            shapes.append(_mask(name, *part))
    flags = target.names if isinstance(target, Labels) else ()
    return {
        "version": _VERSION,
        "flags": {name: name in flags for name in classes} if flags else {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def _rectangle(name: str, corners: np.ndarray) -> dict[str, Any]:
    x0, y0, x1, y1 = corners.astype(float).tolist()
    return _shape(name, "rectangle", [[x0, y0], [x1, y1]], None)


def _mask(name: str, part: np.ndarray, top: int, left: int) -> dict[str, Any]:
    """A mask; LabelMe states its first and last column and row."""
    height, width = part.shape
    corners = [[left, top], [left + width - 1, top + height - 1]]
    content = base64.b64encode(encode_bitmap(part)).decode("ascii")
    return _shape(name, "mask", corners, content)


def _shape(name: str, kind: str, corners: list[list[float]], mask: str | None) -> dict[str, Any]:
    return {
        "label": name,
        "points": corners,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": mask,
    }
