"""Near-copies: images that show the same, perhaps mirrored, turned, cropped or recolored.

Candidates are images of which several keypoints have the same hash. They are verified by laying
one on the other and comparing their gray levels and colors. Time and memory grow with the number
of images, not of pairs.

Letters: N images, M keypoints of all images, P pairs, D coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from foveate.data.duplicates import colors_agree_by_rows, similar_pairs, standardize
from foveate.data.keypoints import (
    MIRROR,
    Keypoints,
    coefficients,
    find_keypoints,
    has_structure,
)
from foveate.data.registration import compare, match, refine, tints_after

_TABLES = 48  # of hashes
_HASHED = 28  # coefficients, the lowest
_PER_BUCKET = 1.0  # keypoints that a bucket holds on average
_MAX_BUCKET = 32  # keypoints; larger buckets hold patches that every image has
_NEIGHBORS = 6  # keypoints of a bucket that each is paired with
_MIN_VOTES = 2  # equal hashes of a candidate
_MAX_CANDIDATES = 8  # of an image
_MAX_VOTES = 20_000_000  # that are counted at once: 160 MB
_BATCH = 1024  # pairs that are verified at once
_MIN_AGREEING = 2.0  # matches of a pair that is compared, counted by their similarity
_MIN_SHARE = 0.15  # of the keypoints of the image with fewer; 0.2 for most crops of 80 %
_PROMISING = 0.5  # similarity before refinement
_MAX_AREA = 5.0  # of one image, in that of the other
_IMPROVED = 0.1  # overlap that refinement may add
_MIN_OVERLAP = 0.55  # of the image that shows more: a crop of 80 % of the sides has 0.64
_MIN_REST = 0.5  # of the contrast, beside a covered part
_RESAMPLED = 4 / 3  # times the distance to 1 that edited copies have from sampling alone
_COVERED = 1 / 3  # times that distance may be missing beside a covered part
_FEW = 6  # keypoints; images with fewer are also compared as wholes


def find_near_copies(
    thumbnails: np.ndarray, tints: np.ndarray, threshold: float
) -> Iterator[np.ndarray]:
    """Yield pairs of images that are alike after mirroring, turning, scaling, shifting or cropping.

    Of a large set of copies each is paired with a few others only; chains connect them all.

    Args:
        thumbnails: (N, 64, 64) uint8 gray levels.
        tints: (N, 2, 64) int8 colors.
        threshold: The least correlation of gray levels, in (0, 1), where nothing was edited; a
            third more may be missing to 1 after an edit.

    Yields:
        (2, P) indices; the first of a pair is smaller.
    """
    keypoints = find_keypoints(thumbnails)
    near, far, mirrored = _candidates(keypoints)
    images = _Images(thumbnails, tints, keypoints)
    for start in range(0, len(near), _BATCH):
        batch = np.s_[start : start + _BATCH]
        pairs = near[batch], far[batch]
        yield np.stack(pairs)[:, images.are_alike(*pairs, mirrored[batch], threshold)]
    few = np.flatnonzero(keypoints.counts < _FEW)
    few = few[has_structure(thumbnails[few].astype(np.float32))]
    yield from _as_wholes(thumbnails, tints, few, threshold)


def are_near_copies(
    thumbnails: np.ndarray, tints: np.ndarray, pairs: np.ndarray, threshold: float
) -> np.ndarray:
    """Whether pairs (2, P) of images are near-copies, (P,) bool; arguments as above."""
    chosen, ends = np.unique(pairs, return_inverse=True)
    near, far = ends.reshape(pairs.shape)
    thumbnails, tints = thumbnails[chosen], tints[chosen]
    images = _Images(thumbnails, tints, find_keypoints(thumbnails))
    result = np.zeros(pairs.shape[1], bool)
    for start in range(0, len(near), _BATCH):
        batch = np.s_[start : start + _BATCH]
        for mirrored in (False, True):
            flags = np.full(len(near[batch]), mirrored)
            result[batch] |= images.are_alike(near[batch], far[batch], flags, threshold)
    return result


# --- candidates


def _candidates(keypoints: Keypoints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of images with several keypoints of equal hash, and whether one is mirrored."""
    count = len(keypoints.counts)
    filled = np.arange(keypoints.points.shape[1]) < keypoints.counts[:, None]
    image = np.repeat(np.arange(count), keypoints.counts)
    patches = coefficients(keypoints.patches[filled][:, :_HASHED])
    patches /= patches.std(0) + 1e-6 if len(patches) else 1
    bits = max(6, int(np.ceil(np.log2(max(1, len(patches) / _PER_BUCKET)))))
    random, votes = np.random.default_rng(0), _Votes(count)
    for _ in range(_TABLES):
        planes = random.standard_normal((_HASHED, bits)).astype(np.float32)
        codes = [_codes(patches @ each) for each in (planes, planes * MIRROR[:_HASHED, None])]
        votes.add(np.concatenate(codes), np.concatenate([image, image]), len(image))
    return votes.strongest()


def _codes(products: np.ndarray) -> np.ndarray:
    """(M, bits) -> (M,), one bit for each sign."""
    return np.asarray((products > 0) @ (1 << np.arange(products.shape[1], dtype=np.int64)))


