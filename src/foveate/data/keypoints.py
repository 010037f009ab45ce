"""Keypoints of thumbnails, and small patches that describe them.

Keypoints are extrema of differences of Gaussians (Lowe 2004). Each is described by a patch around
it that turns with the image and grows with the keypoint (MOPS, Brown et al. 2005). Of a patch the
lowest cosine coefficients are kept: mirroring the image changes only the signs of some.

Letters: N images, S side of a thumbnail, K keypoints of an image, M keypoints of all images, L
levels, D coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

SIDE = 64  # px of a thumbnail
MAX_KEYPOINTS = 40  # of an image, the most pronounced ones

_SIGMAS = 1.1 * 2 ** (np.arange(10) / 3)  # px, of the levels
_MIN_CONTRAST = 0.004  # of an extremum, relative to the standard deviation of the image
_MIN_RESPONSE = 0.001  # of an extremum, of gray values in [0, 1]; below lies the noise of JPEG
_MAX_ELONGATION = 12.0  # ratio of the curvatures; along an edge a keypoint is not localized
_MIN_STRUCTURE = 0.03  # ratio of the squared gradients of the weaker direction and the stronger
_PATCH, _SPACING = 8, 1.3  # samples along the side of a patch, and their distance in sigmas
_SAME = 0.7  # distance in sigmas at which gradients are measured
_CHUNK = 64  # images that are described at once: their levels fit into the caches
_SCALE = 127  # of coefficients, which are in [-1, 1], as int8

# frequencies across and along the gradient of each coefficient, the lowest first, without the mean
_FREQUENCIES = sorted(
    ((across, along) for across in range(_PATCH) for along in range(_PATCH) if across + along),
    key=lambda pair: (sum(pair), pair),
)[:40]
MIRROR = np.array([(-1.0) ** across for across, _ in _FREQUENCIES], dtype=np.float32)
"""(D,) what the coefficients of a mirrored image are multiplied by."""


@dataclass(frozen=True)
class Keypoints:
    """The keypoints of N images; those beyond the count of an image are 0.

    Attributes:
        points: (N, K) complex64, their positions x + iy, px of the thumbnail.
        frames: (N, K) complex64, size (standard deviation, px) times direction of the gradient.
        patches: (N, K, D) int8, coefficients of length 127.
        counts: (N,) int64.
    """

    points: np.ndarray
    frames: np.ndarray
    patches: np.ndarray
    counts: np.ndarray


def find_keypoints(thumbnails: np.ndarray) -> Keypoints:
    """Find and describe the keypoints of (N, 64, 64) uint8 gray levels."""
    starts = range(0, max(1, len(thumbnails)), _CHUNK)
    parts = [_describe(thumbnails[start : start + _CHUNK]) for start in starts]
    columns = [[getattr(part, each.name) for part in parts] for each in fields(Keypoints)]
    return Keypoints(*map(np.concatenate, columns))


def coefficients(patches: np.ndarray) -> np.ndarray:
    """Return patches as float32 of length about 1."""
    return np.asarray(patches.astype(np.float32) / _SCALE)


def blur_matrix(sigma: float) -> np.ndarray:
    """Return (S, S) float32 that blurs along one side, with reflection at the ends."""
    reach = int(4 * sigma) + 1
    target, offset = np.arange(SIDE)[:, None], np.arange(-reach, reach + 1)
    source = np.abs(target + offset + 0.5) - 0.5
    source = np.clip(SIDE - 0.5 - np.abs(SIDE - 0.5 - source), 0, SIDE - 1).astype(int)
    matrix = np.zeros((SIDE, SIDE))
    np.add.at(matrix, (target, source), np.exp(-(offset**2) / (2 * sigma**2))[None])
    return np.asarray(matrix / matrix.sum(1, keepdims=True), dtype=np.float32)


def blur(images: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Blur (N, S, S) along both sides."""
    return np.asarray(matrix @ images @ matrix.T)


