"""What is wrong with a whole set: copies across splits and classes, groups in two splits, classes that lack images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.api.check.inspection import Look
from foveate.data.duplicates import colors_agree, similar_pairs, standardize
from foveate.data.issues import TWINS, UNTAUGHT, IssueKind, IssueLog
from foveate.predictions import Boxes, Labels, Regions
from foveate.types import Sample, Table

_TOGETHER = "keep them in one split; where the data names none, foveate fit does"
SAME_ACROSS = IssueKind("the same file in two splits: figures flatter", "error", "copies", _TOGETHER)
SAME_OTHER = IssueKind("the same file with different labels", "error", "copies", "decide for one")
SAME = IssueKind("the same file again", "note", "copies")
GROUP_ACROSS = IssueKind(
    "groups that lie in more than one split: figures flatter",
    "error",
    "copies",
    "give each group one split",
)
UNUSED = IssueKind("classes that no image has", "warning", "classes")
ONE = IssueKind("there is one class only: nothing can be told apart", "error", "classes")
UNSCORED = IssueKind(
    "classes that a split for measuring lacks: figures say nothing of them", "warning", "classes"
)
FEW = IssueKind(
    "classes with fewer than 10 images to learn from",
    "warning",
    "classes",
    "collect more; figures of these will be rough",
)
RARE = IssueKind(
    "classes with less than a tenth of the images of the largest",
    "warning",
    "classes",
    "look at macro F1, not accuracy",
)
BARE = IssueKind("images without any object", "note", "labels")

_FEW, _RARE = 10, 10
_ALIKE_FEATURES = (
    0.95  # cosine by EfficientNet-Lite0: .96 for a mirrored photo, below .94 for any two of a shop
)


@dataclass(frozen=True)
class Likeness:
    """How pictures are compared. `rows`: (N, D) float32 of length 1; `least`: from which product two are alike; `across`, `other`,
    `within`: what it is called when two such are in different splits, have different labels, or neither. `tints`: (N, 2, 64) int8,
    where two are not alike whose colours contradict each other."""

    rows: np.ndarray
    least: float
    across: IssueKind
    other: IssueKind
    within: IssueKind
    tints: np.ndarray | None = None


def by_thumbnails(looks: Sequence[Look], least: float) -> Likeness:
    """Pearson correlation of thumbnails, and their colours."""
    rows = standardize(np.stack([look.thumb for look in looks]))
    return Likeness(
        rows,
        least,
        IssueKind("near-copies in two splits: figures flatter", "warning", "copies", _TOGETHER),
        IssueKind(
            "near-copies with different labels",
            "warning",
            "copies",
            "look at both: is one of them mislabelled?",
        ),
        IssueKind("near-copies of an image before", "note", "copies"),
        np.stack([look.tint for look in looks]),
    )


def by_features(features: np.ndarray) -> Likeness:
    """Cosine of (N, D) features."""
    rows = features / np.maximum(1e-12, np.linalg.norm(features, axis=1, keepdims=True))
    return Likeness(
        rows.astype(np.float32),
        _ALIKE_FEATURES,
        IssueKind(
            "nearly the same to the backbone, in two splits: figures flatter",
            "warning",
            "copies",
            _TOGETHER,
        ),
        IssueKind(
            "nearly the same to the backbone, with different labels",
            "warning",
            "copies",
            "look at both: is one mislabelled?",
        ),
        IssueKind("nearly the same to the backbone as an image before", "note", "copies"),
    )


UNCOMPARED = IssueKind("pictures were not compared by features", "note", "copies")


def copies(
    samples: Sequence[Sample], digests: Sequence[str], ways: Sequence[Likeness], found: IssueLog
) -> None:
    """Adds exact copies and, by each of the `ways`, near ones. Of a pair that lies in two splits the one outside train is named."""
    splits, labels = (
        _codes([sample.split for sample in samples]),
        _codes([_label(sample) for sample in samples]),
    )
    classes_ = _codes(
        [_label(sample) if isinstance(sample.target, Labels) else None for sample in samples]
    )
    same, first, partners = _codes(list(digests)), dict[int, int](), _Partners(splits, labels)
    pairs = np.array(
        [(first.setdefault(code, place), place) for place, code in enumerate(same.tolist())],
        dtype=np.int64,
    ).T
    partners.add(*pairs[:, pairs[0] != pairs[1]])
    partners.tell(samples, (SAME_ACROSS, SAME_OTHER, SAME), found)
    for way in ways:
        partners = _Partners(splits, classes_)
        for near, far in similar_pairs(way.rows, way.least):
            kept = same[near] != same[far]
            if way.tints is not None:
                kept &= colors_agree(way.tints, near, far)
            partners.add(near[kept], far[kept])
        partners.tell(samples, (way.across, way.other, way.within), found)


def _codes(values: Sequence[object]) -> np.ndarray:
    """(N,) int64: a number for each different value."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def _label(sample: Sample) -> object:
    """What must be the same for the same file: the classes of an image, those of the boxes in it; sentences and masks may differ.
    Of near-copies the boxes may differ, too: one may show a moment later."""
    if isinstance(sample.target, Labels):
        return tuple(sorted(sample.target.names))
    if isinstance(sample.target, Boxes):
        return tuple(sorted(Counter(sample.target.names).items()))
    return None


