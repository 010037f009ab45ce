"""Groups of images that no split may divide: stated, equal, near-copies, named copies, sequences.

Letters: N images, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foveate.data.copy_names import name_families
from foveate.data.duplicates import alike_pairs, chain_pairs, equal_pairs, standardize, unite
from foveate.data.near_copies import are_near_copies, find_near_copies
from foveate.data.scan import ScannedTable
from foveate.data.sequences import Sequences, find_sequences
from foveate.messages import Message
from foveate.recipe import DataRecipe

_LENIENT = 0.8  # similarity from which a name is believed that could mean something else


@dataclass(frozen=True)
class Groups:
    """The group of each image, and what they were made of.

    Attributes:
        names: The group of each image: as stated, or else the key of its first image.
        notes: What was put together, and why.
    """

    names: list[str]
    notes: tuple[Message, ...]


def find_groups(scanned: ScannedTable, recipe: DataRecipe) -> Groups:
    """Find the groups of images: what the data state, and what names and pixels show.

    Args:
        scanned: The images.
        recipe: Its `near_duplicates` is the least similarity of pixels; with 1 only stated groups
            and equal files count.
    """
    samples, thumbnails, tints = scanned.table.samples, scanned.thumbnails, scanned.tints
    merger = _Merger([sample.group for sample in samples])
    if count := merger.merge([equal_pairs(scanned.hashes)]):
        text = "{count:equal file|equal files} beyond the first: kept in the same split"
        merger.notes.append(Message("choice.equal_files", text, count=count))
    if recipe.near_duplicates < 1 and len(samples) > 1:
        tints = np.zeros((len(samples), 2, 64), np.int8) if tints is None else tints
        _merge_copies(merger, [sample.key for sample in samples], thumbnails, tints, recipe)
    if joined := merger.joined_groups():
        text = (
            "{count:group|groups} of the data share equal files or copies with another: they stay"
            " in one split together"
        )
        merger.notes.append(Message("choice.joined_groups", text, count=joined))
    names: dict[int, str] = {}
    for cluster, sample in zip(merger.clusters.tolist(), samples, strict=True):
        names.setdefault(cluster, sample.group or sample.key)
    return Groups([names[cluster] for cluster in merger.clusters.tolist()], tuple(merger.notes))


def _merge_copies(
    merger: _Merger, keys: list[str], thumbnails: np.ndarray, tints: np.ndarray, recipe: DataRecipe
) -> None:
    """Merge near-copies, copies by name, and sequences."""
    if count := merger.merge(near_copy_pairs(thumbnails, tints, recipe.near_duplicates)):
        text = (
            "{count:near-copy|near-copies} found by pixels, perhaps mirrored, turned, cropped or"
            " recolored: kept in the split of the original"
        )
        merger.notes.append(Message("choice.near_copies", text, count=count))
    named = named_copy_pairs(keys, thumbnails, tints)
    if count := merger.merge([named]):
        text = (
            "{count:copy|copies} found by name, such as {example}: kept in the split of the"
            " original"
        )
        example = repr(keys[int(named[1, 0])][-80:])
        merger.notes.append(Message("choice.named_copies", text, count=count, example=example))
    sequences = find_sequences(keys, standardize(thumbnails))
    if sequences is not None and merger.merge([chain_pairs(sequences.stretches)]):
        merger.notes.append(describe_sequences(sequences))


def near_copy_pairs(
    thumbnails: np.ndarray, tints: np.ndarray, threshold: float
) -> Iterator[np.ndarray]:
    """Yield pairs (2, P) of images that are alike, as they are or after being edited.

    Args:
        thumbnails: (N, 64, 64) uint8 gray levels.
        tints: (N, 2, 64) int8 colors.
        threshold: The least correlation of gray levels, in (0, 1).
    """
    yield from alike_pairs(thumbnails, threshold, tints)
    yield from find_near_copies(thumbnails, tints, threshold)


def named_copy_pairs(keys: Sequence[str], thumbnails: np.ndarray, tints: np.ndarray) -> np.ndarray:
    """Return pairs (2, P) of images that are copies by their names.

    Names that may mean something else count where the pixels are at least similar.

    Args:
        keys: Names of the images with their folders.
        thumbnails: (N, 64, 64) uint8 gray levels.
        tints: (N, 2, 64) int8 colors.
    """
    families = name_families(keys)
    certain = chain_pairs(family.members for family in families if family.certain)
    doubtful = [family.members for family in families if not family.certain]
    pairs = np.concatenate(
        [
            chain_pairs(doubtful),
            chain_pairs((each[0], other) for each in doubtful for other in each[2:]),
        ],
        axis=1,
    )
    pairs = pairs[:, are_near_copies(thumbnails, tints, pairs, _LENIENT)]
    return np.concatenate([certain, pairs], axis=1)


def describe_sequences(sequences: Sequences) -> Message:
    """Say what was taken for sequences, and why."""
    text = (
        "file names count on, such as {example} and a number, and {alike:.0%} of neighbors are more"
        " alike than other images: taken for {count:sequence|sequences}, such as frames of a video,"
        " that no split divides"
    )
    values = {"example": repr(sequences.example[-60:]), "alike": sequences.alike}
    whole = Message("choice.sequences", text, count=len(sequences.stretches), **values)
    if not sequences.is_divided:
        return whole
    text = "{sequences}; a folder that is one long sequence is divided into stretches of neighbors"
    return Message("choice.stretches", text, sequences=whole)


class _Merger:
    """Unites groups step by step.

    Args:
        stated: The group of each image that the data state.

    Attributes:
        clusters: (N,) the group of each image by now.
        notes: What was united, and why.
    """

    def __init__(self, stated: Sequence[str | None]) -> None:
        names = [group or index for index, group in enumerate(stated)]
        numbers: dict[str | int, int] = {}
        codes = [numbers.setdefault(name, len(numbers)) for name in names]
        self.clusters = np.array(codes, dtype=np.int64)
        self.notes: list[Message] = []
        self._stated = np.array([bool(group) for group in stated])
        self._before = self.clusters

    def merge(self, blocks: Iterable[np.ndarray]) -> int:
        """Unite the groups of pairs (2, P); return by how many their number falls."""
        before = len(set(self.clusters.tolist()))
        for pairs in blocks:
            self.clusters = unite(self.clusters, pairs)
        return before - len(set(self.clusters.tolist()))

    def joined_groups(self) -> int:
        """Return how many stated groups share a group now with another stated one."""
        pairs = np.stack([self._before, self.clusters])[:, self._stated]
        _, counts = np.unique(np.unique(pairs, axis=1)[1], return_counts=True)
        return int(counts[counts > 1].sum())
