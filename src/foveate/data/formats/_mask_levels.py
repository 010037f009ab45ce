"""Masks whose values are smeared: by JPEG, or by anti-aliasing along the edges.

Areas of a class are flat, so they tell the levels (values or colors) that the classes have. Pixels
between the levels have to lie along edges; if many lie elsewhere, the image is no mask.

A picture of pixels is (H, W, C) int16 here, with C = 1 (gray) or 3; a level is C numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

Level = tuple[int, ...]

_MAX_LEVELS = 64
_MIN_FLAT = 9  # pixels of a flat area that a level needs
_CONCENTRATED = 0.98  # share of the flat pixels that are close to a level
_OFF_EDGE = 0.05  # share of the pixels between the levels that may lie elsewhere than along edges
_MIN_GAP = 12  # of levels that anti-aliasing can fill
_MIN_BETWEEN = 3  # different values that anti-aliasing leaves between the levels; one is a border


@dataclass(frozen=True)
class _Tolerance:
    """How far smearing reaches.

    Attributes:
        close: By how much it changes values within areas.
        gap: How far levels have to be apart.
        window: Side of the square around a pixel in which the areas of its class begin, px.
        block: Side of the square in which an edge changes values, px: two blocks of JPEG.
        area: Side of a flat square that has a value of its own for sure, px.
    """

    close: int
    gap: int
    window: int
    block: int
    area: int


_EXACT = _Tolerance(close=0, gap=1, window=5, block=5, area=3)
_JPEG = _Tolerance(close=8, gap=40, window=9, block=17, area=5)
# JPEG stores colors at half the resolution
_JPEG_COLOR = _Tolerance(close=24, gap=56, window=17, block=33, area=9)


def _tolerance(lossy: bool, channels: int) -> _Tolerance:
    return (_JPEG_COLOR if channels == 3 else _JPEG) if lossy else _EXACT


@dataclass(frozen=True)
class Levels:
    """The levels of smeared masks.

    Attributes:
        levels: The levels, in order.
        lossy: Whether the masks are JPEGs.
        between: Share of the pixels that lie between the levels, in [0, 1].
        strict: Whether areas far from all levels have no class.
    """

    levels: tuple[Level, ...]
    lossy: bool
    between: float = 0.0
    strict: bool = True

    def nearest(self, pixels: np.ndarray) -> np.ndarray:
        """Return the index of the level of each pixel, (H, W) int64; -1 in areas without one.

        A pixel between two levels belongs to one that has an area around it: what lies between
        black and white is no third class.
        """
        limits = _tolerance(self.lossy, pixels.shape[-1])
        index, distance = _assign(pixels, self.levels)
        missing = distance > max(limits.close, limits.gap // 2)
        if missing.any():
            missing &= _is_flat(pixels, limits, limits.area) & self.strict
        if len(self.levels) > 2:
            index = _by_surroundings(pixels, index, distance <= limits.close, self.levels, limits)
        return np.where(missing, -1, index)


def find_levels(
    masks: Sequence[np.ndarray], lossy: bool, known: Sequence[Level] = ()
) -> Levels | str:
    """Return the levels of smeared masks; or what speaks against it, as a clause.

    Args:
        masks: A sample of the masks.
        lossy: Whether they are JPEGs.
        known: The levels that a class list states.
    """
    limits = _tolerance(lossy, masks[0].shape[-1])
    flat = [_packed(mask[_is_flat(mask, limits)]) for mask in masks]
    counts = Counter(dict(zip(*_unique(np.concatenate(flat)), strict=True)))
    levels = tuple(known) or _separate(counts, masks[0].shape[-1], limits)
    if not levels or len(levels) > _MAX_LEVELS:
        return f"areas of one value have {len(counts)} different values"
    distances = _distances(_unpacked(np.array(list(counts)), masks[0].shape[-1]), levels).min(1)
    close = sum(
        n for n, away in zip(counts.values(), distances, strict=True) if away <= limits.close
    )
    if close < _CONCENTRATED * counts.total():
        return f"{1 - close / counts.total():.0%} of the areas of one value have none of the levels"
    return _check_edges(masks, levels, lossy, limits)


def _check_edges(
    masks: Sequence[np.ndarray], levels: tuple[Level, ...], lossy: bool, limits: _Tolerance
) -> Levels | str:
    between, off_edge, total = 0, 0, 0
    for mask in masks:
        index, distance = _assign(mask, levels)
        far = distance > limits.close
        highest = ndimage.maximum_filter(index, limits.block)
        around = highest != ndimage.minimum_filter(index, limits.block)
        between += int(far.sum())
        off_edge += int((far & ~around).sum())
        total += far.size
    if off_edge > _OFF_EDGE * between and off_edge > 1e-4 * total:
        return f"{off_edge / between:.0%} of the pixels between the levels lie inside of areas"
    return Levels(levels, lossy, between / total)


def is_anti_aliased(values: Counter[int], levels: Sequence[Level]) -> bool:
    """Whether gray values look like levels that are far apart, and what smooths the edges between.

    Args:
        values: Number of pixels of each value.
        levels: The levels, in order.
    """
    numbers = [level[0] for level in levels]
    apart = all(high - low >= _MIN_GAP for low, high in pairwise(numbers))
    return apart and len(numbers) > 1 and len(values) - len(numbers) >= _MIN_BETWEEN


# --- pixels


def _is_flat(pixels: np.ndarray, limits: _Tolerance, side: int = 3) -> np.ndarray:
    """(H, W) bool: whether the pixels in a square around are alike."""
    size = (side, side, 1)
    highest = ndimage.maximum_filter(pixels, size)
    spread = (highest - ndimage.minimum_filter(pixels, size)).max(axis=-1)
    return np.asarray(spread <= limits.close)


def _separate(counts: Counter[int], channels: int, limits: _Tolerance) -> tuple[Level, ...]:
    """The most frequent levels that are far enough from each other."""
    levels: list[Level] = []
    for packed, count in counts.most_common():
        level = tuple(_unpacked(np.array([packed]), channels)[0].tolist())
        if count < _MIN_FLAT or len(levels) > _MAX_LEVELS:
            break
        if not levels or _distances(np.array([level]), levels).min() >= limits.gap:
            levels.append(level)
    return tuple(sorted(levels))


def _by_surroundings(
    pixels: np.ndarray,
    index: np.ndarray,
    close: np.ndarray,
    levels: tuple[Level, ...],
    limits: _Tolerance,
) -> np.ndarray:
    """Give each pixel that is not in an area the nearest of the levels with an area around it."""
    best = np.full(index.shape, np.iinfo(np.int64).max)
    result = index.copy()
    areas = np.zeros(index.shape, dtype=bool)
    for number in np.unique(index).tolist():
        own = close & (index == number)
        solid = own & (ndimage.uniform_filter(own.astype(np.float32), 3) > 0.5)
        areas |= solid
        distance = np.abs(pixels - np.array(levels[number])).max(axis=-1).astype(np.int64)
        better = ndimage.maximum_filter(solid, limits.window) & (distance < best)
        result[better], best[better] = number, distance[better]
    return np.where(areas, index, result)


def _assign(pixels: np.ndarray, levels: Sequence[Level]) -> tuple[np.ndarray, np.ndarray]:
    """The index of the nearest level of each pixel, and the distance to it; both (H, W) int64."""
    values, inverse = np.unique(_packed(pixels), return_inverse=True)
    distances = _distances(_unpacked(values, pixels.shape[-1]), levels)
    index = distances.argmin(axis=1)
    shape = pixels.shape[:2]
    nearest = distances[np.arange(len(values)), index]
    return index[inverse].reshape(shape), nearest[inverse].reshape(shape)


def _distances(values: np.ndarray, levels: Sequence[Level]) -> np.ndarray:
    """(N, C) and K levels -> (N, K): the largest difference of a channel."""
    result = [np.abs(values - np.array(level)).max(axis=-1) for level in levels]
    return np.stack(result, axis=1)


def _unique(values: np.ndarray) -> tuple[list[int], list[int]]:
    numbers, counts = np.unique(values, return_counts=True)
    return numbers.tolist(), counts.tolist()


def _packed(pixels: np.ndarray) -> np.ndarray:
    """(..., C) -> (...) int64."""
    packed = pixels[..., 0].astype(np.int64)
    for channel in range(1, pixels.shape[-1]):
        packed = packed << 8 | pixels[..., channel].astype(np.int64)
    return packed


def _unpacked(packed: np.ndarray, channels: int) -> np.ndarray:
    """(N,) -> (N, C), the inverse of `_packed`."""
    if channels == 1:
        return packed[:, None]
    return np.stack([packed >> 8 * (channels - 1 - i) & 255 for i in range(channels)], axis=1)
