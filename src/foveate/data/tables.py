"""TODO-DOC foveate.data.tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveate.data.formats import read_table
from foveate.errors import DataError
from foveate.predictions import Boxes, Labels
from foveate.types import Sample, Table
from foveate.utils import log


def label_names(sample: Sample) -> tuple[str, ...]:
    """The classes that a sample shows, each once; none where its truth does not name them."""
    return (
        tuple(dict.fromkeys(sample.target.names)) if isinstance(sample.target, Labels | Boxes) else ()
    )


def remap_classes(table: Table, classes: tuple[str, ...]) -> tuple[Table, list[str]]:
    """The table of other data in the classes of a run, matched by name, and what that cost in words.

    Images of an unknown class, boxes of unknown classes and pixels of unknown classes are left out of the truth.
    """
    strange = sorted(set(table.classes) - set(classes))
    if table.classes == classes:
        return table, []
    which = f"the run knows no class {', '.join(map(repr, strange))}"
    kept, lost = [], Counter[str]()
    for sample in table.samples:
        truth: Any = sample.target
        moved, count = truth.in_classes(table.classes, classes)
        lost[truth.dropped_text] += count
        if moved is not None:
            kept.append(replace(sample, target=moved))
    notes = [f"{words.format(count)}: {which}" for words, count in lost.items() if count]
    return replace(table, samples=tuple(kept), classes=classes), notes


def require_single_label(table: Table, who: str) -> Table:
    """The table, where each image has one class; `who` wants that. Raises DataError for anything else."""
    hint = "foveate fit DATA --backbone NAME says what a backbone is worth"
    odd = next(
        (sample.target for sample in table.samples if not isinstance(sample.target, Labels)), None
    )
    if odd is not None:
        raise DataError(
            f"{who} wants a class for each image, not {type(odd).__name__.lower()}",
            where=table.root,
            hint=hint,
        )
    if table.multilabel:
        raise DataError(
            f"{who} wants one class an image: these images have several, or none",
            where=table.root,
            hint=hint,
        )
    return table


def read_matching_table(classes: tuple[str, ...], data: Path, format: str) -> Table:
    """Another table; its classes are matched to those of a run by name, and what is of unknown classes is left out, aloud."""
    table = read_table(data, format)
    log.info(f"data: {data}, {table.format}, {len(table.samples)} images")
    for note in table.notes:
        log.warning(note)
    table, losses = remap_classes(table, classes)
    for loss in losses:
        log.warning(loss)
    if not table.samples:
        raise DataError(
            "no image of this data has a class that the run knows",
            where=data,
            why=f"it knows {classes}",
        )
    return table


def select_split(table: Table, split: str) -> tuple[str, Table]:
    """The images to score. Auto never falls back to training images of a run's own data: there is nothing to learn there."""
    if split == "auto":
        present = {sample.split for sample in table.samples}
        split = next((word for word in ("test", "val") if word in present), "all")
    if not table.samples:
        raise DataError(
            "this run has no images of its own", where=table.root, hint="foveate evaluate RUN DATA"
        )
    samples = tuple(sample for sample in table.samples if split in ("all", sample.split))
    if not samples:
        raise DataError(
            f"there are no {split} images", where=table.root, hint="--split all, or give other data"
        )
    return split, table.with_samples(samples)
