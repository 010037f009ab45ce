"""Classes that are merged, renamed or left out when data are read, without touching files.

What becomes of a class that no group names: its images are left out (of images with several labels
only the label), its boxes are left out while their images stay, and its pixels are ignored, neither
trained on nor scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from foveate.data.formats import read_table
from foveate.data.group_columns import with_groups
from foveate.errors import DataError, UnknownName, UsageError
from foveate.predictions import IGNORE_INDEX, Boxes, Labels, Regions
from foveate.recipe import Recipe
from foveate.types import Issue, Sample, Table, remark
from foveate.utils.paths import printable

ClassMapping = Mapping[str, list[str]]
"""New name -> the names of the classes that become it."""


def read_recipe_table(recipe: Recipe, accepted: tuple[type, ...] = ()) -> Table:
    """Read the data that a recipe names, with the groups and classes that it asks for.

    Args:
        recipe: The recipe. If it continues a run, its data need not have all of the classes.
        accepted: Types of targets that are wanted, as for `read_table`.

    Raises:
        UsageError: The path does not exist, or a class is named that does not.
        DataError: The data cannot be read, or nothing is left of them.
    """
    data = recipe.data
    path = Path(data.path)
    table = read_table(path, data.format, accepted, data.column, data.allow_outside)
    table = with_groups(table, path, data.group)
    return merge_classes(table, data.classes, other=bool(recipe.start.run))


def merge_classes(table: Table, groups: ClassMapping | None, other: bool = False) -> Table:
    """Merge, rename and leave out the classes of a table.

    Args:
        table: The data.
        groups: The new classes; None leaves all as they are.
        other: Whether the groups were made for other data: then these may lack some of the
            classes, or have the new ones already.

    Raises:
        UnknownName: There is no class of a name.
        UsageError: The data have no classes.
        DataError: Nothing is left.
    """
    if groups is None:
        return table
    if not table.classes:
        raise UsageError("these data have no classes to choose from", where="data.classes")
    names = {old: new for new, own in groups.items() for old in own}
    if other:
        names |= {name: name for name in groups if name in table.classes and name not in names}
    for name in names:
        if name not in table.classes and not other:
            raise UnknownName(name, table.classes, kind="class", where="data.classes")
    classes = tuple(groups)
    merging = _Merging(table.classes, classes, names, table.multilabel)
    converted = (merging.convert(sample) for sample in table.samples)
    samples = tuple(sample for sample in converted if sample is not None)
    if not samples and table.samples:
        raise DataError(
            "no image has one of the chosen classes",
            where=printable(table.root),
            why="the classes of the data are: " + ", ".join(table.classes[:10]),
            hint="name classes of these data in data.classes",
            id="no_chosen_class",
        )
    notes = (*table.notes, *_notes(table, groups, merging))
    return replace(table, samples=samples, classes=classes, notes=notes)


@dataclass
class _Merging:
    """Converts samples, and counts what it leaves out by class.

    Attributes:
        before: The classes of the data.
        after: The new classes.
        names: Old name -> new name, of the classes that are kept.
        multilabel: Whether an image may have several classes, or none.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    names: dict[str, str]
    multilabel: bool

    def __post_init__(self) -> None:
        self.left_out = Counter[type]()
        indices = [self._index(name) for name in self.before]
        self._indices = np.array(indices, dtype=np.int64)

    def convert(self, sample: Sample) -> Sample | None:
        """Return the sample with new classes; None if it is left out."""
        target = sample.target
        if isinstance(target, Labels):
            kept = tuple(dict.fromkeys(self.names[n] for n in target.names if n in self.names))
            self.left_out[Labels] += len(target.names) > 0 and not kept
            if not kept and not self.multilabel:
                return None
            return replace(sample, target=Labels(kept))
        if isinstance(target, Boxes):
            known = np.array([name in self.names for name in target.names], dtype=bool)
            self.left_out[Boxes] += int((~known).sum())
            target = target.select(known)
            renamed = replace(target, names=tuple(self.names[name] for name in target.names))
            return replace(sample, target=renamed)
        if isinstance(target, Regions):
            self.left_out[Regions] += 1
            source: Callable[[], np.ndarray] = partial(_remapped, target, self._indices)
            return replace(sample, target=Regions(source))
        return sample

    def _index(self, name: str) -> int:
        return self.after.index(self.names[name]) if name in self.names else IGNORE_INDEX


def _remapped(regions: Regions, indices: np.ndarray) -> np.ndarray:
    """Read a mask and replace each class index by the one at its position in `indices`."""
    mask = regions.mask
    return np.where(mask >= 0, indices[mask.clip(min=0)], IGNORE_INDEX)


def _notes(table: Table, groups: ClassMapping, merging: _Merging) -> list[Issue]:
    """What became of the classes, and how much was left out."""
    parts = [
        name if own == [name] else f"{name} ({', '.join(own)})" for name, own in groups.items()
    ]
    text = "{count:class|classes} by data.classes: {groups}"
    notes = [remark("chosen_classes", text, count=len(groups), groups=", ".join(parts))]
    unnamed = [name for name in table.classes if name not in merging.names]
    if not unnamed:
        return notes
    classes = ", ".join(unnamed)
    if (count := merging.left_out[Labels]) and table.multilabel:
        text = (
            "{count:image has|images have} no class any more, after those that data.classes does "
            "not name: {classes}"
        )
        notes.append(remark("images_without_class", text, count=count, classes=classes))
    elif count:
        text = "{count:image|images} of classes that data.classes does not name left out: {classes}"
        notes.append(remark("left_out_images", text, count=count, classes=classes))
    if count := merging.left_out[Boxes]:
        text = (
            "{count:box|boxes} left out, of classes that data.classes does not name: {classes}; "
            "their images stay, also without any box"
        )
        notes.append(remark("left_out_boxes", text, count=count, classes=classes))
    if merging.left_out[Regions]:
        text = (
            "pixels of {count:class|classes} that data.classes does not name are ignored, neither "
            "trained on nor scored: {classes}; name them in a group such as background to train "
            "on them"
        )
        notes.append(remark("ignored_pixels", text, count=len(unnamed), classes=classes))
    return notes
