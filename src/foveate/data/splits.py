"""Dividing images into train, validation and test, and into folds.

Divisions are stratified by class, or by the size of numbers. They never divide a group, and are the
same for the same seed.

Letters: N images, G groups, S parts (train, val, test; or folds).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from foveate.data.scan import ScannedTable
from foveate.data.tables import label_names, strata
from foveate.errors import DataError, UsageError
from foveate.messages import Message, counted
from foveate.predictions import Labels, Number
from foveate.recipe import DataRecipe
from foveate.types import Split, Table

# how far the size of a part may sway a choice, in images; below 1/2, so that classes come first
_SIZE_WEIGHT = 0.4


# --- tables


def split_table(
    table: Table, groups: list[str], recipe: DataRecipe, seed: int
) -> tuple[Table, Message]:
    """Assign every sample to a split.

    Splits that the data state are kept. If they state train and test only, validation images are
    taken out of train.

    Args:
        table: The data.
        groups: The group of each sample.
        recipe: The shares of validation and test images.
        seed: Of the random choice.

    Returns:
        The table, and a message about how it was divided.
    """
    stated = {sample.split for sample in table.samples if sample.split}
    if "train" in stated:
        return _with_validation(table, groups, recipe, seed)
    labels = strata(table.samples)
    splits = make_splits(labels, groups, recipe.val, recipe.test, seed)
    why = Message("choice.no_split", "the data state no split")
    if stated:
        why = Message("choice.no_training_split", "the data state no training split")
    text = "{why}: divided here, stratified by class, without dividing a group, seed {seed}"
    how = Message("choice.divided", text, why=why, seed=seed)
    if any(isinstance(sample.target, Number) for sample in table.samples):
        text = "{why}: divided here, stratified by number, without dividing a group, seed {seed}"
        how = Message("choice.divided_numbers", text, why=why, seed=seed)
    return _with_splits(table, splits), how


def _with_validation(
    table: Table, groups: list[str], recipe: DataRecipe, seed: int
) -> tuple[Table, Message]:
    """Keep the stated splits; samples without one are for training."""
    splits: list[Split] = [sample.split or "train" for sample in table.samples]
    if "val" in splits or recipe.val == 0:
        return _with_splits(table, splits), Message("choice.stated_splits", "as the data state")
    train = [index for index, split in enumerate(splits) if split == "train"]
    labels = strata([table.samples[index] for index in train])
    drawn = make_splits(labels, [groups[index] for index in train], recipe.val, 0, seed)
    for index, split in zip(train, drawn, strict=True):
        splits[index] = split
    text = "as the data state; validation images taken out of train by group, seed {seed}"
    how = Message("choice.validation_taken", text, seed=seed)
    return _with_splits(table, splits), how


def _with_splits(table: Table, splits: Sequence[Split]) -> Table:
    pairs = zip(table.samples, splits, strict=True)
    return table.with_samples(tuple(replace(sample, split=split) for sample, split in pairs))


def count_divided(splits: Sequence[Split | None], groups: Sequence[str]) -> int:
    """Return how many groups are in more than one split."""
    of_group: dict[str, set[Split | None]] = {}
    for split, group in zip(splits, groups, strict=True):
        of_group.setdefault(group, set()).add(split)
    return sum(len(names) > 1 for names in of_group.values())


def subsample_shots(
    scanned: ScannedTable, groups: list[str], shots: int, seed: int
) -> tuple[ScannedTable, list[str]]:
    """Keep a number of training images per class, of different groups as far as possible.

    Args:
        scanned: The images, with splits.
        groups: The group of each image.
        shots: Training images per class.
        seed: Of the random choice.

    Returns:
        The kept images, and their groups.

    Raises:
        DataError: A class has fewer training images, or an image has not exactly one class.
    """
    samples, where = scanned.table.samples, scanned.table.root
    if not all(isinstance(s.target, Labels) and len(label_names(s)) == 1 for s in samples):
        raise DataError(
            "a number of images per class can only be drawn from images with one class each",
            where=where,
            hint="leave out --shots",
        )
    order = np.random.default_rng(seed).permutation(len(samples)).tolist()
    kept = {index for index in order if samples[index].split != "train"}
    train = [index for index in order if index not in kept]
    drawn, earlier = Counter[str](), dict[int, int]()  # images of the same group before each
    for index in train:
        earlier[index] = drawn[groups[index]]
        drawn[groups[index]] += 1
    for name in scanned.table.classes:
        own = [index for index in train if label_names(samples[index]) == (name,)]
        if 0 < len(own) < shots:
            raise DataError(
                f"the class {name!r} has {counted(len(own), 'training image', 'training images')}, "
                f"{shots} are requested",
                where=where,
                hint=f"use --shots {len(own)}, or add images",
            )
        kept.update(sorted(own, key=lambda index: earlier[index])[:shots])
    indices = sorted(kept)
    table = scanned.table.with_samples(tuple(samples[index] for index in indices))
    return scanned.subset(indices, table), [groups[index] for index in indices]


# --- stratification


def make_splits(
    labels: list[tuple[str, ...]], groups: list[str], val: float, test: float, seed: int
) -> list[Split]:
    """Draw a split for each of N images.

    Every class is in train. A share above 0 gets at least one group if one can be spared. The
    outcome depends on the seed and on the names of the groups, not on the order of the images.

    Args:
        labels: The classes of each image.
        groups: The name of the group of each image.
        val: Share of validation images, in [0, 1).
        test: Share of test images, in [0, 1).
        seed: Of the random choice.

    Raises:
        UsageError: The shares leave nothing to train on.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise UsageError(
            "data.val and data.test must leave images to train on",
            why=f"got {val} and {test}",
            hint="use shares such as 0.15 and 0.15",
        )
    shares: dict[Split, float] = {"train": 1 - val - test, "val": val, "test": test}
    names: list[Split] = [name for name, share in shares.items() if share > 0]
    bundles = _bundles(labels, groups, seed)
    parts = _stratify(bundles, [shares[name] for name in names])
    _complete_train(bundles, parts)
    _fill_empty(bundles, parts, len(names))
    return [names[parts[group]] for group in groups]


