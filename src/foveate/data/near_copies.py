"""Near-copies: images that show the same, perhaps mirrored, turned, cropped or recolored.

Candidates are images of which several keypoints have the same hash. They are verified by laying
one on the other and comparing their gray levels and colors. Time and memory grow with the number
of images, not of pairs.

Letters: N images, M keypoints of all images, P pairs, D coefficients.
"""

from __future__ import annotations

import math
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
from foveate.data.registration import (
    coarsen,
    compare,
    correlate,
    match,
    refine_coarsely,
    refine_finely,
    tints_after,
)

_TABLES = 24  # of hashes, each for images as they are and mirrored
_HASHED = 24  # coefficients, the lowest
_WHITENED = 0.85  # power of its deviation that a coefficient is divided by before it is hashed
_PER_BUCKET = 0.1  # keypoints that a bucket would hold if all patches were as likely
_MAX_BITS = 32  # of a hash
_MAX_BUCKET = 32  # keypoints; larger buckets hold patches that every image has
_NEIGHBORS = 6  # keypoints of a bucket that each is paired with
_ANGLES = 12  # steps of a turn; votes count together if they are for one step or the next
_MIN_VOTES = 2  # equal hashes of a candidate
_MAX_CANDIDATES = 8  # of an image
_MAX_VOTES = 20_000_000  # that are counted at once: 160 MB
_BATCH = 1024  # pairs that are verified at once
_MIN_AGREEING = 2.0  # matches, counted by their similarity; with fewer, pixels must agree more
_MIN_SHARE = 0.15  # of the keypoints of the image with fewer; 0.2 for most crops of 80 %
_PROMISING, _PROMISING_FEW = 0.3, 0.8  # coarse correlation before refinement, for few matches
_REFINED, _REFINED_FEW = 0.8, 0.88  # the same afterwards
_MAX_AREA = 5.0  # of one image, in that of the other
_IMPROVED = 0.1  # overlap that refinement may add
_MIN_OVERLAP = 0.55  # of the image that shows more: a crop of 80 % of the sides has 0.64
_MIN_REST = 0.5  # of the contrast, beside a covered part
_RESAMPLED = 4 / 3  # times the distance to 1 that edited copies have from sampling alone
_COVERED = 1 / 3  # times that distance may be missing beside a covered part, or for few matches
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
    images = _Images(thumbnails, tints, keypoints, coarsen(thumbnails))
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
    images = _Images(thumbnails, tints, find_keypoints(thumbnails), coarsen(thumbnails))
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
    filled = np.arange(keypoints.points.shape[1]) < keypoints.counts[:, None]
    patches = coefficients(keypoints.patches[filled][:, :_HASHED])
    if len(patches):
        # the mean of those that mirroring turns around is 0 over images and mirrored images
        patches -= np.where(MIRROR[:_HASHED] > 0, patches.mean(0), 0)
        patches /= (patches.std(0) + 1e-6) ** _WHITENED
    bits = math.ceil(math.log2(max(64, len(patches) / _PER_BUCKET)))
    bits = min(bits, _MAX_BITS)
    random, votes = np.random.default_rng(0), _Votes(keypoints.counts, keypoints.frames[filled])
    for _ in range(_TABLES):
        planes = random.standard_normal((_HASHED, bits)).astype(np.float32)
        codes = [_codes(patches @ each) for each in (planes, planes * MIRROR[:_HASHED, None])]
        votes.add(np.concatenate(codes))
    return votes.strongest()