class _Partners:
    """For each image the first one before it that it is like: of those in another split, of those with another label, and of those
    that have neither; a pair may be of the first two kinds. `splits`, `labels`: (N,) codes."""

    def __init__(self, splits: np.ndarray, labels: np.ndarray) -> None:
        self._splits, self._labels = splits, labels
        self._first: tuple[dict[int, int], ...] = ({}, {}, {})

    def add(self, near: np.ndarray, far: np.ndarray) -> None:
        """P pairs: those before, and those that are like them."""
        across, other = (
            self._splits[near] != self._splits[far],
            self._labels[near] != self._labels[far],
        )
        for first, chosen in zip(self._first, (across, other, ~across & ~other), strict=True):
            places, spots = np.unique(far[chosen], return_index=True)
            for place, partner in zip(places.tolist(), near[chosen][spots].tolist(), strict=True):
                first.setdefault(place, partner)

    def tell(
        self, samples: Sequence[Sample], kinds: tuple[IssueKind, IssueKind, IssueKind], found: IssueLog
    ) -> None:
        """Adds them under their kinds, each image once."""
        for kind, first in zip(kinds, self._first, strict=True):
            told = set[str]()
            for place, partner in sorted(first.items()):
                one, two = samples[place], samples[partner]
                if kind is kinds[0] and one.split == "train":
                    one, two = two, one
                if one.key not in told:
                    found.add(kind, one.key, why=_names(one, two), like=two.key)
                told.add(one.key)


def _names(one: Sample, two: Sample) -> str:
    """The labels of both, where they differ."""
    names = [
        ", ".join(sample.target.names[:3]) if isinstance(sample.target, Labels) else ""
        for sample in (one, two)
    ]
    return f"{names[0] or '–'} / {names[1] or '–'}" if names[0] != names[1] else ""


def groups(samples: Sequence[Sample], found: IssueLog) -> None:
    """Adds groups of the data that its splits divide."""
    places: dict[str, dict[str, str]] = {}
    for sample in samples:
        if sample.group and sample.split:
            places.setdefault(sample.group, {}).setdefault(sample.split, sample.key)
    for group, keys in places.items():
        if len(keys) > 1:
            told = ", ".join(f"{split}: {key}" for split, key in keys.items())
            found.add(GROUP_ACROSS, group, why=told)


# --- classes


