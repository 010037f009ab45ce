"""The images of pretraining: those to train on, and held-out ones for the guard."""

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
from foveate.data.stored_images import Entry
from foveate.data.streaming import Catalog, find_entries, spread_indices
from foveate.data.tables import label_names, require_single_label
from foveate.errors import BrokenImage, DataError
from foveate.messages import Message
from foveate.modeling.model import Model
from foveate.recipe import Recipe
from foveate.run.folder import Run
from foveate.utils import log
from foveate.utils.paths import printable, require_exists

TRAIN, HELD_OUT, LABELS = "train.jsonl", "held_out.jsonl", "labels.json"
_MAX_HELD_OUT = 2000  # held-out images: enough for an interval of two points
_MIN_HELD_OUT = 20  # fewer tell nothing
_SAMPLED = 200  # images that tell whether all look the same
_MIN_DEVIATION = 1e-3  # of thumbnails in [0, 1]; below, all images look the same


@dataclass(frozen=True)
class PretrainingImages:
    """The images of pretraining.

    Attributes:
        train: images to train on.
        held_out: held-out images for the guard; all of them can be read.
        labels: (N,), class indices of the held-out images; None if they are unknown.
        cache: decodes them.
    """

    train: Catalog
    held_out: Catalog
    labels: np.ndarray | None
    cache: ImageCache


def collect_images(
    recipe: Recipe,
    labeled: Path | None,
    model: Model,
    folder: Path,
    max_held_out: int | None = None,
) -> tuple[PretrainingImages, Message]:
    """List the images at the recipe's path, and the held-out ones.

    The latter are never trained on.

    Args:
        recipe: The recipe.
        labeled: Data with one class per image to hold out; without it, a share of the images is
            held out, drawn by the seed.
        model: The model, for the size of its input.
        folder: Where to write the lists.
        max_held_out: The most images to hold out, if there is less time than for the usual number.

    Returns:
        The images, and where the held-out ones come from.

    Raises:
        DataError: There are too few images, or all look the same.
    """
    root = Path(recipe.data.path)
    cache = ImageCache(model.backbone.input.size, "crop", recipe.data.cache_images)
    most = min(_MAX_HELD_OUT, max(_MIN_HELD_OUT, max_held_out or _MAX_HELD_OUT))
    if labeled:
        pairs, source = _draw_labeled(labeled, recipe, most)
    else:
        pairs, source = _draw_unlabeled(root, recipe, most)
    if len(pairs) == most < _MAX_HELD_OUT:
        text = "{source}; as many as the time budget can measure again and again"
        source = Message("choice.held_out_in_time", text, source=source)
    readable = [pair for pair in pairs if _is_readable(pair[0], cache, recipe.data.strict)]
    held_out = Catalog.write(folder / HELD_OUT, (entry for entry, _ in readable))
    locations = {_location(entry) for entry, _ in readable}
    train = Catalog.write(
        folder / TRAIN, (entry for entry in find_entries(root) if _location(entry) not in locations)
    )
    labels = _class_indices([name for _, name in readable]) if labeled else None
    images = PretrainingImages(train, held_out, labels, cache)
    _require_enough(images, root)
    return images, source


def require_images(root: Path) -> None:
    """Raise where there is nothing at a path, or no image in it.

    Raises:
        UsageError: There is nothing at the path.
        DataError: There are no images.
    """
    if next(iter(find_entries(require_exists(root))), None) is None:
        hint = "give a folder of images, or .tar shards"
        raise DataError("there are no images here", where=printable(root), hint=hint)


def reopen_images(run: Run, recipe: Recipe, model: Model) -> PretrainingImages:
    """Return the images that an unfinished run has listed."""
    labels = run.read_json(LABELS)
    cache = ImageCache(model.backbone.input.size, "crop", recipe.data.cache_images)
    train, held_out = (Catalog(run.folder / name) for name in (TRAIN, HELD_OUT))
    return PretrainingImages(train, held_out, None if labels is None else np.array(labels), cache)


def _location(entry: Entry) -> tuple[Path, int]:
    return entry.path.resolve(), entry.offset


def _draw_labeled(data: Path, recipe: Recipe, most: int) -> tuple[list[tuple[Entry, str]], Message]:
    labeled = read_table(data, allow_outside=recipe.data.allow_outside)
    table = require_single_label(labeled, "a guard with labels")
    samples = [sample for sample in table.samples if sample.split != "test"]
    order = np.random.default_rng(recipe.seed).permutation(len(samples))
    drawn = [samples[index] for index in sorted(order[:most].tolist())]
    pairs = [
        (Entry(sample.key, sample.file.absolute()), label_names(sample)[0]) for sample in drawn
    ]
    return pairs, Message("choice.labeled_held_out", "labeled images of {data}", data=str(data))


def _draw_unlabeled(
    root: Path, recipe: Recipe, most: int
) -> tuple[list[tuple[Entry, str]], Message]:
    total = sum(1 for _ in find_entries(root))
    count = min(most, max(_MIN_HELD_OUT, round(recipe.data.val * total)))
    drawn = heapq.nsmallest(
        count, find_entries(root), key=lambda entry: seed_from(recipe.seed, "held out", entry.key)
    )
    pairs = [(entry, "") for entry in sorted(drawn, key=lambda entry: entry.key)]
    text = "a share of the images, without labels; --labels DATA would tell more"
    return pairs, Message("choice.unlabeled_held_out", text)


def _is_readable(entry: Entry, cache: ImageCache, strict: bool) -> bool:
    try:
        cache.read(entry)
    except BrokenImage as error:
        if strict:
            raise
        log.warning(f"skipped {entry.key}: {error.why or error.what}")
        return False
    return True


def _class_indices(names: list[str]) -> np.ndarray:
    classes = sorted(set(names))
    return np.array([classes.index(name) for name in names])


def _require_enough(images: PretrainingImages, root: Path) -> None:
    train, held_out, where = len(images.train), len(images.held_out), printable(root)
    if train < 2:
        what = f"too few images to train on: {train}, with {held_out} held out"
        raise DataError(what, where=where, hint="give some hundreds at least")
    if held_out < 2:
        raise DataError("there are fewer than two images to hold out", where=where)
    if _all_look_same(images.train[index] for index in spread_indices(images.train, _SAMPLED)):
        raise DataError("all images look the same: there is nothing to learn", where=where)
    if held_out < 10 * _MIN_HELD_OUT:
        log.warning(f"few held-out images ({held_out}): their intervals are wide")


def _all_look_same(some: Iterable[Entry]) -> bool:
    """Compare thumbnails; unreadable images are skipped."""
    cache, thumbnails = ImageCache(32, "crop", keep=False), []
    for entry in some:
        try:
            thumbnails.append(gray_thumbnail(cache.read(entry)[0]))
        except BrokenImage:
            continue
    return len(thumbnails) < 2 or float(np.stack(thumbnails).std(0).max()) < _MIN_DEVIATION
