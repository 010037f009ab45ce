"""Laying one thumbnail on another by their keypoints, and comparing what lies on each other.

Letters: P pairs, K keypoints of an image, S side of a thumbnail, H hypotheses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foveate.data.keypoints import (
    MAX_KEYPOINTS,
    MIRROR,
    SIDE,
    Keypoints,
    blur,
    blur_matrix,
    coefficients,
    sample,
)

_HYPOTHESES = 8  # matches of a pair that each propose a transform
_SIMILAR = 0.55  # cosine of two patches, from which they may match
_NOT_MUTUAL = 0.15  # less, if the second patch has a better match in the first image
_TOLERANCE = 3.0  # px that a match may be off, at first
_FINE = 2.0  # px that it may be off in the end
_SPREAD = 0.12  # px more per px of distance: a single match knows angle and size roughly
_AFFINE = 6  # matches from which a transform may shear
_COARSE_STEP, _FINE_STEP = 4, 2  # px between the points at which a transform is refined
_MARGIN = 4  # px along edges, which filled corners shine through when blurred
_STEPS = 5  # of a refinement
_CHUNK = 256  # images that are blurred at once
_OUTLIER = 1.5  # standard deviations from which a difference counts less
_CELL = 4  # px; windows of twice that size are compared
_NOISE = 0.01  # of the variance of an image: less variance in a window is taken for noise
_DARK = 3e-5  # variance of gray values in [0, 1] that is noise anyway
_FULL = 0.75  # of a window must lie on the other image
_HIDDEN = 7  # windows: the side of a part that may be covered, of 15

_SOFT = blur_matrix(0.8)
_COARSE = blur_matrix(2.5)
_GRID = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)[::-1]  # x and y of each pixel


def match(
    keypoints: Keypoints, near: np.ndarray, far: np.ndarray, mirrored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the transform that lays the first image of each pair on the second.

    Every one of the best matches of two patches proposes a transform; the one that most other
    matches agree with is fitted to them.

    Args:
        keypoints: Of all images.
        near: (P,) indices.
        far: (P,) indices.
        mirrored: (P,) bool, whether to mirror the first image.

    Returns:
        (P, 2, 3) transforms of points (x, y), px, and (P,) how many matches agree, each counted by
        its similarity.
    """
    patches = coefficients(keypoints.patches[near])
    patches *= np.where(mirrored[:, None, None], MIRROR, 1)
    products = patches @ coefficients(keypoints.patches[far]).transpose(0, 2, 1)
    numbers = np.arange(MAX_KEYPOINTS)
    products[numbers >= keypoints.counts[near][:, None]] = -1
    products.transpose(0, 2, 1)[numbers >= keypoints.counts[far][:, None]] = -1
    best = products.argmax(2)
    similar = np.take_along_axis(products, best[..., None], 2)[..., 0]
    mutual = np.take_along_axis(products.argmax(1), best, 1) == numbers
    similar = np.maximum(0, np.where(mutual, similar, similar - _NOT_MUTUAL))
    similar[similar < _SIMILAR] = 0

    conjugate = mirrored[:, None]
    start, frames = (
        np.where(conjugate, np.conj(each[near]), each[near])
        for each in (keypoints.points, keypoints.frames)
    )
    end, end_frames = (
        np.take_along_axis(each[far], best, 1) for each in (keypoints.points, keypoints.frames)
    )
    weights = _best_hypothesis(start, end, frames, end_frames, similar)
    for tolerance in (_TOLERANCE * 1.5, _TOLERANCE * 1.25, _TOLERANCE):
        turn, shift = _fit_similarity(start, end, weights)
        error = np.abs(turn[:, None] * start + shift[:, None] - end)
        weights = similar * (error < tolerance)
    transforms = _as_matrix(turn, shift)
    sheared = (weights > 0).sum(1) >= _AFFINE
    transforms[sheared] = _fit_affine(start[sheared], end[sheared], weights[sheared])
    x, y = _apply(transforms, start.real, start.imag)
    agreeing = (similar * (np.abs(x + 1j * y - end) < _FINE)).sum(1)
    transforms[mirrored, :, 1] *= -1
    return transforms, agreeing


