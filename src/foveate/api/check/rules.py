"""Problems of a whole dataset: copies across splits and classes, divided groups, sparse classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.api.check.inspection import InspectedImage
from foveate.data.duplicates import similar_pairs, standardize
from foveate.data.grouping import describe_sequences, named_copy_pairs, near_copy_pairs
from foveate.data.issues import NO_TRAINING_IMAGES, SIMILAR_NAMES, IssueLog
from foveate.data.scan import Fingerprint
from foveate.data.sequences import find_sequences
from foveate.messages import counted
from foveate.predictions import Boxes, Labels, Number, Regions
from foveate.types import Issue, IssueKind, Sample, Table

_ONE_SPLIT = "keep them in one split; foveate fit does so where the data have no splits"


@dataclass(frozen=True)
class CopyKinds:
    """What pairs of similar images are reported as.

    Attributes:
        across: Pairs in different splits.
        other: Pairs with different labels.
        within: Other pairs.
    """

    across: IssueKind
    other: IssueKind
    within: IssueKind


EXACT_COPIES = CopyKinds(
    IssueKind(
        "copy_across_splits",
        "identical files in two splits, which make scores too optimistic",
        "error",
        "copies",
        _ONE_SPLIT,
    ),
    IssueKind(
        "copy_other_label",
        "identical files with different labels",
        "error",
        "copies",
        "keep one of the two labels",
    ),
    IssueKind("copy", "identical copies of an earlier file", "note", "copies"),
)
NEAR_COPIES = CopyKinds(
    IssueKind(
        "near_duplicate_across_splits",
        "near-duplicates in two splits, which make scores too optimistic",
        "warning",
        "copies",
        _ONE_SPLIT,
    ),
    IssueKind(
        "near_duplicate_other_label",
        "near-duplicates with different labels",
        "warning",
        "copies",
        "compare the two: one of them may be mislabeled",
    ),
    IssueKind("near_duplicate", "near-duplicates of an earlier image", "note", "copies"),
)
NAMED_COPIES = CopyKinds(
    IssueKind(
        "named_copy_across_splits",
        "copies of one image by their names in two splits, which make scores too optimistic",
        "warning",
        "copies",
        _ONE_SPLIT,
    ),
    IssueKind(
        "named_copy_other_label",
        "copies of one image by their names with different labels",
        "warning",
        "copies",
        "compare the two: one of them may be mislabeled",
    ),
    IssueKind("named_copy", "copies of an earlier image by their names", "note", "copies"),
)
SIMILAR_FEATURES = CopyKinds(
    IssueKind(
        "similar_features_across_splits",
        "images in two splits with almost the same features, which make scores too optimistic",
        "warning",
        "copies",
        _ONE_SPLIT,
    ),
    IssueKind(
        "similar_features_other_label",
        "images with almost the same features and different labels",
        "warning",
        "copies",
        "compare the two: one of them may be mislabeled",
    ),
    IssueKind(
        "similar_features",
        "images with almost the same features as an earlier image",
        "note",
        "copies",
    ),
)
NOT_COMPARED = IssueKind(
    "not_compared", "the images were not compared by their features", "note", "copies"
)
DIVIDED_GROUP = IssueKind(
    "divided_group",
    "groups in more than one split, which make scores too optimistic",
    "error",
    "copies",
    "put each group into one split",
)
SEQUENCES = IssueKind(
    "sequences", "sequences of neighbors, such as the frames of a video", "note", "copies"
)
DIVIDED_SEQUENCE = IssueKind(
    "divided_sequence",
    "sequences, such as frames of a video, in two splits, which make scores too optimistic",
    "warning",
    "copies",
    "put each sequence into one split",
)
UNUSED_CLASS = IssueKind("unused_class", "classes without images", "warning", "classes")
SINGLE_CLASS = IssueKind(
    "single_class", "there is only one class, so nothing to classify", "error", "classes"
)
UNSCORED_CLASS = IssueKind(
    "unscored_class",
    "classes missing from the validation or test split, which cannot be scored there",
    "warning",
    "classes",
)
FEW_IMAGES = IssueKind(
    "few_images",
    "classes with fewer than 10 training images",
    "warning",
    "classes",
    "collect more; scores of these classes will be uncertain",
)
IMBALANCED = IssueKind(
    "imbalanced",
    "classes with less than a tenth of the images of the largest class",
    "warning",
    "classes",
    "judge by macro F1, not by accuracy",
)
NO_OBJECTS = IssueKind("no_objects", "images without objects", "note", "labels")

_FEW, _IMBALANCE = 10, 10  # training images; times fewer than the largest class
# cosine by EfficientNet-Lite0: 0.96 for a mirrored photo, below 0.94 for any two of a shop
_SIMILAR_FEATURES = 0.95


# --- copies


@dataclass(frozen=True)
class Similarity:
    """Images that are alike.

    Attributes:
        pairs: Blocks of pairs (2, P); the order of a pair does not matter.
        kinds: What they are reported as.
    """

    pairs: Iterable[np.ndarray]
    kinds: CopyKinds


def by_pixels(fingerprints: Sequence[Fingerprint], threshold: float) -> Similarity:
    """Return the images that are alike as they are, or mirrored, turned, cropped or recolored."""
    thumbnails, tints = _stack(fingerprints)
    return Similarity(near_copy_pairs(thumbnails, tints, threshold), NEAR_COPIES)


def by_names(samples: Sequence[Sample], fingerprints: Sequence[Fingerprint]) -> Similarity:
    """Return the images that tools made of one image, by their names."""
    keys = [sample.key for sample in samples]
    return Similarity([named_copy_pairs(keys, *_stack(fingerprints))], NAMED_COPIES)


def _stack(fingerprints: Sequence[Fingerprint]) -> tuple[np.ndarray, np.ndarray]:
    thumbnails = [fingerprint.thumbnail for fingerprint in fingerprints]
    return np.stack(thumbnails), np.stack([fingerprint.tint for fingerprint in fingerprints])


def by_features(features: np.ndarray) -> Similarity:
    """Return the similarity by cosine of (N, D) features."""
    rows = features / np.maximum(1e-12, np.linalg.norm(features, axis=1, keepdims=True))
    return Similarity(similar_pairs(rows.astype(np.float32), _SIMILAR_FEATURES), SIMILAR_FEATURES)


def find_copies(
    samples: Sequence[Sample],
    fingerprints: Sequence[Fingerprint],
    similarities: Sequence[Similarity],
    log: IssueLog,
) -> None:
    """Record exact copies, and near ones by each similarity.

    Of a pair in two splits the image outside of train is named.
    """
    splits = _codes([sample.split for sample in samples])
    labels = _codes([_label(sample) for sample in samples])
    # near-duplicates may have other boxes: one may be from a moment later
    classes = _codes(
        [_label(sample) if isinstance(sample.target, Labels) else None for sample in samples]
    )
    files = _codes([fingerprint.digest for fingerprint in fingerprints])
    first: dict[int, int] = {}
    pairs = np.array(
        [(first.setdefault(code, index), index) for index, code in enumerate(files.tolist())],
        dtype=np.int64,
    ).T
    partners = _Partners(splits, labels)
    partners.add(*pairs[:, pairs[0] != pairs[1]])
    partners.record(samples, EXACT_COPIES, log)
    for similarity in similarities:
        partners = _Partners(splits, classes)
        for pairs in similarity.pairs:
            near, far = np.sort(pairs, axis=0)
            kept = files[near] != files[far]
            partners.add(near[kept], far[kept])
        partners.record(samples, similarity.kinds, log)


def _codes(values: Sequence[object]) -> np.ndarray:
    """(N,) int64: a number for each distinct value."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def _label(sample: Sample) -> object:
    """What must be equal for equal files: the number or classes of the image, or of its boxes."""
    if isinstance(sample.target, Labels):
        return tuple(sorted(sample.target.names))
    if isinstance(sample.target, Number):
        return sample.target.value
    if isinstance(sample.target, Boxes):
        return tuple(sorted(Counter(sample.target.names).items()))
    return None


