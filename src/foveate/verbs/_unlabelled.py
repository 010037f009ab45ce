"""The pictures of a pre-training: those to learn from, and those that the guard looks at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foveate import console
from foveate.data import Scanned, key, label_names
from foveate.errors import DataError
from foveate.formats import read_table
from foveate.images import printable
from foveate.model import Model
from foveate.recipe import DataRecipe, Recipe
from foveate.settling import refuse_other_questions
from foveate.types import Labels, Sample, Table
from foveate.verbs.evaluate import scanned_aloud
from foveate.verbs.predict import pictures_at

_MOST = 2000  # held-out images: enough for an interval of two points
_LEAST = 20  # to hold out: fewer tell nothing
_ALIKE = 1e-3  # deviation of thumbnails, of 1, over images that are all the same


@dataclass(frozen=True)
class Unlabelled:
    """`train`: samples to learn from; `held`: those of the guard, of which `labels` (N,) are the places of their classes, where
    they are known. `scanned`: all of them, as they were read. `how`: where those of the guard come from, in words."""

    scanned: Scanned
    train: tuple[Sample, ...]
    held: tuple[Sample, ...]
    labels: np.ndarray | None
    how: str


def gathered(recipe: Recipe, labelled: Path | None, model: Model) -> Unlabelled:
    """The pictures under the recipe's path, in a folder of any depth, and the images of the guard: those of `labelled`, data with
    one class an image, or without it a part of the same pictures, drawn by the seed.

    Pictures of the guard are never learnt from. Raises DataError where there is too little to learn from, or nothing to tell apart.
    """
    root = Path(recipe.data.path)
    samples = [Sample(path, _named(path, root)) for path in dict.fromkeys(pictures_at([root]))]
    held, how = _of_labelled(labelled, recipe) if labelled else _of_all(samples, recipe)
    theirs = {sample.path.resolve() for sample in held}
    train = [sample for sample in samples if sample.path.resolve() not in theirs]
    scanned = _scanned(train, held, root, model, recipe.data)
    kept = scanned.table.samples
    found = Unlabelled(scanned, tuple(s for s in kept if s.split == "train"), tuple(s for s in kept if s.split == "val"), None, how)
    _refuse_little(found, root)
    return replace(found, labels=_places(found.held)) if labelled else found


def _named(path: Path, root: Path) -> str:
    return printable(path.relative_to(root) if path != root and path.is_relative_to(root) else path)


def _of_labelled(data: Path, recipe: Recipe) -> tuple[list[Sample], str]:
    table = refuse_other_questions(read_table(data), "a guard with labels")
    told = [sample for sample in table.samples if sample.split != "test"]
    order = np.random.default_rng(recipe.seed).permutation(len(told))[:_MOST]
    return [told[place] for place in sorted(order)], f"{len(order)} images with labels, of {data}"


def _of_all(samples: list[Sample], recipe: Recipe) -> tuple[list[Sample], str]:
    count = min(_MOST, max(_LEAST, round(recipe.data.val * len(samples))))
    drawn = sorted(samples, key=lambda sample: key(recipe.seed, "held out", sample.key))[:count]
    return drawn, f"{len(drawn)} of the images, without labels: foveate pretrain --labels DATA would tell more"


def _scanned(train: list[Sample], held: list[Sample], root: Path, model: Model, recipe: DataRecipe) -> Scanned:
    samples = [replace(sample, split="train", truth=None) for sample in train]
    samples += [replace(sample, split="val") for sample in held]
    return scanned_aloud(Table(tuple(samples), (), "pictures", root), model, recipe)


def _places(held: tuple[Sample, ...]) -> np.ndarray:
    names = [label_names(sample)[0] for sample in held if isinstance(sample.truth, Labels)]
    classes = sorted(set(names))
    return np.array([classes.index(name) for name in names])


def _refuse_little(found: Unlabelled, root: Path) -> None:
    if len(found.train) < 2:
        what = f"{len(found.train)} pictures are left to learn from, {len(found.held)} being held out"
        raise DataError(what, where=printable(root), hint="give some hundreds at least")
    if len(found.held) < 2:
        raise DataError("there are not two images to look at while it learns", where=printable(root))
    if float(found.scanned.thumbs.std(0).max()) < _ALIKE:
        raise DataError("all these images look the same: there is nothing to tell apart", where=printable(root))
    if len(found.held) < 10 * _LEAST:
        console.warn(f"{len(found.held)} held-out images can tell little: their intervals are wide")