def _best_hypothesis(
    start: np.ndarray,
    end: np.ndarray,
    frames: np.ndarray,
    end_frames: np.ndarray,
    similar: np.ndarray,
) -> np.ndarray:
    """(P, K) weights of the matches that agree with the best of H proposals."""
    chosen = np.argsort(-similar, axis=1)[:, :_HYPOTHESES]
    origin, target, from_frame, to_frame = (
        np.take_along_axis(each, chosen, 1) for each in (start, end, frames, end_frames)
    )
    turns = to_frame / np.where(from_frame == 0, 1, from_frame)
    away = start[:, None, :] - origin[:, :, None]
    error = np.abs(turns[:, :, None] * away + target[:, :, None] - end[:, None, :])
    agree = (error < _TOLERANCE + _SPREAD * np.abs(away)) * similar[:, None, :]
    best = agree.sum(2).argmax(1)
    return np.asarray(np.take_along_axis(agree, best[:, None, None], 1)[:, 0])


def _fit_similarity(
    start: np.ndarray, end: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Turn and shift (P,) complex that lead from `start` to `end` with least squares."""
    total = np.maximum(1e-6, weights.sum(1))
    from_center, to_center = ((weights * each).sum(1) / total for each in (start, end))
    away, target = start - from_center[:, None], end - to_center[:, None]
    turn = (weights * np.conj(away) * target).sum(1)
    turn /= (weights * np.abs(away) ** 2).sum(1) + 1e-3
    return turn, to_center - turn * from_center


def _as_matrix(turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    rows = [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]
    return np.array(rows, dtype=np.float64).transpose(2, 0, 1)


def _fit_affine(start: np.ndarray, end: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows = np.stack([start.real, start.imag, np.ones_like(start.real)], 2).astype(np.float64)
    targets = np.stack([end.real, end.imag], 2)
    weighted = rows * weights[..., None]
    normal = weighted.transpose(0, 2, 1) @ rows + 1e-4 * np.eye(3)
    solution = np.linalg.solve(normal, weighted.transpose(0, 2, 1) @ targets)
    return np.asarray(solution.transpose(0, 2, 1))


def coarsen(thumbnails: np.ndarray) -> np.ndarray:
    """Blur (N, S, S) uint8, for `correlate`."""
    result = np.empty_like(thumbnails)
    for start in range(0, len(thumbnails), _CHUNK):
        part = thumbnails[start : start + _CHUNK]
        result[start : start + _CHUNK] = np.round(blur(part.astype(np.float32), _COARSE))
    return result


def correlate(
    coarse: np.ndarray, near: np.ndarray, far: np.ndarray, transforms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compare coarse gray levels of images that are laid on each other, which is quick.

    Args:
        coarse: (N, S, S) uint8, of all images.
        near: (P,) indices.
        far: (P,) indices.
        transforms: (P, 2, 3), of points (x, y) of the first image, px.

    Returns:
        (P,) correlations where both lie, and (P,) shares of the first image where they do.
    """
    apart = _COARSE_STEP
    start_x, start_y = (each[None, ::apart, ::apart] for each in _GRID)
    end_x, end_y = _apply(transforms, start_x, start_y)
    compared = _inside(start_x, start_y, _MARGIN) & _inside(end_x, end_y, _MARGIN)
    weights = compared.astype(np.float32)
    total = np.maximum(1, weights.sum((1, 2), keepdims=True))
    x, y = (np.clip(np.round(each), 0, SIDE - 1).astype(np.int64) for each in (end_x, end_y))
    other = coarse[far[:, None, None], y, x].astype(np.float32)
    one = coarse[near, ::apart, ::apart].astype(np.float32)
    one, other = (_center(each, weights, total) for each in (one, other))
    products = ((a * b).sum((1, 2)) for a, b in ((one, other), (one, one), (other, other)))
    common, square, other_square = products
    return common / np.sqrt(square * other_square + 1), _inside(end_x, end_y).mean((1, 2))


def refine_coarsely(
    thumbnails: np.ndarray, near: np.ndarray, far: np.ndarray, transforms: np.ndarray
) -> np.ndarray:
    """Improve transforms (P, 2, 3) so that coarse gray levels agree; arguments as above."""
    one, other = (blur(_gray(thumbnails[index]), _COARSE) for index in (near, far))
    return _descend(one, other, transforms, _COARSE_STEP)


def refine_finely(
    thumbnails: np.ndarray, near: np.ndarray, far: np.ndarray, transforms: np.ndarray
) -> np.ndarray:
    """Improve transforms (P, 2, 3) that nearly fit; arguments as above."""
    one, other = (blur(_gray(thumbnails[index]), _SOFT) for index in (near, far))
    return _descend(one, other, transforms, _FINE_STEP)


def _descend(one: np.ndarray, other: np.ndarray, transforms: np.ndarray, apart: int) -> np.ndarray:
    """Take Gauss-Newton steps towards equal gray levels of (P, S, S) and (P, S, S).

    Brightness and contrast may differ, and parts that do not fit count less. Points that are
    `apart` px from each other are compared.
    """
    count = len(one)
    down, right = np.gradient(other, axis=(1, 2))
    x, y = (each[None, ::apart, ::apart] for each in _GRID)
    target, index = one[:, ::apart, ::apart], np.arange(count)[:, None, None]
    size = (SIDE // apart) ** 2
    basis = np.stack([(x - SIDE / 2) / SIDE, (y - SIDE / 2) / SIDE, np.ones_like(x)])
    for _ in range(_STEPS):
        where = _apply(transforms, x, y)
        weights = _inside(*where).astype(np.float32)
        total = np.maximum(1, weights.sum((1, 2), keepdims=True))
        values, difference = _center(sample(other, index, *where), weights, total), target
        difference = _center(difference, weights, total)
        gain = (difference * values).sum((1, 2), keepdims=True)
        gain = np.clip(gain / ((values**2).sum((1, 2), keepdims=True) + 1e-6), 0.3, 3)
        difference = difference - gain * values
        deviation = np.sqrt((difference**2).sum((1, 2), keepdims=True) / total) + 1e-4
        weights = weights / (1 + (difference / deviation / _OUTLIER) ** 2)
        slopes = [gain * sample(each, index, *where) for each in (right, down)]
        columns = np.stack([slope * each for slope in slopes for each in basis])
        columns = columns.reshape(6, count, size).transpose(1, 0, 2)
        weighted = columns * weights.reshape(count, 1, size)
        normal = weighted @ columns.transpose(0, 2, 1)
        normal += np.eye(6) * (1e-4 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-9)
        pull = weighted @ difference.reshape(count, size, 1)
        step = np.clip(np.linalg.solve(normal, pull), -3, 3).reshape(count, 2, 3)
        step[:, :, :2] /= SIDE
        step[:, :, 2] -= step[:, :, :2].sum(2) * SIDE / 2
        transforms = transforms + step
    return transforms


@dataclass(frozen=True)
class Comparison:
    """How well P pairs agree where they lie on each other.

    Attributes:
        similarity: (P,) correlation of small windows, weighted by their contrast.
        uncovered: (P,) the same without the square of up to half the side that agrees least.
        overlap: (P,) share of the image that shows more of the scene, in which both lie.
        rest: (P,) share of the contrast outside of that square.
    """

    similarity: np.ndarray
    uncovered: np.ndarray
    overlap: np.ndarray
    rest: np.ndarray


def compare(
    thumbnails: np.ndarray, near: np.ndarray, far: np.ndarray, transforms: np.ndarray
) -> Comparison:
    """Compare the gray levels of images that are laid on each other.

    Args:
        thumbnails: (N, S, S) uint8, of all images.
        near: (P,) indices.
        far: (P,) indices.
        transforms: (P, 2, 3), of points (x, y) of the first image, px.
    """
    where = _apply(transforms, *(each[None] for each in _GRID))
    weights = _inside(*where).astype(np.float32)
    other = sample(_gray(thumbnails[far]), np.arange(len(near))[:, None, None], *where)
    total = np.maximum(1, weights.sum((1, 2), keepdims=True))
    one, other = (
        _center(blur(each, _SOFT), weights, total) for each in (_gray(thumbnails[near]), other)
    )
    count = np.maximum(1, _windows(weights))
    mean_one, mean_other = _windows(one) / count, _windows(other) / count
    variances = [
        np.maximum(0, _windows(each**2) / count - mean**2)
        for each, mean in ((one, mean_one), (other, mean_other))
    ]
    common = _windows(one * other) / count - mean_one * mean_other
    noise = [_NOISE * (each**2).sum((1, 2), keepdims=True) / total + _DARK for each in (one, other)]
    scale = np.sqrt((variances[0] + noise[0]) * (variances[1] + noise[1]))
    geometric = np.sqrt(variances[0] * variances[1])
    weight = np.sqrt(geometric) * (count > _FULL * (2 * _CELL) ** 2) / scale
    common, geometric = common * weight, geometric * weight
    agreeing, possible = (each.sum((1, 2)) for each in (common, geometric))
    uncovered, rest = _leave_out(common, geometric)
    area = np.abs(np.linalg.det(transforms[:, :, :2]))
    return Comparison(
        agreeing / np.maximum(1e-6, possible),
        uncovered,
        weights.mean((1, 2)) * np.maximum(1, area),
        rest,
    )


def _leave_out(common: np.ndarray, possible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best similarity without one square of windows, and the share of the rest."""
    sums = []
    for each in (common, possible):
        table = np.pad(each.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        size = _HIDDEN
        inner = table[:, size:, size:] - table[:, :-size, size:]
        inner += table[:, :-size, :-size] - table[:, size:, :-size]
        inner = inner.reshape(len(each), inner.shape[1] * inner.shape[2])
        sums.append(each.sum((1, 2))[:, None] - inner)
    similarity = sums[0] / np.maximum(1e-6, sums[1])
    best = similarity.argmax(1)[:, None]
    rest = np.take_along_axis(sums[1], best, 1)[:, 0]
    rest /= np.maximum(1e-6, possible.sum((1, 2)))
    return np.take_along_axis(similarity, best, 1)[:, 0], rest


def tints_after(tints: np.ndarray, transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring the colors of second images to where they lie on the first ones.

    Args:
        tints: (P, 2, 64), the colors of 8 x 8 cells, of the second images.
        transforms: (P, 2, 3).

    Returns:
        (P, 2, 64), and (P, 64) bool: which cells lie on the second image.
    """
    side = 8
    x, y = (each[None, side // 2 :: side, side // 2 :: side] for each in _GRID)
    where = _apply(transforms, x, y)
    column, row = (np.clip(each, 0, SIDE - 1).astype(int) // side for each in where)
    cells = (row * side + column).reshape(len(tints), 1, side**2)
    return np.take_along_axis(tints, cells, 2), _inside(*where).reshape(len(tints), side**2)


def _gray(thumbnails: np.ndarray) -> np.ndarray:
    return thumbnails.astype(np.float32) / 255


def _apply(transforms: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transform points; x and y are (P, ...), or (1, ...) for all pairs."""
    shape = (len(transforms), *[1] * (x.ndim - 1))
    entries = transforms.astype(np.float32).reshape(len(transforms), 6).T
    a, b, c, d, e, f = (entry.reshape(shape) for entry in entries)
    return a * x + b * y + c, d * x + e * y + f


def _inside(x: np.ndarray, y: np.ndarray, margin: float = 0) -> np.ndarray:
    last = SIDE - 1 - margin
    return np.asarray((x >= margin) & (x <= last) & (y >= margin) & (y <= last))


def _center(values: np.ndarray, weights: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Subtract the mean of the weighted pixels; 0 where the weight is 0."""
    mean = (values * weights).sum((1, 2), keepdims=True) / total
    return np.asarray((values - mean) * weights)


def _windows(values: np.ndarray) -> np.ndarray:
    """(P, S, S) -> (P, 15, 15), the sums of overlapping windows of 8 x 8 px."""
    count = SIDE // _CELL
    cells = values.reshape(len(values), count, _CELL, count, _CELL).sum((2, 4))
    rows = cells[:, :-1] + cells[:, 1:]
    return np.asarray(rows[:, :, :-1] + rows[:, :, 1:])
