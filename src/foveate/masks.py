"""Masks as run lengths: COCO's compressed form, which every tool of the field reads.

Letters: H height, W width of the mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Runs = dict[str, Any]
"""{'size': [H, W], 'counts': text}: COCO's compressed run lengths, column by column"""


def encoded(mask: np.ndarray) -> Runs | None:
    """(H, W) bool -> its run lengths, JSON-able; None when it is empty."""
    from faster_coco_eval.core import mask as coco

    if not mask.any():
        return None
    runs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")}


def decoded(runs: Runs) -> np.ndarray:
    """The (H, W) bool mask of run lengths."""
    from faster_coco_eval.core import mask as coco

    return np.asarray(coco.decode({"size": runs["size"], "counts": runs["counts"].encode("ascii")}), dtype=bool)


def filled(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the union of polygons, each x0, y0, x1, y1, ... in pixels; `size` is (H, W)."""
    from faster_coco_eval.core import mask as coco

    return np.asarray(coco.decode(coco.merge(coco.frPyObjects(polygons, *size))), dtype=bool)
