"""The pictures of a pre-training: those to learn from, and those that the guard looks at."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.data.dataset import seed_from
from foveate.data.duplicates import gray_thumbnail
from foveate.data.formats import read_table
from foveate.data.image_cache import ImageCache
from foveate.data.streaming import Catalogue, Entry, entries, sampled
from foveate.data.tables import label_names, require_single_label
from foveate.errors import BrokenImage, DataError
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.run.folder import Run
from foveate.utils import log
from foveate.utils.paths import printable

TRAIN, HELD, LABELS = "train.jsonl", "held.jsonl", "labels.json"
_MOST = 2000  # held-out images: enough for an interval of two points
_LEAST = 20  # to hold out: fewer tell nothing
_LOOKED_AT = 200  # pictures that tell whether all are alike
_ALIKE = 1e-3  # deviation of thumbnails, of 1, over images that are all the same


@dataclass(frozen=True)
class Unlabelled:
    """`train`: pictures to learn from; `held`: those of the guard, all of which can be read, and `labels` (N,), the places of their
    classes, where they are known. `pixels`: what of them is decoded already."""

    train: Catalogue
    held: Catalogue
    labels: np.ndarray | None
    pixels: ImageCache


def gathered(
    recipe: Recipe, labelled: Path | None, model: Model, into: Path
) -> tuple[Unlabelled, str]:
    """Lists the pictures at the recipe's path, and those of the guard, in the folder `into`; says where the latter come from.

    They are the images of `labelled`, data with one class an image; or without it a part of the pictures, drawn by the seed. They
    are never learnt from. Raises DataError where there is too little to learn from, or nothing to tell apart.
    """
    root = Path(recipe.data.path)
    if not root.exists():
        raise DataError(
            "there is nothing at this path",
            where=printable(root),
            hint="give a folder of pictures, or .tar shards",
        )
    pixels = ImageCache(model.backbone.input.size, "crop", recipe.data.cache_images)
    if labelled:
        pairs, how = _of_labelled(labelled, recipe)
    else:
        pairs, how = _of_all(root, recipe)
    whole = [(entry, name) for entry, name in pairs if _readable(entry, pixels, recipe.data.strict)]
    held = Catalogue.listed(into / HELD, (entry for entry, _ in whole))
    theirs = {_place(entry) for entry, _ in whole}
    train = Catalogue.listed(
        into / TRAIN, (entry for entry in entries(root) if _place(entry) not in theirs)
    )
    labels = _numbered([name for _, name in whole]) if labelled else None
    found = Unlabelled(train, held, labels, pixels)
    _refuse_little(found, root)
    return found, how.format(len(held))


def reopened(run: Run, recipe: Recipe, model: Model) -> Unlabelled:
    """What a run that was stopped had listed."""
    labels = run.read_json(LABELS)
    pixels = ImageCache(model.backbone.input.size, "crop", recipe.data.cache_images)
    train, held = (Catalogue(run.folder / name) for name in (TRAIN, HELD))
    return Unlabelled(train, held, None if labels is None else np.array(labels), pixels)


def _place(entry: Entry) -> tuple[Path, int]:
    return entry.path.resolve(), entry.offset


def _of_labelled(data: Path, recipe: Recipe) -> tuple[list[tuple[Entry, str]], str]:
    table = require_single_label(read_table(data), "a guard with labels")
    told = [sample for sample in table.samples if sample.split != "test"]
    drawn = sorted(np.random.default_rng(recipe.seed).permutation(len(told))[:_MOST].tolist())
    pairs = [
        (Entry(told[place].key, told[place].path.absolute()), label_names(told[place])[0])
        for place in drawn
    ]
    return pairs, f"{{}} images with labels, of {data}"


def _of_all(root: Path, recipe: Recipe) -> tuple[list[tuple[Entry, str]], str]:
    count = min(_MOST, max(_LEAST, round(recipe.data.val * sum(1 for _ in entries(root)))))
    drawn = heapq.nsmallest(
        count, entries(root), key=lambda entry: seed_from(recipe.seed, "held out", entry.key)
    )
    pairs = [(entry, "") for entry in sorted(drawn, key=lambda entry: entry.key)]
    return pairs, "{} of the pictures, without labels: --labels DATA would tell more"


def _readable(entry: Entry, pixels: ImageCache, strict: bool) -> bool:
    try:
        pixels.read(entry)
    except BrokenImage as error:
        if strict:
            raise
        log.warning(f"skipped {entry.key}: {error.why or error.what}")
        return False
    return True


def _numbered(names: list[str]) -> np.ndarray:
    classes = sorted(set(names))
    return np.array([classes.index(name) for name in names])


def _refuse_little(found: Unlabelled, root: Path) -> None:
    if len(found.train) < 2:
        what = (
            f"{len(found.train)} pictures are left to learn from, {len(found.held)} being held out"
        )
        raise DataError(what, where=printable(root), hint="give some hundreds at least")
    if len(found.held) < 2:
        raise DataError(
            "there are not two images to look at while it learns", where=printable(root)
        )
    if _all_alike(found.train[place] for place in sampled(found.train, _LOOKED_AT)):
        raise DataError(
            "all these images look the same: there is nothing to tell apart", where=printable(root)
        )
    if len(found.held) < 10 * _LEAST:
        log.warning(f"{len(found.held)} held-out images can tell little: their intervals are wide")


def _all_alike(some: Iterable[Entry]) -> bool:
    """Those that cannot be read say nothing here."""
    pixels, thumbs = ImageCache(32, "crop", keep=False), []
    for entry in some:
        try:
            thumbs.append(gray_thumbnail(pixels.read(entry)[0]))
        except BrokenImage:
            continue
    return len(thumbs) < 2 or float(np.stack(thumbs).std(0).max()) < _ALIKE
