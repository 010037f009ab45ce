"""Which images train, validate and test: stratified by class, never dividing a group, the same for the same seed.

Letters: N images, G groups, S places to put them (train, val, test; or folds).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from foveate.data.duplicates import near_duplicates
from foveate.data.scan import ScannedTable
from foveate.data.tables import label_names
from foveate.errors import DataError, UsageError
from foveate.predictions import Labels
from foveate.recipe import DataRecipe
from foveate.types import Split, Table

_NUDGE = 0.4  # how far overall shares may sway a choice, in images; below 1/2, so that the balance of a class comes first

_WORDS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_from_name(word: str) -> Split | None:
    """The split that a folder or a cell called `word` means ('Training' -> 'train'); None when it means none."""
    return _WORDS.get(word.strip().casefold())


# --- near copies


# --- splits


def make_splits(
    labels: list[tuple[str, ...]], groups: list[str], val: float, test: float, seed: int
) -> list[Split]:
    """A split for each of N images. `labels`: the classes of each; `groups`: a name each; `val`, `test`: shares in [0, 1).

    Every class appears in train. A share above 0 gets at least one group when a group can be spared. The outcome
    depends on the seed and on the names of the groups, not on the order of the images. Raises UsageError for bad shares.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise UsageError(
            "data.val and data.test must leave images to train on", why=f"got {val} and {test}"
        )
    shares: dict[Split, float] = {"train": 1 - val - test, "val": val, "test": test}
    wanted: list[Split] = [name for name, share in shares.items() if share > 0]
    bundles = _bundles(labels, groups, seed)
    places = _stratified(bundles, [shares[name] for name in wanted])
    _teach_every_class(bundles, places)
    _fill_empty(bundles, places, len(wanted))
    return [wanted[places[group]] for group in groups]


def group_folds(
    labels: list[tuple[str, ...]], groups: list[str], folds: int, seed: int
) -> np.ndarray:
    """(N,) int64: a fold 0..folds-1 for each image; stratified, no group divided, independent of the order of images.

    With a group for each image the folds are random. With fewer groups than folds some folds stay empty.
    """
    if folds < 2:
        raise UsageError("cross-validation needs at least 2 folds", why=f"got {folds}")
    places = _stratified(_bundles(labels, groups, seed), [1 / folds] * folds)
    return np.array([places[group] for group in groups], dtype=np.int64)


@dataclass
class _Bundle:
    """A group: its name, how many images it holds, and how many of them each class has ('' counts those without a class)."""

    name: str
    draw: bytes  # its place in the lottery of this seed
    size: int = 0
    labels: Counter[str] = field(default_factory=Counter)


def _bundles(labels: list[tuple[str, ...]], groups: list[str], seed: int) -> list[_Bundle]:
    """The groups, largest first, equals in the order of the seed's lottery: small ones are left to even things out."""
    if len(labels) != len(groups):
        raise ValueError(f"{len(labels)} labels for {len(groups)} groups")
    by_name = {name: _Bundle(name, _draw(name, seed)) for name in set(groups)}
    for names, group in zip(labels, groups, strict=True):
        by_name[group].size += 1
        by_name[group].labels.update(set(names) or {""})
    return sorted(by_name.values(), key=lambda bundle: (-bundle.size, bundle.draw))


def _draw(name: str, seed: int) -> bytes:
    return hashlib.blake2b(
        f"{seed}/{name}".encode("utf-8", "backslashreplace"), digest_size=16
    ).digest()


def _stratified(bundles: list[_Bundle], shares: list[float]) -> dict[str, int]:
    """A place for each group: greedy iterative stratification, the class with the fewest groups left goes first."""
    left = Counter(label for bundle in bundles for label in bundle.labels)
    holders: dict[str, list[_Bundle]] = {label: [] for label in left}
    for bundle in bundles:
        for label in bundle.labels:
            holders[label].append(bundle)
    wishes, places = _Wishes(bundles, shares), dict[str, int]()
    while left:
        rarest = min(left, key=lambda label: (left[label], label))
        for bundle in holders[rarest]:
            if bundle.name not in places:
                places[bundle.name] = wishes.grant(bundle, rarest)
                left.subtract(bundle.labels.keys())
        left = +left
    return places


class _Wishes:
    """How many images each of S places still wants: in all, and of each class."""

    def __init__(self, bundles: list[_Bundle], shares: list[float]) -> None:
        counts = sum((bundle.labels for bundle in bundles), Counter[str]())
        self.total = np.array(shares) * sum(bundle.size for bundle in bundles)
        self.of = {label: np.array(shares) * count for label, count in counts.items()}

    def grant(self, bundle: _Bundle, rarest: str) -> int:
        """Gives the group to the place that lacks its classes most, each weighted by the group's images of it; among near
        equals, to the one that lacks images most. Of a single image only the rarest label counts: common ones even out."""
        weights = bundle.labels if bundle.size > 1 else Counter([rarest])
        lack = _NUDGE * self.total / max(1e-9, np.abs(self.total).max())
        wish = (
            sum(count * (self.of[name] + lack) for name, count in weights.items()) / weights.total()
        )
        place = int(np.argmax(np.round(wish, 9)))
        self.total[place] -= bundle.size
        for name, count in bundle.labels.items():
            self.of[name][place] -= count
        return place


