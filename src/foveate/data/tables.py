"""Operations on tables: the classes of a sample, data in the classes of a run, choosing a split."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.class_merging import merge_classes
from foveate.data.formats import FORMATS, read_table
from foveate.data.formats._table_files import find_tables
from foveate.data.records import column_names, is_table
from foveate.errors import DataError, UsageError
from foveate.messages import Message, counted
from foveate.predictions import Boxes, ImagePrediction, Labels, Number, Regions, Text
from foveate.recipe import DataRecipe
from foveate.types import Issue, Sample, Table, remark
from foveate.utils import log

_MAX_PARTS, _MIN_IN_PART = 10, 10  # of numbers, for stratification; and images in each
_SOURCES: dict[type, str] = {  # of targets
    Labels: "classes are read from a folder for each class, or a table with the columns path and"
    " label",
    Boxes: "boxes are read from COCO, YOLO, Pascal VOC, a table with the columns path, label, x0,"
    " y0, x1 and y1, or the export of an annotation tool such as CVAT or Label Studio",
    Regions: "masks are read from an image of class numbers beside each image, or from the polygons"
    " of COCO, YOLO or an annotation tool such as CVAT or Label Studio",
    Number: "numbers are read from a table with the columns path and value",
    Text: "captions are read from a table with the columns path and text",
}


def label_names(sample: Sample) -> tuple[str, ...]:
    """Return the classes of a sample, each once; none if its target has no class names."""
    if not isinstance(sample.target, Labels | Boxes):
        return ()
    return tuple(dict.fromkeys(sample.target.names))


def label_text(sample: Sample) -> str:
    """Return the classes of a sample, or its number, as a cell of a table."""
    if isinstance(sample.target, Number):
        return repr(sample.target.value)
    return "|".join(label_names(sample))


def count_labels(table: Table) -> Message:
    """Say how many classes or captions there are, or which numbers."""
    targets = [sample.target for sample in table.samples]
    captions = sum(len(target.sentences) for target in targets if isinstance(target, Text))
    numbers = [target.value for target in targets if isinstance(target, Number)]
    if numbers:
        text = "numbers from {least:g} to {most:g}"
        return Message("training.numbers", text, least=min(numbers), most=max(numbers))
    if targets and isinstance(targets[0], ImagePrediction):
        return Message("training.no_labels", "no labels")
    if captions:
        return Message("training.captions", "{count:caption|captions}", count=captions)
    return Message("training.classes", "{count:class|classes}", count=len(table.classes))


def strata(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """Return what each sample counts as where images are divided evenly: its classes.

    For a number it is the tenth of the numbers (fewer parts of few images) that it belongs to.
    """
    numbers = [each.target.value for each in samples if isinstance(each.target, Number)]
    if not numbers:
        return [label_names(sample) for sample in samples]
    parts = max(1, min(_MAX_PARTS, len(numbers) // _MIN_IN_PART))
    limits = np.quantile(numbers, np.arange(1, parts) / parts)
    return [
        (f"part {np.searchsorted(limits, sample.target.value, side='right'):02d}",)
        if isinstance(sample.target, Number)
        else label_names(sample)
        for sample in samples
    ]


def read_matching_table(
    classes: tuple[str, ...],
    accepted: tuple[type, ...],
    data: Path,
    format: str,
    recipe: DataRecipe,
) -> Table:
    """Read other data in the classes of a run, which are matched by name; warn of the others.

    Classes that the run merged or renamed are merged here as well.

    Args:
        classes: The classes of the run.
        accepted: Types of targets that its predictions can be compared with.
        data: The path of the data.
        format: The name of its format, or "auto".
        recipe: How the run read its own data.

    Raises:
        DataError: The data cannot be read, has no labels or labels of another kind, or no image
            has a class of the run.
    """
    column = recipe.column if _has_column(data, recipe.column) else ""  # folders have none
    table = read_table(data, format, accepted, column, recipe.allow_outside)
    summary = FORMATS.get(table.format).summary
    log.info(f"data: {data}, read as {summary}: {counted(len(table.samples), 'image', 'images')}")
    _require_targets(table, accepted, data)
    table = merge_classes(table, recipe.classes, other=True)
    for note in table.notes:
        log.warning(note)
    table, notes = remap_classes(table, classes)
    for note in notes:
        log.warning(note)
    if not table.samples:
        raise DataError(
            "none of the images has a class of the run",
            where=data,
            why="the classes of the run are: " + ", ".join(classes),
        )
    return table


def _has_column(data: Path, column: str) -> bool:
    """Whether data are a table with a column, or a folder with such tables."""
    name = column.strip().casefold()

    def fits(file: Path) -> bool:
        return is_table(file) and name in column_names(file)

    return bool(name) and data.exists() and bool(find_tables(data, fits))


def _require_targets(table: Table, accepted: tuple[type, ...], data: Path) -> None:
    """Refuse data whose targets are of another type than those of the run."""
    others = [
        type(sample.target)
        for sample in table.samples
        if sample.target is not None and not isinstance(sample.target, accepted)
    ]
    if others and others[0] is ImagePrediction:
        raise DataError(
            "the images have no labels, so predictions for them cannot be scored",
            where=data,
            hint=f"foveate predict RUN {shlex.quote(str(data))}",
        )
    if others:
        needed = ", ".join(kind.__name__.lower() for kind in accepted)
        raise DataError(
            f"the run predicts {needed}, and these data have {others[0].__name__.lower()}",
            where=data,
            hint="give data with labels of the kind that the run was trained on; if it is read"
            " wrongly, name its --format",
        )


def other_targets(
    targets: Sequence[Any], accepted: tuple[type, ...], task: str
) -> UsageError | None:
    """Return the error for targets that a task cannot learn from; None if it can.

    Args:
        targets: The targets of images; None of those without one.
        accepted: The types that the task learns from.
        task: Its name.
    """
    others = [each for each in targets if each is not None and not isinstance(each, accepted)]
    if not others:
        return None
    needed = ", ".join(kind.__name__.lower() for kind in accepted)
    kind = type(others[0])
    given = "no labels" if kind is ImagePrediction else kind.__name__.lower()
    source = next((_SOURCES[kind] for kind in accepted if kind in _SOURCES), "")
    return UsageError(
        f"the task {task!r} learns from {needed}, and these data have {given}",
        where="task",
        hint="; ".join(filter(None, ["leave out --task, or give other data", source])),
        id="other_targets",
    )


def remap_classes(table: Table, classes: tuple[str, ...]) -> tuple[Table, list[Issue]]:
    """Convert other data to the classes of a run, which are matched by name.

    Images, boxes and pixels of unknown classes are left out.

    Args:
        table: The data.
        classes: The classes of the run.

    Returns:
        The converted table, and notes on what was left out.
    """
    if table.classes == classes:
        return table, []
    kept, dropped = [], Counter[str]()
    for sample in table.samples:
        target: Any = sample.target
        converted, count = target.in_classes(table.classes, classes)
        dropped[target.dropped_text] += count
        if converted is not None:
            kept.append(replace(sample, target=converted))
    unknown = ", ".join(map(repr, sorted(set(table.classes) - set(classes))))
    notes = [
        remark(
            "unknown_classes",
            text + " (not classes of the run: {classes})",
            count=count,
            classes=unknown,
        )
        for text, count in dropped.items()
        if count
    ]
    return replace(table, samples=tuple(kept), classes=classes), notes


def require_single_label(table: Table, who: str) -> Table:
    """Return the table if each image has exactly one class.

    Args:
        table: The data.
        who: What requires it, for the message.

    Raises:
        DataError: It has other targets, or images with several classes or none.
    """
    what = f"{who} needs single-label classification data"
    hint = "to compare backbones on other data: foveate fit DATA --backbone NAME"
    for sample in table.samples:
        if not isinstance(sample.target, Labels):
            why = f"got {type(sample.target).__name__.lower()}"
            raise DataError(what, where=table.root, why=why, hint=hint)
    if table.multilabel:
        why = "some images have several classes, or none"
        raise DataError(what, where=table.root, why=why, hint=hint)
    return table


def select_split(table: Table, split: str) -> tuple[str, Table]:
    """Select the images to score.

    Args:
        table: The data.
        split: A split, "all", or "auto": test, or else validation, or else all. With data that a
            run divided itself, auto never falls back to training images.

    Returns:
        The name of the split, and its table.

    Raises:
        DataError: There are no such images.
    """
    if split == "auto":
        present = {sample.split for sample in table.samples}
        split = next((name for name in ("test", "val") if name in present), "all")
    if not table.samples:
        raise DataError(
            "the run has no images of its own",
            where=table.root,
            hint="name data to evaluate on: foveate evaluate RUN DATA",
        )
    samples = tuple(sample for sample in table.samples if split in ("all", sample.split))
    if not samples:
        hint = "use --split all, or give other data"
        raise DataError(f"there are no {split} images", where=table.root, hint=hint)
    return split, table.with_samples(samples)