def sample(images: np.ndarray, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample images between their pixels, by bilinear interpolation.

    Args:
        images: (N, S, S) float32, contiguous.
        index: The image of each sample.
        x: Position from the left, px; positions outside lead to the border. Shape of the result.
        y: Position from the top, px.
    """
    x, y = np.clip(x, 0, SIDE - 1.001), np.clip(y, 0, SIDE - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    right, down = x - left, y - top
    flat, corner = images.reshape(-1), (index * SIDE + top) * SIDE + left
    upper = flat[corner] + right * (flat[corner + 1] - flat[corner])
    corner += SIDE
    lower = flat[corner] + right * (flat[corner + 1] - flat[corner])
    return np.asarray(upper + down * (lower - upper))


_LEVELS = [blur_matrix(sigma) for sigma in _SIGMAS]
_WIDE = [blur_matrix(2 * sigma) for sigma in _SIGMAS]


def _describe(thumbnails: np.ndarray) -> Keypoints:
    count = len(thumbnails)
    images = thumbnails.astype(np.float32) / 255
    images -= images.mean((1, 2), keepdims=True)
    levels = np.stack([blur(images, matrix) for matrix in _LEVELS])
    extrema = _extrema(levels, images)
    located = has_structure(levels[0])[extrema[0]]
    image, level, points, sigmas = _strongest(tuple(each[located] for each in extrema), count)
    first = np.searchsorted(image, np.arange(count))
    rank = np.arange(len(image)) - first[image]
    frames, patches = np.zeros(len(image), np.complex64), np.zeros((len(image), _PATCH**2))
    for number, matrix in enumerate(_WIDE):
        chosen = np.flatnonzero(level == number)
        if len(chosen):
            arguments = image[chosen], points[chosen], sigmas[chosen]
            frames[chosen] = _orient(blur(images, matrix), *arguments, _SAME * _SIGMAS[number])
            patches[chosen] = _cut(levels[number], *arguments[:2], frames[chosen])
    coded = patches @ _cosines().T
    coded *= _SCALE / np.maximum(1e-6, np.linalg.norm(coded, axis=1, keepdims=True))
    result = Keypoints(
        np.zeros((count, MAX_KEYPOINTS), np.complex64),
        np.zeros((count, MAX_KEYPOINTS), np.complex64),
        np.zeros((count, MAX_KEYPOINTS, len(_FREQUENCIES)), np.int8),
        np.bincount(image, minlength=count),
    )
    result.points[image, rank], result.frames[image, rank] = points, frames
    result.patches[image, rank] = np.round(coded)
    return result


def has_structure(images: np.ndarray) -> np.ndarray:
    """(N,) bool, whether gray levels change in two directions: along stripes nothing is located."""
    down, right = np.gradient(images, axis=(1, 2))
    xx, yy, xy = ((a * b).mean((1, 2)) for a, b in ((right, right), (down, down), (right, down)))
    difference = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    return np.asarray(xx + yy - difference > _MIN_STRUCTURE * (xx + yy + difference))


def _extrema(levels: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Image, level, position, size and response of each extremum of the differences.

    Args:
        levels: (L, N, S, S).
        images: (N, S, S).
    """
    differences = levels[1:] - levels[:-1]
    core = differences[1:-1, :, 1:-1, 1:-1]
    least = np.maximum(_MIN_RESPONSE, _MIN_CONTRAST * images.std((1, 2)))[:, None, None]
    extreme = np.abs(core) > least
    extreme &= (core == _pool(differences, np.maximum)) | (core == _pool(differences, np.minimum))
    level, image, y, x = np.nonzero(extreme)
    level, y, x = level + 1, y + 1, x + 1

    def at(dx: int, dy: int, dl: int = 0) -> np.ndarray:
        return np.asarray(differences[level + dl, image, y + dy, x + dx])

    center = at(0, 0)
    xx, yy = at(1, 0) + at(-1, 0) - 2 * center, at(0, 1) + at(0, -1) - 2 * center
    xy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
    gx, gy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    determinant = xx * yy - xy**2
    blob = determinant > 0
    blob &= (xx + yy) ** 2 * _MAX_ELONGATION < (_MAX_ELONGATION + 1) ** 2 * determinant
    inverse = 1 / np.where(blob, determinant, 1)
    offset_x, offset_y = (xy * gy - yy * gx) * inverse, (xy * gx - xx * gy) * inverse
    blob &= (np.abs(offset_x) < 1) & (np.abs(offset_y) < 1)
    curvature = at(0, 0, 1) + at(0, 0, -1) - 2 * center
    slope = (at(0, 0, 1) - at(0, 0, -1)) / 2
    between = np.clip(-slope / np.where(curvature == 0, np.inf, curvature), -0.5, 0.5)
    sigmas = _SIGMAS[level] * 2 ** ((between + 0.5) / 3)
    points = x + offset_x + 1j * (y + offset_y)
    return tuple(each[blob] for each in (image, level, points, sigmas, np.abs(center)))


def _pool(values: np.ndarray, reduce: np.ufunc) -> np.ndarray:
    """The maximum or minimum of each value and its 26 neighbors, without the borders."""
    rows = reduce(reduce(values[..., :-2], values[..., 1:-1]), values[..., 2:])
    planes = reduce(reduce(rows[..., :-2, :], rows[..., 1:-1, :]), rows[..., 2:, :])
    return np.asarray(reduce(reduce(planes[:-2], planes[1:-1]), planes[2:]))


def _strongest(extrema: tuple[np.ndarray, ...], count: int) -> tuple[np.ndarray, ...]:
    """The strongest extrema of each image, ordered by image, without their responses."""
    image, *_, response = extrema
    order = np.lexsort((-response, image))
    first = np.searchsorted(image[order], np.arange(count))
    order = order[np.arange(len(order)) - first[image[order]] < MAX_KEYPOINTS]
    return tuple(each[order] for each in extrema[:-1])


def _orient(
    blurred: np.ndarray, image: np.ndarray, points: np.ndarray, sigmas: np.ndarray, step: float
) -> np.ndarray:
    """(M,) size times direction of the gradient, in wider surroundings than the keypoint."""
    x, y = points.real, points.imag
    right = sample(blurred, image, x + step, y) - sample(blurred, image, x - step, y)
    down = sample(blurred, image, x, y + step) - sample(blurred, image, x, y - step)
    return np.asarray(sigmas * np.exp(1j * np.arctan2(down, right)))


def _cut(
    blurred: np.ndarray, image: np.ndarray, points: np.ndarray, frames: np.ndarray
) -> np.ndarray:
    """(M, 64) patches: columns along the gradient, rows across."""
    offsets = np.arange(_PATCH) - (_PATCH - 1) / 2
    grid = (offsets + 1j * offsets[:, None]).ravel() * _SPACING
    where = (points[:, None] + frames[:, None] * grid).astype(np.complex64)
    return sample(blurred, image[:, None], where.real, where.imag)


def _cosines() -> np.ndarray:
    """(D, 64) the cosine transform of a patch."""
    frequency, position = np.arange(_PATCH)[:, None], np.arange(_PATCH) + 0.5
    waves = np.cos(np.pi * frequency * position / _PATCH)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    rows = [np.outer(waves[across], waves[along]).ravel() for across, along in _FREQUENCIES]
    return np.stack(rows).astype(np.float32)