def _teach_every_class(bundles: list[_Bundle], places: dict[str, int]) -> None:
    """Moves the smallest group of each class that train (place 0) lacks to train: what is never shown cannot be learnt."""
    taught = {label for bundle in bundles if places[bundle.name] == 0 for label in bundle.labels}
    for bundle in reversed(bundles):
        if not taught.issuperset(bundle.labels):
            places[bundle.name] = 0
            taught.update(bundle.labels)


def _fill_empty(bundles: list[_Bundle], places: dict[str, int], count: int) -> None:
    """Gives every place that went empty (rounding, in small sets) the smallest group whose classes train can spare."""
    taught = Counter(
        label for bundle in bundles if places[bundle.name] == 0 for label in bundle.labels
    )
    for place in set(range(count)) - set(places.values()):
        for bundle in reversed(bundles):
            if places[bundle.name] == 0 and all(taught[label] > 1 for label in bundle.labels):
                places[bundle.name] = place
                taught.subtract(bundle.labels.keys())
                break


def duplicate_groups(scanned: ScannedTable, recipe: DataRecipe) -> list[str]:
    """The name of the group of each picture: near-copies and what the table groups belong together, in chains."""
    likeness, count = recipe.near_duplicates, len(scanned.thumbnails)
    alike = (
        near_duplicates(scanned.thumbnails, likeness, scanned.tints) if likeness < 1 else np.arange(count)
    )
    stated = [sample.group for sample in scanned.table.samples]
    if any(stated):
        return [group if group else f"image {index}" for index, group in enumerate(stated)]
    first: dict[int, str] = {}
    return [
        first.setdefault(int(place), sample.key)
        for place, sample in zip(alike, scanned.table.samples, strict=True)
    ]


def split_table(table: Table, groups: list[str], recipe: DataRecipe, seed: int) -> tuple[Table, str]:
    """The table with a split for every sample, and a sentence that says how.

    Splits that the data names are kept. Where it names train and test only, validation is taken out of train.
    """
    named = {sample.split for sample in table.samples if sample.split}
    if "train" in named:
        return _completed(table, groups, recipe, seed)
    why = "the data names no training split" if named else "the data names no split"
    labels = [label_names(sample) for sample in table.samples]
    splits = make_splits(labels, groups, recipe.val, recipe.test, seed)
    return _with_splits(
        table, splits
    ), f"{why}: made here, stratified by class, no group divided, seed {seed}"


def _completed(table: Table, groups: list[str], recipe: DataRecipe, seed: int) -> tuple[Table, str]:
    """Keeps the named splits; rows without one train; validation is taken out of train, by group, when it is missing."""
    splits: list[Split] = [sample.split or "train" for sample in table.samples]
    if "val" in splits or recipe.val == 0:
        return _with_splits(table, splits), "as the data names them"
    train = [index for index, split in enumerate(splits) if split == "train"]
    labels = [label_names(table.samples[index]) for index in train]
    for index, split in zip(
        train, make_splits(labels, [groups[i] for i in train], recipe.val, 0, seed), strict=True
    ):
        splits[index] = split
    return _with_splits(
        table, splits
    ), f"as the data names them; validation taken out of train by group, seed {seed}"


def _with_splits(table: Table, splits: Sequence[Split]) -> Table:
    return table.with_samples(
        tuple(
            replace(sample, split=split)
            for sample, split in zip(table.samples, splits, strict=True)
        )
    )


def subsample_shots(scanned: ScannedTable, groups: list[str], shots: int, seed: int) -> tuple[ScannedTable, list[str]]:
    """The pictures, and their groups, with `shots` training images of each class: of different groups as long as there are any.

    Raises DataError where a class has fewer, or an image has not exactly one class.
    """
    samples = scanned.table.samples
    if any(
        not isinstance(sample.target, Labels) or len(label_names(sample)) != 1 for sample in samples
    ):
        raise DataError(
            "so many images of each class can only be drawn where every image has one",
            where=scanned.table.root,
        )
    order = np.random.default_rng(seed).permutation(len(samples)).tolist()
    kept = {place for place in order if samples[place].split != "train"}
    taught = [place for place in order if place not in kept]
    drawn, copies = Counter[str](), dict[int, int]()
    for place in taught:
        copies[place] = drawn[groups[place]]  # pictures of the same group that come before
        drawn[groups[place]] += 1
    for name in scanned.table.classes:
        own = [place for place in taught if label_names(samples[place]) == (name,)]
        if 0 < len(own) < shots:
            what = f"the class {name!r} has {len(own)} training images, {shots} are asked for"
            raise DataError(
                what, where=scanned.table.root, hint=f"--shots {len(own)}, or more images"
            )
        kept.update(sorted(own, key=lambda place: copies[place])[:shots])
    places = sorted(kept)
    table = scanned.table.with_samples(tuple(samples[place] for place in places))
    return scanned.subset(places, table), [groups[place] for place in places]