class _Votes:
    """Counts the equal hashes of pairs of images."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: list[np.ndarray] = []
        self._size = 0
        self._keys, self._votes = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, codes: np.ndarray, image: np.ndarray, unmirrored: int) -> None:
        """Add a table: a code and an image for each keypoint, mirrored ones last."""
        order = np.argsort(codes, kind="stable")
        ordered = codes[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sizes = np.diff(np.r_[starts, len(ordered)])
        left = np.repeat(starts + sizes, sizes) - np.arange(len(ordered)) - 1
        left[np.repeat(sizes > _MAX_BUCKET, sizes)] = 0
        for step in range(1, _NEIGHBORS + 1):
            one = np.flatnonzero(left >= step)
            if not len(one):
                break
            first, second = order[one], order[one + step]
            mirrored = second >= unmirrored  # the order is stable: the first comes before
            kept = (first < unmirrored) & (image[first] != image[second])
            kept &= ~mirrored | (image[first] < image[second])  # else it would count twice
            near, far = image[first[kept]], image[second[kept]]
            low, high = np.minimum(near, far), np.maximum(near, far)
            self._waiting.append((low * self._count + high) * 2 + mirrored[kept])
            self._size += len(low)
        if self._size > _MAX_VOTES:
            self._merge()

    def _merge(self) -> None:
        """Count what waits; pairs without a second vote by now are forgotten if there are many."""
        keys, counts = np.unique(np.concatenate(self._waiting), return_counts=True)
        keys, inverse = np.unique(np.concatenate([self._keys, keys]), return_inverse=True)
        votes = np.zeros(len(keys), np.int64)
        np.add.at(votes, inverse, np.concatenate([self._votes, counts]))
        kept = votes >= (_MIN_VOTES if len(keys) > _MAX_VOTES else 1)
        self._keys, self._votes = keys[kept], votes[kept]
        self._waiting, self._size = [], 0

    def strongest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs with most votes of each image: indices, and whether mirrored."""
        if self._waiting:
            self._merge()
        enough = self._votes >= _MIN_VOTES
        pairs, mirrored = np.divmod(self._keys[enough], 2)
        near, far = np.divmod(pairs, max(1, self._count))
        ends = np.concatenate([near, far])
        order = np.lexsort((-np.tile(self._votes[enough], 2), ends))
        first = np.searchsorted(ends[order], np.arange(self._count))
        rank = np.arange(len(order)) - first[ends[order]]
        kept = np.unique(order[rank < _MAX_CANDIDATES] % max(1, len(near)))
        return near[kept], far[kept], mirrored[kept].astype(bool)


# --- verification


@dataclass(frozen=True)
class _Images:
    thumbnails: np.ndarray
    tints: np.ndarray
    keypoints: Keypoints

    def are_alike(
        self, near: np.ndarray, far: np.ndarray, mirrored: np.ndarray, threshold: float
    ) -> np.ndarray:
        """Whether the images of each pair are near-copies, (P,) bool."""
        transforms, agreeing = match(self.keypoints, near, far, mirrored)
        area = np.abs(np.linalg.det(transforms[:, :, :2]))
        counts = np.minimum(self.keypoints.counts[near], self.keypoints.counts[far])
        result = agreeing >= np.maximum(_MIN_AGREEING, _MIN_SHARE * counts)
        result &= (area > 1 / _MAX_AREA) & (area < _MAX_AREA)
        kept = np.flatnonzero(result)
        first = compare(self.thumbnails, near[kept], far[kept], transforms[kept])
        promising = np.maximum(first.similarity, first.uncovered) >= _PROMISING
        promising &= first.overlap >= _MIN_OVERLAP - _IMPROVED
        result[kept[~promising]] = False
        kept = kept[promising]
        near, far = near[kept], far[kept]
        transforms = refine(self.thumbnails, near, far, transforms[kept])
        final = compare(self.thumbnails, near, far, transforms)
        beside = final.uncovered >= 1 - _COVERED * (1 - threshold)
        threshold = 1 - _RESAMPLED * (1 - threshold)
        same = (final.similarity >= threshold) | (beside & (final.rest >= _MIN_REST))
        same &= final.overlap >= _MIN_OVERLAP
        moved, inside = tints_after(self.tints[far], transforms)
        colors = (each * inside[:, None] for each in (self.tints[near], moved))
        result[kept] = same & colors_agree_by_rows(*colors)
        return np.asarray(result)


def _as_wholes(
    thumbnails: np.ndarray, tints: np.ndarray, chosen: np.ndarray, threshold: float
) -> Iterator[np.ndarray]:
    """Pairs of images that are alike when mirrored or turned by 90 degrees, as wholes."""
    if len(chosen) < 2:
        return
    whole, cells = thumbnails[chosen], tints[chosen].reshape(len(chosen), 2, 8, 8)
    rows = standardize(whole)
    for turns, flip in ((1, False), (2, False), (0, True), (1, True), (2, True), (3, True)):
        turned, colors = (
            np.rot90(np.flip(each, -1) if flip else each, turns, axes=(-2, -1))
            for each in (whole, cells)
        )
        others = standardize(np.ascontiguousarray(turned))
        colors = colors.reshape(len(chosen), 2, 64)
        for near, far in similar_pairs(rows, threshold, others):
            kept = colors_agree_by_rows(tints[chosen[near]], colors[far]) & (near != far)
            ends = chosen[near[kept]], chosen[far[kept]]
            yield np.stack([np.minimum(*ends), np.maximum(*ends)])
