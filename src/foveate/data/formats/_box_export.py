"""Shared by the formats of boxes that can be written: copies the images of a Table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from foveate.data.boxes import replace_unprintable
from foveate.data.formats._box_table import CLASSES, BoxTableBuilder
from foveate.data.issues import IssueLog
from foveate.errors import UsageError
from foveate.images.codec import usual_extension
from foveate.predictions import Boxes
from foveate.types import Issue, IssueKind, Sample, Table, remark
from foveate.utils.paths import printable

_RENAMED = IssueKind(
    "image_renamed",
    "images that were renamed because another one has the same name except for the extension",
)
_IMAGE_FOLDERS = frozenset({"images", "jpegimages"})


@dataclass(frozen=True)
class CopiedImage:
    """An image in the new folder.

    Attributes:
        sample: The original.
        path: The copy, relative to the folder of images.
        size: (H, W).
        boxes: The objects of the sample.
    """

    sample: Sample
    path: PurePosixPath
    size: tuple[int, int]
    boxes: Boxes

    def objects(self) -> Iterator[tuple[list[float], str, bool]]:
        """Yield [x0, y0, x1, y1], the class, and whether it is a crowd."""
        boxes = self.boxes
        crowd = [False] * len(boxes.names) if boxes.crowd is None else boxes.crowd.tolist()
        return zip(boxes.xyxy.tolist(), boxes.names, crowd, strict=True)


def copy_images(table: Table, folder: Path, notes: list[Issue]) -> list[CopiedImage]:
    """Copy the images of a table below `folder`, under their keys.

    No two have the same name without extension, because label files are named by it, and no key
    leads out of `folder`.

    Args:
        table: The dataset.
        folder: Where images are written.
        notes: Notes on missing and renamed images are added here.

    Raises:
        UsageError: The table has no boxes.
    """
    builder, copies = BoxTableBuilder(table.root), []
    paths = _unique_paths([sample.key for sample in table.samples], notes)
    for sample in table.samples:
        if not isinstance(sample.target, Boxes):
            raise UsageError(
                "only datasets with boxes can be written",
                where=printable(table.root),
                why=f"this is {table.format!r} data, without boxes",
            )
        size = builder.measure(sample.path, sample.key)
        if size is not None:
            path = _copy_image(sample.source, folder, paths[sample.key])
            copies.append(CopiedImage(sample, path, size, sample.target))
    notes += builder.log.issues()
    return copies


def _copy_image(source: Path | bytes, folder: Path, path: PurePosixPath) -> PurePosixPath:
    """Write an image, and return its path in the folder; one without an extension gets it."""
    if not path.suffix:
        extension = source.suffix if isinstance(source, Path) else usual_extension(source)
        path = path.with_name(f"{path.name}{extension}")
    copy = folder / path
    copy.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        copy.write_bytes(source)
    else:
        shutil.copyfile(source, copy)
    return path


def _unique_paths(keys: list[str], notes: list[Issue]) -> dict[str, PurePosixPath]:
    """A relative path for each key.

    A folder `images` that all of them share is left out: the copies are put into one anyway.
    """
    parts = {key: _safe_parts(key) for key in keys}
    tops = {names[0].casefold() if len(names) > 1 else "" for names in parts.values()}
    if len(tops) == 1 and tops <= _IMAGE_FOLDERS:
        parts = {key: names[1:] for key, names in parts.items()}
    taken: set[str] = set()
    paths, renamed = {}, IssueLog()
    for key, names in parts.items():
        wanted = PurePosixPath(*names)
        path = _free_path(wanted, taken)
        taken.add(_folded_stem(path))
        paths[key] = path
        if path != wanted:
            renamed.add(_RENAMED, key)
    notes += renamed.issues()
    return paths


def _safe_parts(key: str) -> list[str]:
    """The folders and the name in a key, without what leads elsewhere.

    '/data/../a.jpg' -> ['data', 'a.jpg']. Hidden files would not be found again: '.a' -> '_a'.
    """
    parts = [
        replace_unprintable(re.sub(r"^\.", "_", part))
        for part in key.replace(".parquet#", "/").split("/")  # of images in a Parquet file
        if part not in ("", ".", "..")
    ]
    return parts[1:] if re.fullmatch("[A-Za-z]:", parts[0]) else parts


def _free_path(path: PurePosixPath, taken: set[str]) -> PurePosixPath:
    """The path, or a.png -> a-png.png, a-png-2.png, ... until no other image has the stem."""
    stems = [path.stem, f"{path.stem}-{path.suffix[1:]}"]
    for number in range(len(taken) + 3):
        stem = stems[number] if number < len(stems) else f"{stems[1]}-{number}"
        candidate = path.with_name(stem + path.suffix)
        if _folded_stem(candidate) not in taken:
            return candidate
    raise AssertionError("there are more candidates than taken names")


def _folded_stem(path: PurePosixPath) -> str:
    """Without regard to case, as some file systems compare names."""
    return str(path.with_suffix("")).casefold()


def unsupported_notes(
    table: Table, crowd: str = "", group: bool = False, split: str = ""
) -> list[Issue]:
    """Return notes on what a table has and a format cannot represent.

    Args:
        table: The dataset.
        crowd: What happens to crowds, if the format does not support them.
        group: Whether groups are lost.
        split: What happens to images without a split, if the format does not support them.
    """
    crowds = sum(
        int(sample.target.crowd.sum())
        for sample in table.samples
        if isinstance(sample.target, Boxes) and sample.target.crowd is not None
    )
    groups = sum(sample.group is not None for sample in table.samples)
    unsplit = sum(sample.split is None for sample in table.samples)
    notes = []
    if crowds and crowd:
        text = "{count:crowd box|crowd boxes}, which the format does not support: {outcome}"
        notes.append(remark("crowds_unsupported", text, count=crowds, outcome=crowd))
    if groups and group:
        text = "{count:image|images} with a group, which the format does not support: lost"
        notes.append(remark("groups_unsupported", text, count=groups))
    if unsplit and split:
        text = "{count:image|images} without a split, which the format does not support: {outcome}"
        notes.append(remark("unsplit_unsupported", text, count=unsplit, outcome=split))
    return notes


def write_classes(table: Table, folder: Path) -> None:
    """Write classes.txt: all class names in order, one per line."""
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in table.classes), encoding="utf-8")