@dataclass(frozen=True)
class Balance:
    """How many images, boxes or pixels each class has. `unit`: of what; `rows`: class -> split ('' for none) -> count; `images`:
    the same of images that show it, which for pixels are not counted."""

    unit: str
    rows: dict[str, dict[str, int]]
    images: dict[str, dict[str, int]]
    splits: tuple[str, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns, and a row a class."""
        names = [split or "no split" for split in self.splits]
        columns = ["class", *names, "all"] if len(names) > 1 else ["class", self.unit]
        rows = [
            [name, *(f"{counts.get(split, 0)}" for split in self.splits)]
            for name, counts in self.rows.items()
        ]
        return columns, [[*row, str(sum(map(int, row[1:])))] for row in rows] if len(
            names
        ) > 1 else rows

    def numbers(self) -> dict[str, Any]:
        return {
            name: {split or "none": count for split, count in counts.items()}
            for name, counts in self.rows.items()
        }


def balance(table: Table, looks: Sequence[Look | None]) -> Balance:
    """What each class has; of masks only those that were looked at. `looks`: one for each sample."""
    rows, shown = ({name: Counter[str]() for name in table.classes} for _ in range(2))
    unit, splits = "images", dict.fromkeys((sample.split or "") for sample in table.samples)
    for sample, look in zip(table.samples, looks, strict=True):
        split = sample.split or ""
        if isinstance(sample.target, Labels | Boxes):
            unit = "boxes" if isinstance(sample.target, Boxes) else "images"
            for name in sample.target.names:
                rows[name][split] += 1
            for name in set(sample.target.names):
                shown[name][split] += 1
        elif isinstance(sample.target, Regions):
            unit = "pixels"
            pixels = [] if look is None or look.pixels is None else look.pixels.tolist()
            for name, count in zip(table.classes, pixels, strict=False):
                rows[name][split] += count
    order = [split for split in ("train", "val", "test", "") if split in splits]
    first, second = (
        {name: dict(counts) for name, counts in each.items()} for each in (rows, shown)
    )
    return Balance(unit, first, second, tuple(order))


def classes(table: Table, found: IssueLog, counted: Balance) -> None:
    """Adds what is amiss with the classes. Of pixels only which classes there are is judged, not how many they have; of names
    alone, nothing but the names."""
    _twins(table.classes, found)
    named, judged = (
        "train" in counted.splits,
        counted.rows if counted.unit == "pixels" else counted.images,
    )
    taught = {name: counts.get("train", 0) + counts.get("", 0) for name, counts in judged.items()}
    most, measured = (
        max(taught.values(), default=0),
        [split for split in counted.splits if split in ("val", "test")],
    )
    for name, counts in judged.items() if table.samples else ():
        if not sum(counts.values()):
            found.add(UNUSED, name)
        elif named and not taught[name]:
            if not found.has(UNTAUGHT, name):
                found.add(
                    UNTAUGHT,
                    name,
                    why=", ".join(f"{count} in {split}" for split, count in counts.items()),
                )
        else:
            _sparse(
                name,
                counts,
                0 if counted.unit == "pixels" else taught[name],
                most,
                measured if named else [],
                found,
            )
    if table.samples and len(counted.rows) == 1 and counted.unit == "images":
        found.add(ONE, next(iter(counted.rows)))
    bare = [
        sample.key
        for sample in table.samples
        if isinstance(sample.target, Boxes) and not sample.target.names
    ]
    for key in bare:
        found.add(BARE, key)


def _sparse(
    name: str, counts: dict[str, int], own: int, most: int, measured: list[str], found: IssueLog
) -> None:
    """What a class that can be learnt lacks. `own`: its images to learn from, 0 where they are not counted."""
    lacking = [split for split in measured if not counts.get(split)]
    if lacking:
        found.add(UNSCORED, name, why=", ".join(lacking))
    if 0 < own < _FEW:
        found.add(FEW, name, why=f"{own} images")
    elif 0 < own * _RARE < most:
        found.add(RARE, name, why=f"{own} images, the largest has {most}")


def _twins(names: Sequence[str], found: IssueLog) -> None:
    first: dict[str, str] = {}
    for name in names:
        twin = first.setdefault("".join(name.split()).casefold(), name)
        if twin != name and not found.has(TWINS, name):
            found.add(TWINS, name, why=f"{twin!r} and {name!r}")
