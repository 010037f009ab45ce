"""Sequences: numbered images whose neighbors are alike, such as the frames of a video.

Numbers alone prove nothing, because cameras number photos. Neighbors are compared with images that
are not neighbors: in photos they are hardly more alike, in frames of a video they are.

Letters: N images, D width of a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foveate.data.copy_names import Numbered, numbered_names

_MIN_LENGTH = 3  # images of a sequence
_MIN_PAIRS = 20  # neighbors, from which something can be said
_MIN_ALIKE = 0.8  # of neighbors are more alike than others; 0.5 by chance
_CHANCE = 0.5  # of neighbors; a short sequence beside others is believed above it
_OTHERS = 8  # images that each pair of neighbors is compared with
_MIN_OTHERS = 10  # images of other sequences of a folder, else those far away in the same one
_FAR = 4  # a quarter of a sequence away
_LONG = 100  # images; a longer one that is all of its folder is divided into stretches
_STRETCHES = 20


@dataclass(frozen=True)
class Sequences:
    """Stretches of images that belong together.

    Attributes:
        stretches: The indices of each.
        alike: Share of neighbors that are more alike than other images of their folder.
        is_divided: Whether the only sequence of a folder was divided, for lack of others.
        example: How the names of one begin.
    """

    stretches: list[np.ndarray]
    alike: float
    is_divided: bool
    example: str


def find_sequences(keys: Sequence[str], rows: np.ndarray) -> Sequences | None:
    """Find sequences by names and by the likeness of neighbors; None if there are none.

    Args:
        keys: Names of the images with their folders.
        rows: (N, D) float32 of length 1, whose products are correlations.
    """
    numbered = [each for each in numbered_names(keys) if len(each.members) >= _MIN_LENGTH]
    if not numbered:
        return None
    in_folder: dict[str, list[Numbered]] = defaultdict(list)
    for each in numbered:
        in_folder[each.folder].append(each)
    shares = [_alike(each, in_folder[each.folder], rows) for each in numbered]
    alike = np.concatenate(shares)
    if len(alike) < _MIN_PAIRS or alike.mean() < _MIN_ALIKE:
        return None
    stretches, is_divided = list[np.ndarray](), False
    for each, share in zip(numbered, shares, strict=True):
        if len(share) and share.mean() <= _CHANCE:
            continue  # this one is not, for example the photos beside a video
        is_long = len(each.members) > _LONG and len(in_folder[each.folder]) == 1
        is_divided |= is_long
        stretches += np.array_split(each.members, _STRETCHES if is_long else 1)
    return Sequences(stretches, float(alike.mean()), is_divided, numbered[0].name)


def _alike(sequence: Numbered, siblings: list[Numbered], rows: np.ndarray) -> np.ndarray:
    """For each pair of neighbors, the share of other images that are less alike."""
    members, count = sequence.members, len(sequence.members)
    others = [each.members for each in siblings if each is not sequence]
    pool = np.concatenate(others) if others else np.empty(0, int)
    random = np.random.default_rng(0)
    if len(pool) >= _MIN_OTHERS:
        drawn = pool[random.integers(0, len(pool), (count - 1, _OTHERS))]
    elif count >= 2 * _MIN_OTHERS:
        away = random.integers(count // _FAR, count - count // _FAR, (count - 1, _OTHERS))
        drawn = members[(np.arange(count - 1)[:, None] + away) % count]
    else:
        return np.empty(0)
    near = (rows[members[:-1]] * rows[members[1:]]).sum(1)
    base = np.einsum("nd,nkd->nk", rows[members[:-1]], rows[drawn])
    return np.asarray((near[:, None] > base).mean(1))
