"""Masks as run lengths: COCO's compressed RLE, which every tool of the field reads.

H, W: height and width of a mask; h, w: of a part of it. Encoding is written here, because
predictions need it where nothing but a runtime is installed, and because only a part of the image
has to be read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

RLE = dict[str, Any]
"""{'size': [H, W], 'counts': text}: COCO's compressed run lengths, column by column"""

# sides of the image that a polygon may reach beyond it: the memory to rasterize it grows with that
_REACH = 2


def encode_rle(mask: np.ndarray) -> RLE | None:
    """Encode a mask, (H, W) bool; None if it is empty. The result is JSON-able."""
    return encode_rle_at(mask, 0, 0, (mask.shape[0], mask.shape[1])) if mask.any() else None


def encode_rle_at(part: np.ndarray, top: int, left: int, size: tuple[int, int]) -> RLE:
    """Encode a mask that is empty but for a part of it.

    Only the part is read: many small objects in a large image would cost an image each.

    Args:
        part: The part, (h, w) bool.
        top: First row of the part in the mask.
        left: First column of the part in the mask.
        size: H and W of the mask.
    """
    column, row = np.nonzero(np.diff(part.T.astype(np.int8), axis=1, prepend=0, append=0))
    changes, times = np.unique((left + column) * size[0] + top + row, return_counts=True)
    changes = changes[times == 1]  # a run that ends with its column may continue in the next one
    total = size[0] * size[1]
    return _compress(np.diff([0, *changes[changes < total].tolist(), total]).tolist(), size)


def paste_mask(cells: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> RLE:
    """Resize a mask to its box, and encode it in an image: the pixels that reach 0.5.

    Values are interpolated linearly between the centers of the cells, and 0 outside the box.

    Args:
        cells: The mask, (M, M), in [0, 1].
        box: x0, y0, x1, y1 in pixels.
        size: H and W of the image.
    """
    x0, y0, x1, y1 = np.nan_to_num(box.astype(np.float64)).tolist()
    top, rows = _weights(y0, y1, len(cells), size[0])
    left, columns = _weights(x0, x1, len(cells), size[1])
    return encode_rle_at(rows @ cells @ columns.T >= 0.5, top, left, size)


def _weights(low: float, high: float, cells: int, length: int) -> tuple[int, np.ndarray]:
    """The first pixel that touches [low, high], and (pixels, M): the weight of each cell there."""
    first, last = int(min(max(low, 0), length)), int(np.ceil(min(max(high, 0), length)))
    centers = (np.arange(first, last)[:, None] + 0.5 - low) / max(high - low, 1e-6) * cells
    return first, np.maximum(0, 1 - np.abs(centers - np.arange(cells) - 0.5))


def decode_rle(rle: RLE) -> np.ndarray:
    """Decode a mask: (H, W) bool."""
    from faster_coco_eval.core import mask as coco

    mask: np.ndarray = coco.decode(_bytes(rle)).view(bool)
    return mask


def rle_area(rle: RLE) -> int:
    """Return the number of pixels of a mask."""
    from faster_coco_eval.core import mask as coco

    return int(coco.area(_bytes(rle)))


def _bytes(rle: RLE) -> dict[str, Any]:
    return {"size": rle["size"], "counts": rle["counts"].encode("ascii")}


def nested_polygons(segmentation: object) -> object:
    """Return COCO's `segmentation` with a flat polygon in a list of its own, as COCO has it."""
    if (
        isinstance(segmentation, list)
        and segmentation
        and all(isinstance(number, int | float) for number in segmentation)
    ):
        return [segmentation]
    return segmentation


def parse_segmentation(segmentation: object, size: tuple[int, int]) -> RLE | None:
    """Parse COCO's `segmentation` of an object, in any of its three forms.

    Compressed run lengths stay character by character as they are.

    Args:
        segmentation: Polygons, run lengths, or compressed run lengths.
        size: H and W of the image.

    Returns:
        The mask; None where it is none of these forms, or made for an image of another size.
    """
    try:
        if isinstance(segmentation, list):
            return _rasterize([list(map(float, polygon)) for polygon in segmentation], size)
        if not isinstance(segmentation, dict) or list(segmentation["size"]) != list(size):
            return None
        counts = segmentation["counts"]
        lengths = _decompress(counts) if isinstance(counts, str) else np.array(counts, np.int64)
        if lengths.sum() != size[0] * size[1] or lengths.min() < 0:
            return None
        if isinstance(counts, str):
            return {"size": list(size), "counts": counts}
        return _compress(lengths.tolist(), size)
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def _decompress(counts: str) -> np.ndarray:
    """Return the run lengths in COCO's text. Raises ValueError.

    Five bits a character, from '0' on, lowest first; one bit tells whether the number continues.
    From the third run on it is the difference from the run before the previous one. To rasterize
    the mask instead, as a check, would take thirty times as long.
    """
    codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if (
        not len(ends)
        or ends[-1] != len(codes) - 1
        or sizes.max() > 12
        or ((codes < 0) | (codes > 63)).any()
    ):
        raise ValueError("not compressed run lengths")
    bits = 5 * (np.arange(len(codes)) - np.repeat(starts, sizes))
    numbers = np.add.reduceat((codes & 31) << bits, starts) - np.where(
        codes[ends] & 16, 1 << (5 * sizes), 0
    )
    numbers[1::2], numbers[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    return numbers


def _compress(counts: list[int], size: tuple[int, int]) -> RLE:
    """The inverse of `_decompress`."""
    rest = np.array(counts, dtype=np.int64)
    rest[3:] -= rest[1:-2].copy()
    active, columns = np.ones(len(rest), bool), []
    while active.any():
        low, rest = rest & 31, rest >> 5
        more = active & np.where(low & 16, rest != -1, rest != 0)
        columns.append(np.where(active, ord("0") + low + 32 * more, 0))
        active = more
    text = np.stack(columns, 1).ravel() if columns else np.zeros(0, np.int64)
    return {"size": list(size), "counts": text[text > 0].astype(np.uint8).tobytes().decode("ascii")}


def _rasterize(polygons: list[list[float]], size: tuple[int, int]) -> RLE:
    """Rasterize polygons. Raises ValueError where there is nothing, or a corner is far outside."""
    from faster_coco_eval.core import mask as coco

    if not polygons or min(map(len, polygons)) < 6 or any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon needs three corners, with two numbers each")
    reach = _REACH * max(size)
    if not all(-reach <= number <= reach + max(size) for polygon in polygons for number in polygon):
        raise ValueError(f"a corner lies far outside an image of {size[1]} x {size[0]} px")
    rle = coco.merge(coco.frPyObjects(polygons, *size))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