def _codes(products: np.ndarray) -> np.ndarray:
    """(M, bits) -> (M,) uint32, one bit for each sign."""
    packed = np.zeros((len(products), _MAX_BITS // 8), np.uint8)
    packed[:, : math.ceil(products.shape[1] / 8)] = np.packbits(products > 0, axis=1)
    return packed.view(np.uint32)[:, 0]


class _Votes:
    """Counts the equal hashes of pairs of images, for each angle by which one may be turned.

    Args:
        counts: (N,) keypoints of each image.
        frames: (M,) complex frames of the keypoints.
    """

    def __init__(self, counts: np.ndarray, frames: np.ndarray) -> None:
        self._count, self._keypoints = len(counts), len(frames)
        self._image = np.tile(np.repeat(np.arange(len(counts)), counts), 2)
        angles = np.angle(frames) / (2 * np.pi) * _ANGLES
        self._angles = np.concatenate([angles, -angles]).astype(np.float32)
        self._shuffled = np.random.default_rng(1).permutation(2 * len(frames))
        self._waiting: list[np.ndarray] = []
        self._size = 0
        self._keys, self._votes = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, codes: np.ndarray) -> None:
        """Add a table: a code for each keypoint, then for each as if its image were mirrored."""
        # numbers are sorted faster than indices, and in the same order on every machine
        places = np.arange(len(codes), dtype=np.uint64)
        both = np.sort(codes[self._shuffled].astype(np.uint64) << np.uint64(32) | places)
        ordered = (both >> np.uint64(32)).astype(np.uint32)
        order = self._shuffled[both.astype(np.uint32)]
        starts = _starts(ordered)
        sizes = np.diff(np.r_[starts, len(ordered)])
        left = np.repeat(starts + sizes, sizes) - np.arange(len(ordered)) - 1
        left[np.repeat(sizes > _MAX_BUCKET, sizes)] = 0
        for step in range(1, _NEIGHBORS + 1):
            one = np.flatnonzero(left >= step)
            if not len(one):
                break
            first, second = order[one], order[one + step]
            kept = self._image[first] != self._image[second]
            self._waiting.append(self._keys_of(first[kept], second[kept]))
            self._size += len(self._waiting[-1])
        if self._size > _MAX_VOTES:
            self._merge()

    def _keys_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """A number for two images, whether one is mirrored, and the angle between them."""
        near, far = self._image[first], self._image[second]
        one, other = first >= self._keypoints, second >= self._keypoints
        mirrored, swapped = one != other, near > far
        angle = self._angles[second] - self._angles[first]
        # mirrored hashes turn the other way; the angle to a mirrored image has no order
        angle = np.where(other ^ (swapped & ~mirrored), -angle, angle)
        step = np.floor(angle).astype(np.int64) % _ANGLES
        low, high = np.where(swapped, far, near), np.where(swapped, near, far)
        return np.asarray(((low * self._count + high) * 2 + mirrored) * _ANGLES + step)

    def _merge(self) -> None:
        """Count what waits; angles without a second vote by now are forgotten if there are many."""
        keys = np.concatenate(self._waiting)
        self._waiting, self._size = [], 0
        keys.sort()
        keys, votes = _sums(keys)
        if len(self._keys):
            keys = np.concatenate([self._keys, keys])
            order = np.argsort(keys, kind="stable")  # merges what is sorted already
            votes = np.concatenate([self._votes, votes])[order]
            keys, votes = _sums(keys[order], votes)
        if len(keys) > _MAX_VOTES:
            keys, votes = keys[votes > 1], votes[votes > 1]
        self._keys, self._votes = keys, votes

    def strongest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs with most votes of each image: indices, and whether mirrored."""
        if self._waiting:
            self._merge()
        keys, votes = self._of_best_angle()
        pairs, mirrored = np.divmod(keys, 2)
        near, far = np.divmod(pairs, max(1, self._count))
        ends = np.concatenate([near, far])
        order = np.lexsort((-np.tile(votes, 2), ends))
        first = np.searchsorted(ends[order], np.arange(self._count))
        rank = np.arange(len(order)) - first[ends[order]]
        kept = np.unique(order[rank < _MAX_CANDIDATES] % max(1, len(near)))
        return near[kept], far[kept], mirrored[kept].astype(bool)

    def _of_best_angle(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of images, and the most votes that one angle has together with the next one."""
        if not len(self._keys):
            return self._keys, self._votes
        pairs, angles = np.divmod(self._keys, _ANGLES)
        starts = _starts(pairs)
        ends = np.r_[starts[1:], len(pairs)] - 1
        votes = self._votes.copy()
        adjacent = self._keys[1:] == self._keys[:-1] + 1
        adjacent &= angles[1:] > 0  # else it is another pair
        votes[:-1] += np.where(adjacent, self._votes[1:], 0)
        around = (angles[starts] == 0) & (angles[ends] == _ANGLES - 1)
        votes[ends] += np.where(around, self._votes[starts], 0)
        best = np.maximum.reduceat(votes, starts)
        enough = best >= _MIN_VOTES
        return pairs[starts][enough], best[enough]


def _starts(ordered: np.ndarray) -> np.ndarray:
    """Where each value of ordered values begins."""
    return np.flatnonzero(np.r_[len(ordered) > 0, ordered[1:] != ordered[:-1]][: len(ordered)])


def _sums(keys: np.ndarray, votes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Each of the ordered keys once, and its votes; by default each has one."""
    starts = _starts(keys)
    if votes is None:
        return keys[starts], np.diff(np.r_[starts, len(keys)])
    return keys[starts], np.add.reduceat(votes, starts) if len(starts) else votes


# --- verification


@dataclass(frozen=True)
class _Images:
    thumbnails: np.ndarray
    tints: np.ndarray
    keypoints: Keypoints
    coarse: np.ndarray  # blurred thumbnails

    def are_alike(
        self, near: np.ndarray, far: np.ndarray, mirrored: np.ndarray, threshold: float
    ) -> np.ndarray:
        """Whether the images of each pair are near-copies, (P,) bool."""
        transforms, agreeing = match(self.keypoints, near, far, mirrored)
        area = np.abs(np.linalg.det(transforms[:, :, :2]))
        counts = np.minimum(self.keypoints.counts[near], self.keypoints.counts[far])
        few = agreeing < np.maximum(_MIN_AGREEING, _MIN_SHARE * counts)
        correlation, overlap = correlate(self.coarse, near, far, transforms)
        kept = (area > 1 / _MAX_AREA) & (area < _MAX_AREA) & (agreeing > 0)
        kept &= overlap * np.maximum(1, area) >= _MIN_OVERLAP - _IMPROVED
        kept &= correlation >= np.where(few, _PROMISING_FEW, _PROMISING)
        kept = np.flatnonzero(kept)
        ends = near[kept], far[kept]
        transforms = refine_coarsely(self.thumbnails, *ends, transforms[kept])
        correlation, _ = correlate(self.coarse, *ends, transforms)
        promising = correlation >= np.where(few[kept], _REFINED_FEW, _REFINED)
        kept, transforms = kept[promising], transforms[promising]
        near, far = near[kept], far[kept]
        transforms = refine_finely(self.thumbnails, near, far, transforms)
        final = compare(self.thumbnails, near, far, transforms)
        beside = final.uncovered >= 1 - _COVERED * (1 - threshold)
        missing = np.where(few[kept], _COVERED, _RESAMPLED)
        same = final.similarity >= 1 - missing * (1 - threshold)
        same |= ~few[kept] & beside & (final.rest >= _MIN_REST)
        same &= final.overlap >= _MIN_OVERLAP
        moved, inside = tints_after(self.tints[far], transforms)
        colors = (each * inside[:, None] for each in (self.tints[near], moved))
        result = np.zeros(len(few), bool)
        result[kept] = same & colors_agree_by_rows(*colors)
        return result


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
