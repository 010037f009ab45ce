"""A Table -> scanned pictures -> splits -> loaders of Batch.

Chance is keyed by (seed, epoch, index), so the number of workers, a resume or another order of reading changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from foveate.data.image_cache import Pixels, source_of
from foveate.data.mosaic import Mosaic
from foveate.data.splits import gray_thumbnail, make_splits, near_copies, tint
from foveate.data.transforms import Transform, Unscaled, cut
from foveate.errors import BrokenImage, DataError
from foveate.images import codec as images
from foveate.images.preprocessing import Framing, corners_of
from foveate.recipe import DataRecipe
from foveate.types import Batch, Boxes, Labels, Sample, Split, Table, Target
from foveate.utils import console
from foveate.utils.distributed import Team

Place = tuple[int, int]  # (epoch, index into the samples)
Item = tuple[torch.Tensor, Target, torch.Tensor, torch.Tensor, int]  # of Pictures: image, target, view, size, index
Encode = Callable[[object, tuple[int, int]], Target]
Join = Callable[[Sequence[tuple[tuple[int, int], Any]], tuple[int, int]], Any]
_HELPERS = 8  # loader processes at the most
_DEAD = ("DataLoader worker (pid", "unable to write to file", "unable to open shared memory", "unable to mmap")


@dataclass(frozen=True)
class Scanned:
    """The pictures that can be read. `hashes`: SHA-256 of each file. `thumbs`: (N, 32, 32) uint8 grey. `skipped`: path and why.
    `tints`: (N, 2, 64) int8, their colours, where they are known."""

    table: Table
    hashes: tuple[str, ...]
    thumbs: np.ndarray
    pixels: Pixels
    skipped: tuple[tuple[str, str], ...]
    tints: np.ndarray | None = None

    def part(self, places: Sequence[int], table: Table) -> Scanned:
        """The pictures at these places; `table` is theirs."""
        hashes, tints = tuple(self.hashes[place] for place in places), None if self.tints is None else self.tints[list(places)]
        return replace(self, table=table, hashes=hashes, thumbs=self.thumbs[list(places)], tints=tints)


def scan(table: Table, size: int, framing: Framing, recipe: DataRecipe, advance: Callable[[], None] = lambda: None) -> Scanned:
    """Opens every picture once. A broken one is left out and named, or raised when the recipe is strict.

    Raises DataError when nothing is left, or when a class has lost all its pictures.
    """
    pixels = Pixels(size, framing, recipe.keep_pixels)

    def look(sample: Sample) -> tuple[str, np.ndarray, np.ndarray] | BrokenImage:
        try:
            seen, _ = pixels.read(sample.path)
            return images.content_hash(sample.path), gray_thumbnail(seen), tint(seen)
        except BrokenImage as error:
            if recipe.strict:
                raise
            return error

    seen: list[tuple[str, np.ndarray, np.ndarray] | BrokenImage] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for found in pool.map(look, table.samples):
            seen.append(found)
            advance()
    whole = [(sample, found) for sample, found in zip(table.samples, seen, strict=True) if not isinstance(found, BrokenImage)]
    broken = [(sample, found) for sample, found in zip(table.samples, seen, strict=True) if isinstance(found, BrokenImage)]
    _refuse_lost_classes(table, [sample for sample, _ in whole])
    return Scanned(
        table=table.with_samples(tuple(sample for sample, _ in whole)),
        hashes=tuple(found[0] for _, found in whole),
        thumbs=np.stack([found[1] for _, found in whole]),
        tints=np.stack([found[2] for _, found in whole]),
        pixels=pixels,
        skipped=tuple((sample.key, error.why or error.what) for sample, error in broken),
    )


def imageless(table: Table) -> Scanned:
    """A table of names alone, as `scan` would give it."""
    return Scanned(table, (), np.empty((0, 32, 32), np.uint8), Pixels(1, "whole", keep=False), ())


def clusters(scanned: Scanned, recipe: DataRecipe) -> list[str]:
    """The name of the group of each picture: near-copies and what the table groups belong together, in chains."""
    likeness, count = recipe.near_duplicates, len(scanned.thumbs)
    alike = near_copies(scanned.thumbs, likeness, scanned.tints) if likeness < 1 else np.arange(count)
    stated = [sample.group for sample in scanned.table.samples]
    if any(stated):
        return [group if group else f"image {index}" for index, group in enumerate(stated)]
    first: dict[int, str] = {}
    return [first.setdefault(int(place), sample.key) for place, sample in zip(alike, scanned.table.samples, strict=True)]


def divided(table: Table, groups: list[str], recipe: DataRecipe, seed: int) -> tuple[Table, str]:
    """The table with a split for every sample, and a sentence that says how.

    Splits that the data names are kept. Where it names train and test only, validation is taken out of train.
    """
    named = {sample.split for sample in table.samples if sample.split}
    if "train" in named:
        return _completed(table, groups, recipe, seed)
    why = "the data names no training split" if named else "the data names no split"
    labels = [label_names(sample) for sample in table.samples]
    splits = make_splits(labels, groups, recipe.val, recipe.test, seed)
    return _with_splits(table, splits), f"{why}: made here, stratified by class, no group divided, seed {seed}"


def _completed(table: Table, groups: list[str], recipe: DataRecipe, seed: int) -> tuple[Table, str]:
    """Keeps the named splits; rows without one train; validation is taken out of train, by group, when it is missing."""
    splits: list[Split] = [sample.split or "train" for sample in table.samples]
    if "val" in splits or recipe.val == 0:
        return _with_splits(table, splits), "as the data names them"
    train = [index for index, split in enumerate(splits) if split == "train"]
    labels = [label_names(table.samples[index]) for index in train]
    for index, split in zip(train, make_splits(labels, [groups[i] for i in train], recipe.val, 0, seed), strict=True):
        splits[index] = split
    return _with_splits(table, splits), f"as the data names them; validation taken out of train by group, seed {seed}"


def _with_splits(table: Table, splits: Sequence[Split]) -> Table:
    return table.with_samples(tuple(replace(sample, split=split) for sample, split in zip(table.samples, splits, strict=True)))


def few(scanned: Scanned, groups: list[str], shots: int, seed: int) -> tuple[Scanned, list[str]]:
    """The pictures, and their groups, with `shots` training images of each class: of different groups as long as there are any.

    Raises DataError where a class has fewer, or an image has not exactly one class.
    """
    samples = scanned.table.samples
    if any(not isinstance(sample.truth, Labels) or len(label_names(sample)) != 1 for sample in samples):
        raise DataError("so many images of each class can only be drawn where every image has one", where=scanned.table.root)
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
            raise DataError(what, where=scanned.table.root, hint=f"--shots {len(own)}, or more images")
        kept.update(sorted(own, key=lambda place: copies[place])[:shots])
    places = sorted(kept)
    table = scanned.table.with_samples(tuple(samples[place] for place in places))
    return scanned.part(places, table), [groups[place] for place in places]


def label_names(sample: Sample) -> tuple[str, ...]:
    """The classes that a sample shows, each once; none where its truth does not name them."""
    return tuple(dict.fromkeys(sample.truth.names)) if isinstance(sample.truth, Labels | Boxes) else ()


def renamed(table: Table, classes: tuple[str, ...]) -> tuple[Table, list[str]]:
    """The table of other data in the classes of a run, matched by name, and what that cost in words.

    Images of an unknown class, boxes of unknown classes and pixels of unknown classes are left out of the truth.
    """
    strange = sorted(set(table.classes) - set(classes))
    if table.classes == classes:
        return table, []
    which = f"the run knows no class {', '.join(map(repr, strange))}"
    kept, lost = [], Counter[str]()
    for sample in table.samples:
        truth: Any = sample.truth
        moved, count = truth.in_classes(table.classes, classes)
        lost[truth.left_out] += count
        if moved is not None:
            kept.append(replace(sample, truth=moved))
    notes = [f"{words.format(count)}: {which}" for words, count in lost.items() if count]
    return replace(table, samples=tuple(kept), classes=classes), notes


def _refuse_lost_classes(table: Table, left: list[Sample]) -> None:
    before, after = ({name for sample in samples for name in label_names(sample)} for samples in (table.samples, left))
    lost = sorted(before - after)
    if lost or not left:
        what = f"no picture of the class {lost[0]!r} can be read" if left else "no picture can be read"
        raise DataError(what, where=table.root, hint="look at the files: foveate needs pictures of every class")


def broken(samples: Sequence[Sample], pixels: Pixels, strict: bool = False) -> dict[Path, BrokenImage]:
    """The paths of pictures that cannot be read, and why; the first one is raised when strict."""
    found = {}
    for sample in samples:
        try:
            pixels.read(sample.path)
        except BrokenImage as error:
            if strict:
                raise
            found[sample.path] = error
    return found


def readable(samples: Sequence[Sample], pixels: Pixels, strict: bool = False) -> list[Sample]:
    """Those whose pictures can be read; the others are named, or raise when strict."""
    errors = broken(samples, pixels, strict)
    for sample in samples:
        if sample.path in errors:
            console.warn(f"skipped {sample.key}: {errors[sample.path].why or errors[sample.path].what}")
    return [sample for sample in samples if sample.path not in errors]


class Pictures(Dataset[Item]):
    """Samples made ready; an item is asked for as (epoch, index). With a `mosaic`, some are shown together with three others."""

    def __init__(
        self,
        samples: Sequence[Sample],
        pixels: Pixels,
        transform: Transform,
        encode: Encode,
        seed: int,
        mosaic: Mosaic | None = None,
    ) -> None:
        self.samples, self.pixels, self.transform, self.encode, self.seed = samples, pixels, transform, encode, seed
        self.mosaic = mosaic

    def __len__(self) -> int:
        return len(self.samples)

    def name_of(self, index: int) -> str:
        """What the picture at this place is called."""
        return self.samples[index].key

    def __getitem__(self, place: Place) -> Item:
        epoch, index = place
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key(self.seed, epoch, index))  # no GPU: to seed one that sleeps takes 3 ms
            if self.mosaic is not None and self.mosaic.wanted():
                others = torch.randint(len(self.samples), (3,)).tolist()
                pixels, size, target = self.mosaic.of([self._read(each) for each in (index, *others)])
            else:
                pixels, size, target = self._read(index)
            image, view, target = self.transform(pixels, size, target)
        return image, target, torch.tensor(view), torch.tensor(size), index

    def _read(self, index: int) -> tuple[np.ndarray, tuple[int, int], Target]:
        sample = self.samples[index]
        pixels, size = self.pixels.read(sample.path)
        return pixels, size, self.encode(sample.truth, size) if sample.truth is not None else {}

    def collated(self, items: Sequence[Item]) -> Batch:
        """Items as one batch."""
        images, targets, views, sizes, indices = zip(*items, strict=True)
        spec = self.transform.spec if isinstance(self.transform, Unscaled) else None
        return Batch(torch.stack(images), list(targets), torch.stack(views), torch.stack(sizes), torch.tensor(indices), spec)

    def joined(self, answers: Sequence[Any]) -> list[Any]:
        """An answer for each sample, in their order, from those for each item."""
        return list(answers)


class Windows(Pictures):
    """Samples seen through windows: an item is a square of `side` px, cut out of a picture at full resolution.

    Neighbours overlap by a quarter at least. `join` makes one answer of those to the windows of a picture. `places`: the sample
    and the upper left corner (x, y) of each item.
    """

    def __init__(
        self, samples: Sequence[Sample], pixels: Pixels, transform: Transform, encode: Encode, seed: int, side: int, join: Join
    ) -> None:
        super().__init__(samples, pixels, transform, encode, seed)
        self.side, self.join = side, join
        self.sizes = [images.size(source_of(sample.path)) for sample in samples]
        self.places = [
            (index, (x, y))
            for index, size in enumerate(self.sizes)
            for x, y in corners_of(size, side)
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Place) -> Item:
        index, (x, y) = self.places[place[1]]
        pixels, _, target = self._read(index)
        part = pixels[y : y + self.side, x : x + self.side]
        image, view, target = self.transform(part, part.shape[:2], cut(target, x, y, part.shape[:2]))
        return image, target, torch.tensor(view), torch.tensor(part.shape[:2]), index

    def joined(self, answers: Sequence[Any]) -> list[Any]:
        parts: list[list[tuple[tuple[int, int], Any]]] = [[] for _ in self.samples]
        for (index, corner), answer in zip(self.places, answers, strict=True):
            parts[index].append((corner, answer))
        return [self.join(found, size) for found, size in zip(parts, self.sizes, strict=True)]


def key(*parts: object) -> int:
    """A 63-bit seed from any words and numbers, the same on every machine."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big") >> 1