def group_folds(
    labels: list[tuple[str, ...]], groups: list[str], folds: int, seed: int
) -> np.ndarray:
    """Draw a fold for each of N images.

    Folds are stratified, divide no group, and do not depend on the order of the images. With one
    group per image they are random; with fewer groups than folds some are empty.

    Args:
        labels: The classes of each image.
        groups: The name of the group of each image.
        folds: Number of folds.
        seed: Of the random choice.

    Returns:
        (N,) int64, 0 to folds - 1.

    Raises:
        UsageError: There are fewer than 2 folds.
    """
    if folds < 2:
        raise UsageError("cross-validation needs at least 2 folds", why=f"got {folds}")
    parts = _stratify(_bundles(labels, groups, seed), [1 / folds] * folds)
    return np.array([parts[group] for group in groups], dtype=np.int64)


@dataclass
class _Bundle:
    """The images of a group.

    Attributes:
        name: The group.
        lot: Its position in the random order of the seed.
        size: Number of images.
        labels: Number of images of each class; "" counts those without a class.
    """

    name: str
    lot: bytes
    size: int = 0
    labels: Counter[str] = field(default_factory=Counter)


def _bundles(labels: list[tuple[str, ...]], groups: list[str], seed: int) -> list[_Bundle]:
    """The groups, largest first so that small ones even things out, equals in random order."""
    if len(labels) != len(groups):
        raise ValueError(f"{len(labels)} labels for {len(groups)} groups")
    by_name = {name: _Bundle(name, _lot(name, seed)) for name in set(groups)}
    for names, group in zip(labels, groups, strict=True):
        by_name[group].size += 1
        by_name[group].labels.update(set(names) or {""})
    return sorted(by_name.values(), key=lambda bundle: (-bundle.size, bundle.lot))


def _lot(name: str, seed: int) -> bytes:
    text = f"{seed}/{name}".encode("utf-8", "backslashreplace")
    return hashlib.blake2b(text, digest_size=16).digest()


def _stratify(bundles: list[_Bundle], shares: list[float]) -> dict[str, int]:
    """A part for each group, by greedy iterative stratification (Sechidis et al. 2011).

    The class with the fewest remaining groups is assigned first.
    """
    remaining = Counter(label for bundle in bundles for label in bundle.labels)
    holders: dict[str, list[_Bundle]] = {label: [] for label in remaining}
    for bundle in bundles:
        for label in bundle.labels:
            holders[label].append(bundle)
    demand, parts = _Demand(bundles, shares), dict[str, int]()
    while remaining:
        rarest = min(remaining, key=lambda label: (remaining[label], label))
        for bundle in holders[rarest]:
            if bundle.name not in parts:
                parts[bundle.name] = demand.assign(bundle, rarest)
                remaining.subtract(bundle.labels.keys())
        remaining = +remaining
    return parts


class _Demand:
    """How many images each of S parts still needs: in total, and of each class."""

    def __init__(self, bundles: list[_Bundle], shares: list[float]) -> None:
        counts = sum((bundle.labels for bundle in bundles), Counter[str]())
        self.total = np.array(shares) * sum(bundle.size for bundle in bundles)
        self.of_class = {label: np.array(shares) * count for label, count in counts.items()}

    def assign(self, bundle: _Bundle, rarest: str) -> int:
        """Assign a group to the part that needs its classes most; among near equals, its images.

        Classes are weighted by the group's images of them. Of a single image only the rarest
        counts: common ones even out.
        """
        weights = bundle.labels if bundle.size > 1 else Counter([rarest])
        size = _SIZE_WEIGHT * self.total / max(1e-9, np.abs(self.total).max())
        demand = sum(count * (self.of_class[name] + size) for name, count in weights.items())
        part = int(np.argmax(np.round(demand / weights.total(), 9)))
        self.total[part] -= bundle.size
        for name, count in bundle.labels.items():
            self.of_class[name][part] -= count
        return part


def _complete_train(bundles: list[_Bundle], parts: dict[str, int]) -> None:
    """Move the smallest group of each class that train (part 0) lacks to train."""
    trained = {label for bundle in bundles if parts[bundle.name] == 0 for label in bundle.labels}
    for bundle in reversed(bundles):
        if not trained.issuperset(bundle.labels):
            parts[bundle.name] = 0
            trained.update(bundle.labels)


def _fill_empty(bundles: list[_Bundle], parts: dict[str, int], count: int) -> None:
    """Give each part that is empty, by rounding, the smallest group that train can spare."""
    trained = Counter(
        label for bundle in bundles if parts[bundle.name] == 0 for label in bundle.labels
    )
    for part in set(range(count)) - set(parts.values()):
        for bundle in reversed(bundles):
            if parts[bundle.name] == 0 and all(trained[label] > 1 for label in bundle.labels):
                parts[bundle.name] = part
                trained.subtract(bundle.labels.keys())
                break
