"""TODO-DOC foveate.data.duplicates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
from PIL import Image

THUMBNAIL_SIZE = 32  # pixels of a thumbnail's side


_ENTRIES = 4_000_000  # of a block of likenesses: 16 MB as float32


_MANY = 0.02  # of a block's pairs: from here on computing all is faster than picking some


_PAIRS = 4096  # whose likeness is computed at once


_ROUNDING = 1e-4  # of float32, and to spare


_PLAIN = 1e-3  # grey levels; a picture that varies less is one flat colour


_COLOURED = (
    4  # half grey levels that colours must differ by, in the mean of a picture, to say anything
)


_SAME_TINT = 0.5  # cosine of the tints of two pictures, from which their colours are those of one


def gray_thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (32, 32) uint8 grey levels, each the mean of the area that it covers."""
    return np.asarray(
        Image.fromarray(pixels).convert("L").resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX)
    )


def tint(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (2, 64) int8: of 8 x 8 cells half of what red has more than green, and blue more than both."""
    red, green, blue = (
        np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BOX), dtype=np.int16)
        .reshape(64, 3)
        .T
    )
    return (np.stack([red - green, blue - (red + green) // 2]) // 2).astype(np.int8)


def near_duplicates(thumbs: np.ndarray, likeness: float, tints: np.ndarray | None = None) -> np.ndarray:
    """(N, 32, 32) grey levels -> (N,) int64: the cluster of each picture, numbered by first appearance.

    Two pictures are joined when the Pearson correlation of their pixels is at least `likeness`, or when they are equal; with
    `tints`, (N, 2, 64), not those whose colours contradict each other. A picture of one flat colour has no correlation: it joins
    only its equals. Chains of likeness make one cluster.
    """
    clusters = _numbered(
        _equals(
            thumbs
            if tints is None
            else np.concatenate([_flat(thumbs), _flat(tints).view(np.uint8)], 1)
        )
    )
    rows = standardize(thumbs)
    for edges in similar_pairs(rows, likeness):
        clusters = _joined(clusters, edges if tints is None else edges[:, colors_agree(tints, *edges)])
    return _numbered(clusters)


def colors_agree(tints: np.ndarray, near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """(P,) bool: whether the colours of pairs do not contradict each other, as a red and a blue drawing of one shape do. A picture
    without colours agrees with all: it may be a copy that has lost them."""
    one, other = (_flat(tints)[places].astype(np.float32) for places in (near, far))
    lengths = np.sqrt(np.square(one).sum(1)), np.sqrt(np.square(other).sum(1))
    coloured = np.minimum(*lengths) > _COLOURED * 8  # 8: the root of the cells
    return np.asarray(~coloured | ((one * other).sum(1) >= _SAME_TINT * lengths[0] * lengths[1]))


def _flat(values: np.ndarray) -> np.ndarray:
    """(N, ...) -> (N, D)."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _equals(thumbs: np.ndarray) -> list[int]:
    """For each picture the first one that equals it."""
    first: dict[bytes, int] = {}
    return [first.setdefault(thumb.tobytes(), index) for index, thumb in enumerate(thumbs)]


def standardize(thumbs: np.ndarray) -> np.ndarray:
    """(N, 1024) float32 rows of mean 0 and length 1, so that a product of two is their correlation; flat rows are 0."""
    rows = np.array(thumbs.reshape(len(thumbs), THUMBNAIL_SIZE * THUMBNAIL_SIZE), dtype=np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    rows *= np.where(lengths <= _PLAIN * THUMBNAIL_SIZE, 0, 1 / np.maximum(lengths, _PLAIN))
    return rows


def similar_pairs(rows: np.ndarray, likeness: float) -> Iterator[np.ndarray]:
    """(N, D) float32 rows of length 1 -> pairs (2, P) whose product is at least `likeness`, block by block; the first of a pair
    comes before the second.

    Of thumbnails no pair is missed, and few are computed in full: the product of two rows is that of their 8 x 8 means and of what
    these leave over, and the latter is at most the product of its lengths (Cauchy-Schwarz).
    """
    coarse = _bounding(rows) if rows.shape[1] == THUMBNAIL_SIZE**2 else rows
    step = max(1, _ENTRIES // max(1, len(rows)))
    for start in range(0, len(rows), step):
        bound = coarse[start : start + step] @ coarse[start:].T
        places = np.flatnonzero(bound >= likeness - _ROUNDING)
        if len(places) > _MANY * bound.size:
            places = np.flatnonzero(rows[start : start + step] @ rows[start:].T >= likeness)
        pairs = np.stack(np.divmod(places, bound.shape[1])) + start
        pairs = pairs[:, pairs[0] < pairs[1]]
        for place in range(0, pairs.shape[1], _PAIRS):
            near, far = pairs[:, place : place + _PAIRS]
            enough = np.einsum("pd,pd->p", rows[near], rows[far]) >= likeness
            yield np.stack([near[enough], far[enough]])


def _bounding(rows: np.ndarray) -> np.ndarray:
    """(N, 65) whose products are nowhere below those of rows of length 1: the means of 4 x 4 cells, and the length of the rest."""
    cells = rows.reshape(len(rows), 8, THUMBNAIL_SIZE // 8, 8, THUMBNAIL_SIZE // 8).mean((2, 4)).reshape(
        len(rows), 64
    ) * (THUMBNAIL_SIZE // 8)
    rest = np.sqrt(np.maximum(0, np.einsum("nd,nd->n", rows, rows) - np.square(cells).sum(1)))
    return np.concatenate([cells, rest[:, None]], 1)


def _joined(clusters: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The clusters after uniting the two ends of every edge (2, P)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = clusters[edges]
    ends = ends[:, ends[0] != ends[1]]
    if ends.size == 0:
        return clusters
    count = int(clusters.max()) + 1
    graph = coo_array(
        (np.ones(ends.shape[1], dtype=bool), (ends[0], ends[1])), shape=(count, count)
    )
    return cast(np.ndarray, connected_components(graph, directed=False)[1][clusters])


def _numbered(clusters: Iterable[int]) -> np.ndarray:
    """The same partition with ids 0, 1, 2, ... in the order of first appearance."""
    ids: dict[int, int] = {}
    return np.array(
        [ids.setdefault(int(cluster), len(ids)) for cluster in clusters], dtype=np.int64
    )
