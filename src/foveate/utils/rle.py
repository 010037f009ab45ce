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

    Only the part is walked: many small objects in a large picture would cost a picture each.
    """
    column, row = np.nonzero(np.diff(inside.T.astype(np.int8), axis=1, prepend=0, append=0))
    changes, times = np.unique((left + column) * size[0] + top + row, return_counts=True)
    changes = changes[times == 1]  # a run that ends with its column may go on in the next one
    total = size[0] * size[1]
    return _compressed(np.diff([0, *changes[changes < total].tolist(), total]).tolist(), size)


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

    found: np.ndarray = coco.decode(
        {"size": runs["size"], "counts": runs["counts"].encode("ascii")}
    ).view(bool)
    return found


def area(runs: Runs) -> int:
    """How many pixels are inside."""
    from faster_coco_eval.core import mask as coco

    return int(coco.area({"size": runs["size"], "counts": runs["counts"].encode("ascii")}))


def read(segmentation: object, size: tuple[int, int]) -> Runs | None:
    """COCO's `segmentation` of an object in a picture of `size` (H, W), whichever of its three forms it has; None when it is
    none of them, or made for a picture of another size. Compressed run lengths stay letter by letter as they are."""
    try:
        if isinstance(segmentation, list):
            return _painted([list(map(float, polygon)) for polygon in segmentation], size)
        if not isinstance(segmentation, dict) or list(segmentation["size"]) != list(size):
            return None
        counts = segmentation["counts"]
        lengths = _lengths(counts) if isinstance(counts, str) else np.array(counts, dtype=np.int64)
        if lengths.sum() != size[0] * size[1] or lengths.min() < 0:
            return None
        return (
            {"size": list(size), "counts": counts}
            if isinstance(counts, str)
            else _compressed(lengths.tolist(), size)
        )
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def _lengths(counts: str) -> np.ndarray:
    """The runs in COCO's text: five bits a letter from '0' on, lowest first, one says whether the number goes on; from the third
    run on, the difference from the run before the last. To paint the mask instead, and see, would take thirty times as long."""
    letters = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(letters & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if (
        not len(ends)
        or ends[-1] != len(letters) - 1
        or sizes.max() > 12
        or ((letters < 0) | (letters > 63)).any()
    ):
        raise ValueError("these are no run lengths")
    bits = 5 * (np.arange(len(letters)) - np.repeat(starts, sizes))
    numbers = np.add.reduceat((letters & 31) << bits, starts) - np.where(
        letters[ends] & 16, 1 << (5 * sizes), 0
    )
    numbers[1::2], numbers[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    return numbers


def _painted(polygons: list[list[float]], size: tuple[int, int]) -> Runs:
    """Raises ValueError where there is nothing to paint, or where a corner is far outside."""
    from faster_coco_eval.core import mask as coco

    if not polygons or min(map(len, polygons)) < 6 or any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon needs three corners, two numbers each")
    reach = _REACH * max(size)
    if not all(-reach <= number <= reach + max(size) for polygon in polygons for number in polygon):
        raise ValueError(
            f"a corner of a polygon lies far outside a picture of {size[1]} x {size[0]} px"
        )
    return _plain(coco.merge(coco.frPyObjects(polygons, *size)))


def _compressed(counts: list[int], size: tuple[int, int]) -> Runs:
    """What _lengths reads: written here, because answers need it where nothing is installed but a runtime."""
    rest = np.array(counts, dtype=np.int64)
    rest[3:] -= rest[1:-2].copy()
    going, letters = np.ones(len(rest), bool), []
    while going.any():
        low, rest = rest & 31, rest >> 5
        more = going & np.where(low & 16, rest != -1, rest != 0)
        letters.append(np.where(going, ord("0") + low + 32 * more, 0))
        going = more
    text = np.stack(letters, 1).ravel() if letters else np.zeros(0, np.int64)
    return {"size": list(size), "counts": text[text > 0].astype(np.uint8).tobytes().decode("ascii")}


def _plain(runs: dict[str, Any]) -> Runs:
    return {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")}
