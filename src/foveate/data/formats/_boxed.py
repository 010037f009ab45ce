"""What the formats of boxes share: images and their raw boxes -> a Table, and a Table -> a folder of images to describe."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from foveate.data.boxes import Raw, class_name, cleaned, printed
from foveate.data.issues import IssueKind, IssueLog, is_collecting, issue_log
from foveate.data.records import without_split
from foveate.errors import BrokenImage, DataError, UsageError
from foveate.images.codec import read_size
from foveate.predictions import Boxes
from foveate.types import Sample, Split, Table
from foveate.utils.paths import printable

MISSING = IssueKind("images that are missing, dropped with their boxes", "error")
UNREADABLE = IssueKind("images whose size cannot be read, dropped with their boxes", "error", "files")
OTHER_SIZE = IssueKind(
    "images whose annotations state another size than they have",
    "warning",
    hint="were they drawn before the image was resized, or turned by EXIF? boxes must be those of the upright image",
)
TWICE = IssueKind("images that are named twice, kept as named first", "warning")
NO_BOX = IssueKind("objects without a box, dropped", "error")
CLASSES = "classes.txt"

_IMAGE_FOLDERS = frozenset({"images", "jpegimages"})


# --- reading


@dataclass
class Gathering:
    """Collects the images of a data set, their boxes audited; what was met on the way becomes the notes.

    `root`: keys count from here; an image outside has its full path as key.
    """

    root: Path
    findings: IssueLog = field(default_factory=issue_log)
    notes: list[str] = field(default_factory=list)
    samples: dict[str, Sample] = field(default_factory=dict)
    stated: int = 0  # boxes, before the audit

    def take(
        self,
        path: Path,
        raw: Raw,
        split: Split | None = None,
        group: str | None = None,
        stated: tuple[int, int] | None = None,
    ) -> None:
        """An image and its boxes in pixels. `stated`: its (H, W) if the annotations say; else the head of the file does."""
        key = self.key(path)
        if key in self.samples:
            self.findings.add(TWICE, key)
            return
        if is_collecting() and stated is not None:
            self._compare(path, key, stated)
        outlined = any(
            raw.masks
        )  # a mask must be of the picture's own size, whatever the annotations say
        measured = (
            self.measured(path) if stated is None or outlined or not is_there(path) else stated
        )
        if outlined and stated not in (None, measured):
            raw.masks.clear()
        if measured is not None:
            self.stated += len(raw.names)
            boxes, problems = cleaned(raw, measured)
            for problem, count in problems.items():
                self.findings.add(problem, key, count)
            self.samples[key] = Sample(Path(os.path.normpath(path)), key, boxes, split, group)

    def _compare(self, path: Path, key: str, stated: tuple[int, int]) -> None:
        """Whether the annotations speak of the image as it is. One that cannot be read is found when it is opened."""
        with suppress(BrokenImage):
            height, width = read_size(path)
            if (height, width) != stated:
                self.findings.add(
                    OTHER_SIZE,
                    key,
                    why=f"{stated[1]} x {stated[0]} px stated, {width} x {height} px",
                )

    def measured(self, path: Path) -> tuple[int, int] | None:
        """The (H, W) of an image; None, and counted, when it is missing or broken."""
        if not is_there(path):
            self.findings.add(MISSING, self.key(path))
            return None
        try:
            return read_size(path)
        except BrokenImage as error:
            self.findings.add(UNREADABLE, self.key(path), why=error.why or error.what)
        return None

    def key(self, path: Path) -> str:
        path, root = Path(os.path.normpath(path)), Path(os.path.normpath(self.root))
        return printable(path.relative_to(root) if path.is_relative_to(root) else path)

    def table(self, classes: Iterable[str], format: str) -> Table:
        """Raises DataError when no image, no class, or of many boxes not one is left."""
        samples = tuple(self.samples[key] for key in sorted(self.samples))
        self.notes += without_split(samples)
        notes, names = (*self.notes, *self.findings.notes()), tuple(dict.fromkeys(classes))
        where = printable(self.root)
        if not samples:
            why = "; ".join(notes) or "no image is named"
            raise DataError(
                "there are no images with boxes here",
                where=where,
                why=why,
                hint="check where the images lie",
            )
        if self.stated and not any(
            isinstance(sample.target, Boxes) and sample.target.names for sample in samples
        ):
            hint = "are the numbers pixels or fractions, as this format wants them?"
            raise DataError(
                "not one of the boxes can be used", where=where, why="; ".join(notes), hint=hint
            )
        if not names:
            raise DataError(
                "there are no classes here",
                where=where,
                why=f"{len(samples)} images, not one object in them",
            )
        return Table(samples=samples, classes=names, format=format, root=self.root, notes=notes)


def is_there(path: Path) -> bool:
    """Whether a file is there; False, too, for what no file could be called (too long a name, say)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def classes_beside(folder: Path, used: Iterable[str], notes: list[str]) -> list[str]:
    """The classes in the order of classes.txt if `folder` has one, then the rest that are used, sorted."""
    listed = folder / CLASSES
    found = sorted(set(used))
    if not listed.is_file():
        return found
    try:
        stated = [class_name(line) for line in listed.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = str(error)
        raise DataError(
            "this list of classes cannot be read",
            where=printable(listed),
            why=why,
            hint="save it in UTF-8",
        ) from None
    extra = [name for name in found if name not in set(stated)]
    notes += [
        f"the class {name!r} is not in {CLASSES}: put behind those that are" for name in extra
    ]
    return [name for name in (*stated, *extra) if name]


# --- writing


@dataclass(frozen=True)
class Placed:
    """An image in its new folder. `place`: below the folder of images. `size`: (H, W). `boxes` are those of the sample."""

    sample: Sample
    place: PurePosixPath
    size: tuple[int, int]
    boxes: Boxes

    def rows(self) -> Iterator[tuple[list[float], str, bool]]:
        """x0, y0, x1, y1; the class; whether it is a crowd."""
        crowd = (
            [False] * len(self.boxes.names)
            if self.boxes.crowd is None
            else self.boxes.crowd.tolist()
        )
        return zip(self.boxes.xyxy.tolist(), self.boxes.names, crowd, strict=True)


def copied(table: Table, folder: Path, notes: list[str]) -> list[Placed]:
    """Copies the images of a table below `folder` under their keys, and tells where they went.

    No two share a name without its ending, because labels go by it. A key never leads out of `folder`. Raises UsageError
    when the table holds no boxes.
    """
    gathering, placed = Gathering(table.root), []
    places = _places([sample.key for sample in table.samples], notes)
    for sample in table.samples:
        if not isinstance(sample.target, Boxes):
            why = f"this is {table.format!r} data without boxes"
            raise UsageError("only boxes can be written", where=printable(table.root), why=why)
        measured = gathering.measured(sample.path)
        if measured is not None:
            target = folder / places[sample.key]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sample.path, target)
            placed.append(Placed(sample, places[sample.key], measured, sample.target))
    notes += gathering.findings.notes()
    return placed