class _Partners:
    """For each image the first earlier one that it is similar to.

    One each in another split, with another label, and with neither; a pair may be of the first two
    kinds.

    Args:
        splits: (N,) codes.
        labels: (N,) codes.
    """

    def __init__(self, splits: np.ndarray, labels: np.ndarray) -> None:
        self._splits, self._labels = splits, labels
        self._first: tuple[dict[int, int], ...] = ({}, {}, {})

    def add(self, near: np.ndarray, far: np.ndarray) -> None:
        """Add P pairs: indices of the earlier images, and of those similar to them."""
        across = self._splits[near] != self._splits[far]
        other = self._labels[near] != self._labels[far]
        for first, chosen in zip(self._first, (across, other, ~across & ~other), strict=True):
            indices, positions = np.unique(far[chosen], return_index=True)
            partners = near[chosen][positions]
            for index, partner in zip(indices.tolist(), partners.tolist(), strict=True):
                first.setdefault(index, partner)

    def record(self, samples: Sequence[Sample], kinds: CopyKinds, log: IssueLog) -> None:
        """Record the pairs; each image is named once per kind."""
        for kind, first in zip((kinds.across, kinds.other, kinds.within), self._first, strict=True):
            recorded: set[str] = set()
            for index, partner in sorted(first.items()):
                one, two = samples[index], samples[partner]
                if kind is kinds.across and one.split == "train":
                    one, two = two, one
                if one.key not in recorded:
                    log.add(kind, one.key, why=_differing_labels(one, two), similar_to=two.key)
                recorded.add(one.key)