def even_parts(count: int, most: int) -> list[slice]:
    """`count` things in parts of about one size, `most` at the most. No part of one where two were allowed: a batch
    normalisation has nothing to learn from a single image, and refuses it."""
    parts = -(-count // most)
    if most > 1 and count > 1 and count // parts < 2:
        parts = count // 2
    bounds = [place * count // parts for place in range(parts + 1)] if parts else [0]
    return [slice(start, end) for start, end in pairwise(bounds)]


class Order:
    """Batches of (epoch, index): shuffled by (seed, epoch), or in the order of the samples. `start` skips batches. `team`: of each
    batch, the share of this process."""

    def __init__(
        self, count: int, batch_size: int, *, seed: int | None = None, epoch: int = 0, start: int = 0, team: Team | None = None
    ) -> None:
        self.count, self.batch_size, self.seed, self.epoch, self.start = count, batch_size, seed, epoch, start
        self.team = team or Team()

    def __len__(self) -> int:
        return len(even_parts(self.count, self.batch_size)) - self.start

    def __iter__(self) -> Iterator[list[Place]]:
        order = list(range(self.count))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(key(self.seed, "order", self.epoch))
            order = torch.randperm(self.count, generator=generator).tolist()
        for part in even_parts(self.count, self.batch_size)[self.start :]:
            yield [(self.epoch, index) for index in self.team.share(order[part])]


def loader(pictures: Pictures, order: Order, workers: int | None = None) -> Iterable[Batch]:
    """Batches in the given order, as often as they are asked for; with `workers` (default: `helpers`) the order and the pixels are
    the same. Where a loader process dies, mostly for want of shared memory, the rest is read by this one, and that is said."""
    return _Loader(pictures, order, helpers(len(order)) if workers is None else workers)


@dataclass(frozen=True)
class _Loader:
    pictures: Pictures
    order: Order
    workers: int

    def __iter__(self) -> Iterator[Batch]:
        given = 0
        try:
            for batch in _batches(self.pictures, self.order, self.workers):
                yield batch
                given += 1
        except RuntimeError as error:
            if not self.workers or not any(word in str(error) for word in _DEAD):
                raise
            why = str(error).splitlines()[0].rstrip(".")
            console.warn(f"a loader process died, mostly a sign of too little shared memory (/dev/shm): this one reads on ({why})")
            yield from _batches(self.pictures, list(self.order)[given:], 0)


def _batches(pictures: Pictures, order: Iterable[list[Place]], count: int) -> DataLoader[Batch]:
    return DataLoader(
        pictures,  # type: ignore[arg-type]
        batch_sampler=order,
        num_workers=count,
        multiprocessing_context="fork" if count and sys.platform == "linux" else None,
        collate_fn=pictures.collated,
        pin_memory=torch.cuda.is_available(),
    )


def helpers(batches: int) -> int:
    """Loader processes that so many batches are worth: a GPU waits for one process alone (bench/gpu.py), a processor has no core to
    spare. None where processes cannot be forked, which asks more of the caller's program."""
    if sys.platform != "linux" or not torch.cuda.is_available():
        return 0
    return max(0, min(_HELPERS, len(os.sched_getaffinity(0)) - 1, batches // 2))