def _places(keys: list[str], notes: list[str]) -> dict[str, PurePosixPath]:
    """Key -> a relative path of its own. A folder `images` that all share is left out, so that it does not pile up."""
    parts = {key: _safe_parts(key) for key in keys}
    heads = {names[0].casefold() if len(names) > 1 else "" for names in parts.values()}
    if len(heads) == 1 and heads <= _IMAGE_FOLDERS:
        parts = {key: names[1:] for key, names in parts.items()}
    taken: set[str] = set()
    places, renamed = {}, IssueLog()
    for key, names in parts.items():
        wanted = PurePosixPath(*names)
        place = _free(wanted, taken)
        taken.add(_stem_of(place))
        places[key] = place
        if place != wanted:
            renamed.add(
                "images renamed, because another one has the same name without its ending", key
            )
    notes += renamed.notes()
    return places


def _safe_parts(key: str) -> list[str]:
    """The folders and the name in a key, without what would lead elsewhere: '/data/../a.jpg' -> ['data', 'a.jpg'].

    Hidden files would not be found again, so they are hidden no more.
    """
    parts = [
        printed(re.sub(r"^\.", "_", part)) for part in key.split("/") if part not in ("", ".", "..")
    ]
    return parts[1:] if re.fullmatch("[A-Za-z]:", parts[0]) else parts


def _free(place: PurePosixPath, taken: set[str]) -> PurePosixPath:
    """`place`, or a.png -> a-png.png, a-png-2.png, ... until no other image has the stem."""
    tries = [place.stem, f"{place.stem}-{place.suffix[1:]}"]
    for number in range(len(taken) + 3):
        stem = tries[number] if number < len(tries) else f"{tries[1]}-{number}"
        free = place.with_name(stem + place.suffix)
        if _stem_of(free) not in taken:
            return free
    raise AssertionError("more tries than names")


def _stem_of(place: PurePosixPath) -> str:
    """Folded, for file systems that do not tell cases apart."""
    return str(place.with_suffix("")).casefold()


def lost(table: Table, crowd: str = "", group: bool = False, split: str = "") -> list[str]:
    """Notes on what a format cannot hold and this table has: `crowd`, `split`: what becomes of it; `group`: it is lost."""
    crowds = sum(
        int(s.target.crowd.sum())
        for s in table.samples
        if isinstance(s.target, Boxes) and s.target.crowd is not None
    )
    groups = sum(sample.group is not None for sample in table.samples)
    unsplit = sum(sample.split is None for sample in table.samples)
    notes = (
        [f"{crowds} boxes are marked as a crowd, which this format cannot hold: {crowd}"]
        if crowds and crowd
        else []
    )
    notes += (
        [f"{groups} images have a group, which this format cannot hold: lost"]
        if groups and group
        else []
    )
    return notes + (
        [f"{unsplit} images have no split, which this format cannot hold: {split}"]
        if unsplit and split
        else []
    )


def write_classes(table: Table, folder: Path) -> None:
    """The class names in order, a line each; also those that no box has."""
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in table.classes), encoding="utf-8")
