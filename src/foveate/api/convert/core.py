"""convert DATA: the same images and labels in another format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foveate.api.convert.comparison import compare_tables
from foveate.data.boxes import revalidate_boxes
from foveate.data.formats import FORMATS, Format, choose_format, read_table, writable, writer
from foveate.data.issues import IssueLog
from foveate.errors import BrokenImage, DataError, UsageError
from foveate.images.codec import read_size
from foveate.messages import counted
from foveate.predictions import IGNORE_INDEX, Boxes, Labels, Number, Regions, Text
from foveate.types import Issue, IssueKind, Sample, Split, Table, remark
from foveate.utils import log
from foveate.utils.files import atomic_write, require_free
from foveate.utils.invocation import shell_command
from foveate.utils.paths import printable

_SPLITS: tuple[Split | None, ...] = ("train", "val", "test", None)
_UNREADABLE = IssueKind("unreadable_images_skipped", "unreadable images, skipped", "error", "files")
_UNREADABLE_MASK = IssueKind(
    "unreadable_masks_skipped", "images whose mask cannot be read, skipped", "error", "files"
)
_KINDS: dict[type, str] = {
    Labels: "labels",
    Boxes: "boxes",
    Regions: "masks",
    Number: "numbers",
    Text: "captions",
}


@dataclass(frozen=True)
class ConvertResult:
    """A converted dataset.

    Attributes:
        folder: The new folder.
        format: Its format.
        kind: What is annotated: "labels", "boxes", "masks", "numbers" or "captions".
        images: Number of images by split.
        counts: By class, in the order of the classes: how many images have the label, how many
            boxes there are, or how many masks have pixels of it. Empty without classes.
        notes: Problems of the data, and what is lost.
        command: The command to go on with.
    """

    folder: Path
    format: str
    kind: str
    images: dict[str, int]
    counts: dict[str, int]
    notes: tuple[str, ...] = field(default=())
    command: str = ""

    def numbers(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "format": self.format,
            "images": self.images,
            self.kind: self.counts,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        splits = ", ".join(f"{count} {split}" for split, count in self.images.items())
        images = counted(sum(self.images.values()), "image", "images")
        what = self.kind
        if self.counts:
            boxes = counted(sum(self.counts.values()), "box", "boxes")
            classes = counted(len(self.counts), "class", "classes")
            what = f"{boxes if self.kind == 'boxes' else self.kind} of {classes}"
        return [
            f"{self.folder}: {images} ({splits}), {what}, read back and compared",
            f"next: {self.command}",
        ]


def read_data(data: Path, to: str, out: Path, format: str, allow_outside: bool) -> Table:
    """Read the data to convert.

    Raises:
        UsageError: The target cannot be written, or cannot hold these data.
        DataError: The data cannot be read.
    """
    target = writer(to)
    require_separate_folder(data, out)
    table = read_table(data, format, target.writes, allow_outside=allow_outside)
    _require_target(table, to, target)
    if format == "auto":
        images = counted(len(table.samples), "image", "images")
        classes = counted(len(table.classes), "class", "classes")
        log.choice("format", table.format, f"{images}, {classes}" if table.classes else images)
    return _readable(table)


def write_dataset(table: Table, to: str, out: Path) -> ConvertResult:
    """Write the data, and read it back; keep it only if it is the same.

    Raises:
        UsageError: The target cannot hold these data.
        DataError: What was written is not the same.
    """
    target, kind = writer(to), type(table.samples[0].target)
    reader = target.read_as.get(kind, to)
    with atomic_write(out) as partial:
        partial.mkdir()
        notes = (*table.notes, *_painted_notes(table), *target.write(table, partial))
        again = _read_back(reader, partial, out)
        notes += compare_tables(table, again, out)
        command = shell_command("fit", out, *_format_option(reader, partial))
        images, counts = count_by_split(again), count_by_class(again)
    for note in notes:
        log.warning(note)
    texts = tuple(map(str, notes))
    return ConvertResult(out, to, _KINDS[kind], images, counts, texts, command)


def require_separate_folder(data: Path, out: Path) -> None:
    require_free(out, hint="name another folder")
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise UsageError(
            "the new folder would lie in the data",
            where=out,
            hint="name a folder beside it; the data are never changed",
        )


def _require_target(table: Table, to: str, target: Format) -> None:
    """Refuse data whose targets the format does not write."""
    if not table.samples:
        raise UsageError("there is no image to convert", where=table.root)
    types = {type(sample.target) for sample in table.samples}
    if types <= set(target.writes):
        return
    (kind, *_) = types - set(target.writes)
    named = _KINDS.get(kind, "no labels")
    written = ", ".join(_KINDS[each] for each in target.writes)
    others = ", ".join(writable(kind)) if kind in _KINDS else ""
    raise UsageError(
        f"the format {to!r} holds {written}, and these data have {named}",
        where=printable(table.root),
        why=f"they are read as {FORMATS.get(table.format).summary}",
        hint=f"convert them to one of: {others}; or name another format of the data with --format"
        if others
        else "name another format of the data with --format",
    )


def _readable(table: Table) -> Table:
    """Drop unreadable images and masks, and clip boxes to the actual size of each image.

    Annotations may state other sizes.
    """
    issues, samples = IssueLog(), list[Sample]()
    for sample in table.samples:
        try:
            size = read_size(sample.source)
        except BrokenImage:
            issues.add(_UNREADABLE, sample.key)
            continue
        if isinstance(sample.target, Boxes):
            boxes, problems = revalidate_boxes(sample.target, size)
            for problem, count in problems.items():
                issues.add(problem, sample.key, count)
            sample = replace(sample, target=boxes)
        elif isinstance(sample.target, Regions):
            try:
                sample.target.mask  # noqa: B018  # a mask that cannot be read is found now
            except BrokenImage as error:
                issues.add(_UNREADABLE_MASK, sample.key, why=error.why or error.what)
                continue
        samples.append(sample)
    if not samples:
        raise DataError(
            "none of the images can be read",
            where=printable(table.root),
            why="; ".join(map(str, issues.issues())),
        )
    return replace(table, samples=tuple(samples), notes=(*table.notes, *issues.issues()))


def _read_back(reader: str, partial: Path, out: Path) -> Table:
    """Read what was written. Raises DataError naming `out` if that fails."""
    try:
        return read_table(partial, reader)
    except DataError as error:
        why = str(error).replace(str(partial), str(out))
        raise DataError(
            "what was written could not be read again, so nothing was kept",
            where=printable(out),
            why=why,
            hint="choose another format with --to",
        ) from None


def _painted_notes(table: Table) -> tuple[Issue, ...]:
    if not FORMATS.get(table.format).is_painted:
        return ()
    text = (
        "objects become areas of their classes: which pixels belong to which object is lost, and so"
        " are keypoints, and which areas are crowds"
    )
    return (remark("objects_unsupported", text),)


def _format_option(reader: str, folder: Path) -> tuple[str, ...]:
    """The option that reads a folder in a format; none where it is read so without."""
    try:
        is_clear = choose_format(folder) == reader
    except DataError:
        is_clear = False
    return () if is_clear else ("--format", reader)


def count_by_split(table: Table) -> dict[str, int]:
    splits = Counter(sample.split for sample in table.samples)
    return {split or "no split": splits[split] for split in _SPLITS if splits[split]}


def count_by_class(table: Table) -> dict[str, int]:
    """Count the boxes, labels, or masks with pixels of each class."""
    names = Counter[str]()
    for sample in table.samples:
        target = sample.target
        if isinstance(target, Boxes | Labels):
            names.update(target.names)
        elif isinstance(target, Regions):
            pixels = np.bincount(target.mask.ravel() - IGNORE_INDEX)[-IGNORE_INDEX:]
            names.update(table.classes[index] for index in np.flatnonzero(pixels))
    return {name: names[name] for name in table.classes}
