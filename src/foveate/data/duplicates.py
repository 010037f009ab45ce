"""Near-duplicate images: thumbnails, colors, and clusters of images that are alike.

Letters: N images, P pairs, D width of a row.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from PIL import Image

THUMBNAIL_SIZE = 64  # px of a thumbnail's side
_COMPARED = 32  # px of the side of what whole images are compared by
_CELLS = 8  # of the coarse grid, per side

_BLOCK = 4_000_000  # similarities that are computed at once: 16 MB as float32
_MANY = 0.02  # of the pairs of a block; if more are candidates, computing all of them is faster
_PAIRS = 4096  # candidates whose similarity is computed at once
_ROUNDING = 1e-4  # of float32, with a margin
_UNIFORM = 1e-3  # gray levels; an image that varies less is of one color

# half gray levels that colors must differ by, on average over an image, to mean anything
_COLORED = 4
_SAME_TINT = 0.5  # cosine of the tints of two images, from which their colors agree


# --- what images are compared by


def gray_thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Reduce (H, W, 3) uint8 to (64, 64) uint8 gray levels, each the mean of its area."""
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    return np.asarray(Image.fromarray(pixels).convert("L").resize(size, Image.Resampling.BOX))


def tint(pixels: np.ndarray) -> np.ndarray:
    """Reduce (H, W, 3) uint8 to (2, 64) int8, the colors of 8 x 8 cells.

    Half of red minus green, and half of blue minus the mean of both.
    """
    cells = Image.fromarray(pixels).resize((_CELLS, _CELLS), Image.Resampling.BOX)
    red, green, blue = np.asarray(cells, dtype=np.int16).reshape(_CELLS**2, 3).T
    return (np.stack([red - green, blue - (red + green) // 2]) // 2).astype(np.int8)


def standardize(thumbnails: np.ndarray) -> np.ndarray:
    """Turn (N, S, S), S a multiple of 32, into (N, 1024) float32 rows of mean 0 and length 1.

    The product of two rows is their Pearson correlation. Images of one color become 0.
    """
    factor = thumbnails.shape[1] // _COMPARED
    cells = thumbnails.reshape(len(thumbnails), _COMPARED, factor, _COMPARED, factor)
    rows = cells.mean((2, 4), dtype=np.float32).reshape(len(thumbnails), _COMPARED**2)
    rows -= rows.mean(axis=1, keepdims=True)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    rows *= np.where(lengths <= _UNIFORM * _COMPARED, 0, 1 / np.maximum(lengths, _UNIFORM))
    return np.asarray(rows)


@dataclass(frozen=True)
class Appearance:
    """What N images look like, in brief.

    Attributes:
        thumbnails: (N, S, S) uint8 gray levels, S a multiple of 32.
        tints: (N, 2, 64) int8, as from `tint`.
    """

    thumbnails: np.ndarray
    tints: np.ndarray

    def __len__(self) -> int:
        return len(self.thumbnails)

    def __getitem__(self, indices: np.ndarray | list[int]) -> Appearance:
        return Appearance(self.thumbnails[indices], self.tints[indices])

    def reduced(self) -> Appearance:
        """The same with thumbnails of 32 px, which are what is compared."""
        count, factor = len(self), self.thumbnails.shape[1] // _COMPARED
        cells = self.thumbnails.reshape(count, _COMPARED, factor, _COMPARED, factor)
        return Appearance(np.rint(cells.mean((2, 4))).astype(np.uint8), self.tints)


# --- clusters and pairs


def near_duplicates(
    thumbnails: np.ndarray, threshold: float, tints: np.ndarray | None = None
) -> np.ndarray:
    """Cluster images that are alike; chains of similar images make one cluster.

    Two images are alike if they are equal, or if the Pearson correlation of their thumbnails is at
    least `threshold` and their colors do not contradict each other. An image of one color has no
    correlation: it joins only its equals.

    Args:
        thumbnails: (N, S, S) gray levels, S a multiple of 32.
        threshold: The least correlation.
        tints: (N, 2, 64); without them colors are not compared.

    Returns:
        (N,) int64, the cluster of each image, numbered by first appearance.
    """
    clusters = np.arange(len(thumbnails))
    for pairs in alike_pairs(thumbnails, threshold, tints):
        clusters = unite(clusters, pairs)
    return _renumber(clusters)


def alike_pairs(
    thumbnails: np.ndarray, threshold: float, tints: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield the pairs (2, P) that `near_duplicates` clusters; of equal images a chain."""
    whole = thumbnails if tints is None else _with_tints(thumbnails, tints)
    yield equal_pairs([value.tobytes() for value in whole])
    for pairs in similar_pairs(standardize(thumbnails), threshold):
        yield pairs if tints is None else pairs[:, colors_agree(tints, *pairs)]


def alike_any(images: Appearance, others: Appearance, threshold: float) -> np.ndarray:
    """Return (N,) bool: whether an image is alike one of the others, as for `near_duplicates`.

    An image of one color is alike nothing here.

    Args:
        images: The N images.
        others: Those that they are compared with.
        threshold: The least correlation.
    """
    found, tints = np.zeros(len(images), dtype=bool), np.concatenate([images.tints, others.tints])
    rows = standardize(images.thumbnails), standardize(others.thumbnails)
    for near, far in similar_pairs(rows[0], threshold, rows[1]):
        found[near[colors_agree(tints, near, far + len(images))]] = True
    return found


def equal_pairs(values: Sequence[Hashable]) -> np.ndarray:
    """Return (2, P): each value that has appeared before, after its first appearance."""
    first: dict[Hashable, int] = {}
    pairs = [(first.setdefault(value, index), index) for index, value in enumerate(values)]
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return found[:, found[0] != found[1]]


def chain_pairs(families: Iterable[Sequence[int] | np.ndarray]) -> np.ndarray:
    """Return (2, P): each member of a family with the next one."""
    ends = [np.stack([family[:-1], family[1:]]) for family in map(np.asarray, families)]
    return np.concatenate([np.empty((2, 0), np.int64), *ends], 1).astype(np.int64)


def similar_pairs(
    rows: np.ndarray, threshold: float, others: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield the pairs of rows whose product is at least `threshold`, block by block.

    No pair of thumbnails is missed, and few are computed in full: the product of two rows is that
    of their 8 x 8 means plus that of the remainders, and the latter is at most the product of their
    lengths (Cauchy-Schwarz).

    Args:
        rows: (N, D) float32 of length 1.
        threshold: The least product.
        others: (N, D) rows of the second of each pair; by default the same.

    Yields:
        (2, P) indices; without `others` the first of a pair is smaller than the second.
    """
    second = rows if others is None else others
    coarse, far_coarse = (
        _bounding_rows(each) if rows.shape[1] == _COMPARED**2 else each for each in (rows, second)
    )
    step = max(1, _BLOCK // max(1, len(rows)))
    for start in range(0, len(rows), step):
        after = start if others is None else 0
        bounds = coarse[start : start + step] @ far_coarse[after:].T
        candidates = np.flatnonzero(bounds >= threshold - _ROUNDING)
        if len(candidates) > _MANY * bounds.size:
            products = rows[start : start + step] @ second[after:].T
            candidates = np.flatnonzero(products >= threshold)
        offsets = np.array([[start], [after]])
        pairs = np.stack(np.divmod(candidates, bounds.shape[1])) + offsets
        if others is None:
            pairs = pairs[:, pairs[0] < pairs[1]]
        for first in range(0, pairs.shape[1], _PAIRS):
            near, far = pairs[:, first : first + _PAIRS]
            similar = np.einsum("pd,pd->p", rows[near], second[far]) >= threshold
            yield np.stack([near[similar], far[similar]])


def colors_agree(tints: np.ndarray, near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Whether the colors of pairs are compatible, unlike a red and a blue drawing of one shape.

    An image without colors agrees with all: it may be a copy that has lost them.

    Args:
        tints: (N, 2, 64).
        near: (P,) indices.
        far: (P,) indices.

    Returns:
        (P,) bool.
    """
    return colors_agree_by_rows(tints[near], tints[far])


def colors_agree_by_rows(tints: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether the colors of pairs (P, 2, 64) and (P, 2, 64) are compatible; (P,) bool."""
    one, other = (_flatten(each).astype(np.float32) for each in (tints, others))
    lengths = np.sqrt(np.square(one).sum(1)), np.sqrt(np.square(other).sum(1))
    # the length of a tint is _CELLS, the root of the number of cells, times their mean difference
    colored = np.minimum(*lengths) > _COLORED * _CELLS
    same = (one * other).sum(1) >= _SAME_TINT * lengths[0] * lengths[1]
    return np.asarray(~colored | same)


def _with_tints(thumbnails: np.ndarray, tints: np.ndarray) -> np.ndarray:
    return np.concatenate([_flatten(thumbnails), _flatten(tints).view(np.uint8)], 1)


def _flatten(values: np.ndarray) -> np.ndarray:
    """(N, ...) -> (N, D)."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _bounding_rows(rows: np.ndarray) -> np.ndarray:
    """(N, 65) rows whose products are upper bounds of those of rows of length 1.

    They are the means of 4 x 4 cells, and the length of the remainder.
    """
    cell = _COMPARED // _CELLS
    means = rows.reshape(len(rows), _CELLS, cell, _CELLS, cell).mean((2, 4))
    means = means.reshape(len(rows), _CELLS**2) * cell
    remainder = np.einsum("nd,nd->n", rows, rows) - np.square(means).sum(1)
    return np.concatenate([means, np.sqrt(np.maximum(0, remainder))[:, None]], 1)


def unite(clusters: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The clusters after uniting those of every pair (2, P)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = clusters[pairs]
    ends = ends[:, ends[0] != ends[1]]
    if ends.size == 0:
        return clusters
    count = int(clusters.max()) + 1
    edges = np.ones(ends.shape[1], dtype=bool)
    graph = coo_array((edges, (ends[0], ends[1])), shape=(count, count))
    return cast(np.ndarray, connected_components(graph, directed=False)[1][clusters])


def _renumber(clusters: Iterable[int]) -> np.ndarray:
    """The same partition with numbers 0, 1, 2, ... in the order of first appearance."""
    numbers: dict[int, int] = {}
    return np.array(
        [numbers.setdefault(int(cluster), len(numbers)) for cluster in clusters], dtype=np.int64
    )
