"""convert DATA: the same images and boxes in another format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foveate.data.boxes import revalidate_boxes
from foveate.data.formats import Format, read_table, writer
from foveate.data.issues import IssueLog
from foveate.errors import BrokenImage, DataError, UsageError
from foveate.images.codec import read_size
from foveate.messages import counted
from foveate.predictions import Boxes
from foveate.types import Issue, IssueKind, Split, Table, remark
from foveate.utils import log
from foveate.utils.files import atomic_write, require_free
from foveate.utils.invocation import shell_command

_SPLITS: tuple[Split | None, ...] = ("train", "val", "test", None)
_UNREADABLE = IssueKind("unreadable_images_skipped", "unreadable images, skipped", "error", "files")


@dataclass(frozen=True)
class ConvertResult:
    """A converted dataset.

    Attributes:
        folder: The new folder.
        format: Its format.
        images: Number of images by split.
        boxes: Number of boxes by class, in the order of the classes.
        notes: Problems of the data.
    """

    folder: Path
    format: str
    images: dict[str, int]
    boxes: dict[str, int]
    notes: tuple[str, ...] = field(default=())

    def numbers(self) -> dict[str, Any]:
        counts = {"images": self.images, "boxes": self.boxes}
        return {
            "folder": str(self.folder),
            "format": self.format,
            **counts,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        splits = ", ".join(f"{count} {split}" for split, count in self.images.items())
        images = counted(sum(self.images.values()), "image", "images")
        boxes = counted(sum(self.boxes.values()), "box", "boxes")
        classes = counted(len(self.boxes), "class", "classes")
        return [
            f"{self.folder}: {images} ({splits}), {boxes} of {classes}, read back and counted",
            f"next: {shell_command('fit', self.folder)}",
        ]


def read_boxes(data: Path, to: str, out: Path, format: str, allow_outside: bool) -> Table:
    """Read the data to convert.

    Raises:
        UsageError: It has no boxes, or the target cannot be written.
    """
    writer(to)
    require_separate_folder(data, out)
    table = fit_boxes(read_table(data, format, allow_outside=allow_outside))
    if format == "auto":
        images = counted(len(table.samples), "image", "images")
        classes = counted(len(table.classes), "class", "classes")
        log.choice("format", table.format, f"{images}, {classes}")
    return table


def write_dataset(table: Table, to: str, out: Path) -> ConvertResult:
    """Write the data, and read it back; keep it only if it holds the same boxes."""
    target = writer(to)
    with atomic_write(out) as partial:
        partial.mkdir()
        notes = (*table.notes, *target.write(table, partial))
        again = read_back(target, partial, out)
        notes += lost_masks(table, again)
        require_same_boxes(table, again)
    for note in notes:
        log.warning(note)
    return ConvertResult(out, to, *count_by_split_and_class(again), tuple(map(str, notes)))


def require_separate_folder(data: Path, out: Path) -> None:
    require_free(out, hint="name another folder")
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise UsageError(
            "the new folder would lie in the data",
            where=out,
            hint="name a folder beside it; the data are never changed",
        )


def fit_boxes(table: Table) -> Table:
    """Drop unreadable images, and clip boxes to the actual size of each image.

    Annotations may state other sizes.
    """
    issues, samples = IssueLog(), []
    if not table.samples:
        raise UsageError("there is no image to convert", where=table.root)
    for sample in table.samples:
        if not isinstance(sample.target, Boxes):
            why = f"this is {table.format!r} data, without boxes"
            raise UsageError(
                "only boxes can be converted",
                where=table.root,
                why=why,
                hint="name another format with --format",
            )
        try:
            boxes, problems = revalidate_boxes(sample.target, read_size(sample.source))
        except BrokenImage:
            issues.add(_UNREADABLE, sample.key)
            continue
        for problem, count in problems.items():
            issues.add(problem, sample.key, count)
        samples.append(replace(sample, target=boxes))
    return replace(table, samples=tuple(samples), notes=(*table.notes, *issues.issues()))


def read_back(target: Format, partial: Path, out: Path) -> Table:
    """Read what was written. Raises DataError naming `out` if that fails."""
    try:
        return target.read(partial)
    except DataError as error:
        why = str(error)
        raise DataError(
            "what was written cannot be read again",
            where=out,
            why=why,
            hint="a bug: please report it",
        ) from None


def require_same_boxes(table: Table, again: Table) -> None:
    """Raise DataError if the boxes differ; splits may: in YOLO every image has one."""
    (_, before), (_, after) = count_by_split_and_class(table), count_by_split_and_class(again)
    if (
        before != after
        or table.classes != again.classes
        or len(table.samples) != len(again.samples)
    ):
        why = f"boxes before: {before}, after: {after}"
        raise DataError(
            "the new data would not hold the same boxes",
            where=again.root,
            why=why,
            hint="a bug: please report it",
        )


def lost_masks(table: Table, again: Table) -> tuple[Issue, ...]:
    before, after = (
        sum(len(getattr(sample.target, "masks", None) or ()) for sample in each.samples)
        for each in (table, again)
    )
    text = "{count:mask|masks} of objects not written: in this format Foveate writes boxes only"
    return (remark("masks_unsupported", text, count=before - after),) if before > after else ()


def count_by_split_and_class(table: Table) -> tuple[dict[str, int], dict[str, int]]:
    """Return the number of images by split, and of boxes by class."""
    splits = Counter(sample.split for sample in table.samples)
    names = Counter(
        name
        for sample in table.samples
        if isinstance(sample.target, Boxes)
        for name in sample.target.names
    )
    by_split: dict[str, int] = {
        split or "no split": splits[split] for split in _SPLITS if splits[split]
    }
    return by_split, {name: names[name] for name in table.classes}
