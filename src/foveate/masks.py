"""Masks as run lengths: COCO's compressed form, which every tool of the field reads.

Letters: H height, W width of the mask; h, w of a part of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Runs = dict[str, Any]
"""{'size': [H, W], 'counts': text}: COCO's compressed run lengths, column by column"""

_REACH = 2  # sides of the picture, that a polygon may reach beyond it; its painter's memory grows with the length of the edges


def encoded(mask: np.ndarray) -> Runs | None:
    """(H, W) bool -> its run lengths, JSON-able; None when it is empty."""
    return placed(mask, 0, 0, (mask.shape[0], mask.shape[1])) if mask.any() else None


def placed(inside: np.ndarray, top: int, left: int, size: tuple[int, int]) -> Runs:
    """The run lengths of a mask of `size` (H, W) that is (h, w) bool `inside` at a corner, and empty elsewhere.

    Only the columns of the part are walked: many small objects in a large picture would cost a picture each.
    """
    columns = np.zeros((size[0], inside.shape[1]), dtype=np.int8, order="F")
    columns[top : top + inside.shape[0]] = inside
    changes = np.flatnonzero(np.diff(columns.ravel(order="F"), prepend=0, append=0)) + left * size[0]
    total = size[0] * size[1]
    counts = np.diff([0, *changes[changes < total].tolist(), total])
    return _compressed(counts.tolist(), size)


def stretched(cells: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> Runs:
    """(M, M) numbers in [0, 1] laid over `box` (x0, y0, x1, y1 in pixels) -> the mask of a picture of `size` (H, W): the pixels
    where they reach 0.5, read between the middles of the cells. Beyond the box they are 0."""
    x0, y0, x1, y1 = np.nan_to_num(box.astype(np.float64)).tolist()
    top, rows = _weights(y0, y1, len(cells), size[0])
    left, columns = _weights(x0, x1, len(cells), size[1])
    return placed(rows @ cells @ columns.T >= 0.5, top, left, size)


def _weights(low: float, high: float, cells: int, length: int) -> tuple[int, np.ndarray]:
    """The first pixel that touches [low, high], and (pixels, M): what each cell counts at the middle of each pixel."""
    first, last = int(min(max(low, 0), length)), int(np.ceil(min(max(high, 0), length)))
    middles = (np.arange(first, last)[:, None] + 0.5 - low) / max(high - low, 1e-6) * cells
    return first, np.maximum(0, 1 - np.abs(middles - np.arange(cells) - 0.5))


def decoded(runs: Runs) -> np.ndarray:
    """The (H, W) bool mask of run lengths."""
    from faster_coco_eval.core import mask as coco

    return np.asarray(coco.decode({"size": runs["size"], "counts": runs["counts"].encode("ascii")}), dtype=bool)


def area(runs: Runs) -> int:
    """How many pixels are inside."""
    from faster_coco_eval.core import mask as coco

    return int(coco.area({"size": runs["size"], "counts": runs["counts"].encode("ascii")}))


def filled(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the union of polygons, each x0, y0, x1, y1, ... in pixels; `size` is (H, W)."""
    return decoded(_painted(polygons, size))


def read(segmentation: object, size: tuple[int, int]) -> Runs | None:
    """COCO's `segmentation` of an object in a picture of `size` (H, W), whichever of its three forms it has; None when it is
    none of them, or made for a picture of another size. Compressed run lengths stay letter by letter as they are."""
    try:
        if isinstance(segmentation, list):
            return _painted([list(map(float, polygon)) for polygon in segmentation], size)
        if not isinstance(segmentation, dict) or list(segmentation["size"]) != list(size):
            return None
        counts = segmentation["counts"]
        if not isinstance(counts, str):
            return _compressed([int(count) for count in counts], size) if sum(counts) == size[0] * size[1] else None
        runs = {"size": list(size), "counts": counts}
        decoded(runs)
    except (ValueError, TypeError, KeyError, OverflowError, RuntimeError):  # the last: a malformed string of counts
        return None
    return runs


def _painted(polygons: list[list[float]], size: tuple[int, int]) -> Runs:
    """Raises ValueError where there is nothing to paint, or where a corner is far outside."""
    from faster_coco_eval.core import mask as coco

    if not polygons or min(map(len, polygons)) < 6 or any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon needs three corners, two numbers each")
    reach = _REACH * max(size)
    if not all(-reach <= number <= reach + max(size) for polygon in polygons for number in polygon):
        raise ValueError(f"a corner of a polygon lies far outside a picture of {size[1]} x {size[0]} px")
    return _plain(coco.merge(coco.frPyObjects(polygons, *size)))


def _compressed(counts: list[int], size: tuple[int, int]) -> Runs:
    from faster_coco_eval.core import mask as coco

    return _plain(coco.frPyObjects({"size": list(size), "counts": counts}, *size))


def _plain(runs: dict[str, Any]) -> Runs:
    return {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")}