def _differing_labels(one: Sample, two: Sample) -> str:
    names = [
        ", ".join(sample.target.names[:3]) if isinstance(sample.target, Labels) else ""
        for sample in (one, two)
    ]
    return f"{names[0] or '–'} / {names[1] or '–'}" if names[0] != names[1] else ""


def find_divided_groups(samples: Sequence[Sample], log: IssueLog) -> None:
    """Record groups that are in more than one split."""
    keys: dict[str, dict[str, str]] = {}
    for sample in samples:
        if sample.group and sample.split:
            keys.setdefault(sample.group, {}).setdefault(sample.split, sample.key)
    for group, by_split in keys.items():
        if len(by_split) > 1:
            why = ", ".join(f"{split}: {key}" for split, key in by_split.items())
            log.add(DIVIDED_GROUP, group, why=why)


def find_divided_sequences(
    samples: Sequence[Sample], fingerprints: Sequence[Fingerprint], log: IssueLog
) -> None:
    """Record sequences, such as the frames of a video, that are in more than one split."""
    rows = standardize(_stack(fingerprints)[0])
    found = find_sequences([sample.key for sample in samples], rows)
    if found is None:
        return
    if all(sample.split is None for sample in samples):
        log.include(Issue(SEQUENCES, describe_sequences(found), len(found.stretches)))
        return
    for stretch in found.stretches:
        in_split = {str(samples[index].split): samples[index].key for index in stretch.tolist()}
        if len(in_split) > 1:
            why = ", ".join(f"{split}: {key}" for split, key in in_split.items())
            log.add(DIVIDED_SEQUENCE, next(iter(in_split.values())), why=why)


# --- classes


@dataclass(frozen=True)
class Balance:
    """How many images, boxes or pixels each class has.

    Attributes:
        unit: What is counted.
        rows: Class -> split ("" for none) -> count.
        images: The same of images that show the class; not counted for pixels.
        splits: The splits in order.
    """

    unit: str
    rows: dict[str, dict[str, int]]
    images: dict[str, dict[str, int]]
    splits: tuple[str, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return column names, and one row per class."""
        names = [split or "no split" for split in self.splits]
        has_splits = len(names) > 1
        columns = ["class", *names, "all"] if has_splits else ["class", self.unit]
        rows = []
        for name, counts in self.rows.items():
            numbers = [counts.get(split, 0) for split in self.splits]
            rows.append([name, *map(str, [*numbers, sum(numbers)] if has_splits else numbers)])
        return columns, rows

    def numbers(self) -> dict[str, Any]:
        """Return the counts, JSON-able."""
        return {
            name: {split or "none": count for split, count in counts.items()}
            for name, counts in self.rows.items()
        }


def count_classes(table: Table, images: Sequence[InspectedImage | None]) -> Balance:
    """Count what each class has; of masks only those that were opened.

    Args:
        table: The dataset.
        images: One for each sample; None for those that were not opened.
    """
    counts, images_with = ({name: Counter[str]() for name in table.classes} for _ in range(2))
    unit, splits = "images", {sample.split or "" for sample in table.samples}
    for sample, image in zip(table.samples, images, strict=True):
        split = sample.split or ""
        if isinstance(sample.target, Labels | Boxes):
            unit = "boxes" if isinstance(sample.target, Boxes) else "images"
            for name in sample.target.names:
                counts[name][split] += 1
            for name in set(sample.target.names):
                images_with[name][split] += 1
        elif isinstance(sample.target, Regions):
            unit = "pixels"
            pixels = [] if image is None or image.pixels is None else image.pixels.tolist()
            for name, count in zip(table.classes, pixels, strict=False):
                counts[name][split] += count
    return Balance(
        unit,
        {name: dict(by_split) for name, by_split in counts.items()},
        {name: dict(by_split) for name, by_split in images_with.items()},
        tuple(split for split in ("train", "val", "test", "") if split in splits),
    )


def check_classes(table: Table, log: IssueLog, balance: Balance) -> None:
    """Record problems of the classes.

    Of pixels only their presence counts, not their number; of a list of names only the names.
    """
    _check_names(table.classes, log)
    if not table.samples:
        return
    counts_pixels, has_splits = balance.unit == "pixels", "train" in balance.splits
    by_class = balance.rows if counts_pixels else balance.images
    training = {
        name: counts.get("train", 0) + counts.get("", 0) for name, counts in by_class.items()
    }
    largest = max(training.values(), default=0)
    scored = [split for split in balance.splits if split in ("val", "test")] if has_splits else []
    for name, counts in by_class.items():
        if not sum(counts.values()):
            log.add(UNUSED_CLASS, name)
        elif has_splits and not training[name]:
            if not log.has(NO_TRAINING_IMAGES, name):
                why = ", ".join(f"{count} in {split}" for split, count in counts.items())
                log.add(NO_TRAINING_IMAGES, name, why=why)
        else:
            _check_trainable(name, counts, scored, log)
            if not counts_pixels:
                _check_size(name, training[name], largest, log)
    if len(balance.rows) == 1 and balance.unit == "images":
        log.add(SINGLE_CLASS, next(iter(balance.rows)))
    for sample in table.samples:
        if isinstance(sample.target, Boxes) and not sample.target.names:
            log.add(NO_OBJECTS, sample.key)


def _check_trainable(name: str, counts: dict[str, int], scored: list[str], log: IssueLog) -> None:
    lacking = [split for split in scored if not counts.get(split)]
    if lacking:
        log.add(UNSCORED_CLASS, name, why=", ".join(lacking))


def _check_size(name: str, images: int, largest: int, log: IssueLog) -> None:
    """Record a class with few training images."""
    if 0 < images < _FEW:
        log.add(FEW_IMAGES, name, why=counted(images, "image", "images"))
    elif 0 < images * _IMBALANCE < largest:
        why = f"{counted(images, 'image', 'images')}, the largest class has {largest:,}"
        log.add(IMBALANCED, name, why=why)


def _check_names(names: Sequence[str], log: IssueLog) -> None:
    first: dict[str, str] = {}
    for name in names:
        twin = first.setdefault("".join(name.split()).casefold(), name)
        if twin != name and not log.has(SIMILAR_NAMES, name):
            log.add(SIMILAR_NAMES, name, why=f"{twin!r} and {name!r}")
