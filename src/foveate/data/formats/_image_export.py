"""Shared by the formats that can be written: copies the images of a Table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from foveate.data.boxes import replace_unprintable
from foveate.data.discovery import EXTENSIONS, extension_of
from foveate.data.formats._box_table import CLASSES
from foveate.data.issues import IssueLog
from foveate.data.survey import MASK_SUFFIX
from foveate.errors import UsageError
from foveate.images.codec import read_size, usual_extension
from foveate.messages import counted
from foveate.predictions import Boxes, Labels, Regions
from foveate.types import Issue, IssueKind, Sample, StoredImage, Table
from foveate.utils.paths import printable

_RENAMED = IssueKind(
    "image_renamed",
    "images that were renamed because another one has the same name except for the extension",
)
_LIKE_MASK = IssueKind(
    "image_renamed_from_mask",
    "images that were renamed because they would be taken for masks of others",
)
_UNUSUAL = IssueKind(
    "image_renamed_unusual",
    "images that were renamed because not every program can use their names",
)
_MAX_BYTES = 255  # of the name of a file
_LABELS = ".json"  # the longest extension of the files that get the name of an image
_IMAGE_FOLDERS = frozenset({"images", "jpegimages"})
_PART_OF_FILE = re.compile(r"(?:\.\w+)*#")  # scan.nii.gz#0012, train.parquet#000031

Parts = tuple[str, ...]
"""The folders and the name in the path of an image."""
Place = Callable[[Sample, Parts], Parts]
"""Where an image is written, by the parts of its key."""


@dataclass(frozen=True)
class CopiedImage:
    """An image in the new folder.

    Attributes:
        sample: The original.
        path: The copy, relative to the folder of images.
        size: (H, W).
    """

    sample: Sample
    path: PurePosixPath
    size: tuple[int, int]

    @property
    def boxes(self) -> Boxes:
        """The objects of the sample."""
        assert isinstance(self.sample.target, Boxes)
        return self.sample.target

    @property
    def regions(self) -> Regions:
        """The mask of the sample."""
        assert isinstance(self.sample.target, Regions)
        return self.sample.target

    @property
    def drawn(self) -> Labels | Boxes | Regions:
        """What annotation tools show of the sample."""
        assert isinstance(self.sample.target, Labels | Boxes | Regions)
        return self.sample.target

    def objects(self) -> Iterator[tuple[list[float], str, bool]]:
        """Yield [x0, y0, x1, y1], the class, and whether it is a crowd."""
        boxes = self.boxes
        crowd = [False] * len(boxes.names) if boxes.crowd is None else boxes.crowd.tolist()
        return zip(boxes.xyxy.tolist(), boxes.names, crowd, strict=True)


def require_labels(table: Table) -> None:
    """Refuse images without any class, for formats where these are images to be labeled yet.

    Raises:
        UsageError: There are some.
    """
    without = [
        sample.key
        for sample in table.samples
        if isinstance(sample.target, Labels) and not sample.target.names
    ]
    if without:
        raise UsageError(
            "images without any class would be read as images that are not labeled yet",
            where=printable(table.root),
            why=f"{counted(len(without), 'image', 'images')}, such as {without[0]!r}",
            hint="--to table",
        )


def copy_images(
    table: Table, folder: Path, notes: list[Issue], place: Place = lambda sample, parts: parts
) -> list[CopiedImage]:
    """Copy the images of a table below `folder`, under their keys.

    No two have the same name without extension, because label files are named by it, none is called
    like the mask of another one, or so that its name cannot be written, and no key leads out of
    `folder`. A folder `images` that all of
    them share is left out: the copies are put into one anyway.

    Args:
        table: The dataset; all images can be read.
        folder: Where images are written.
        notes: Notes on renamed images are added here.
        place: Returns the parts of the path of an image, without regard to others.
    """
    copies, paths = [], _unique_paths(table.samples, place, notes)
    for sample, path in zip(table.samples, paths, strict=True):
        copied = _copy_image(sample.source, folder, path)
        copies.append(CopiedImage(sample, copied, read_size(sample.source)))
    return copies


def _copy_image(source: Path | bytes, folder: Path, path: PurePosixPath) -> PurePosixPath:
    """Write an image, and return its path in the folder; one without an extension gets it."""
    if isinstance(source, bytes) and extension_of(path.name) not in EXTENSIONS:
        path = path.with_name(f"{path.name}{usual_extension(source)}")
    elif isinstance(source, Path) and not path.suffix:
        path = path.with_name(f"{path.name}{source.suffix}")
    copy = folder / path
    copy.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        copy.write_bytes(source)
    else:
        shutil.copyfile(source, copy)
    return path


def _unique_paths(
    samples: tuple[Sample, ...], place: Place, notes: list[Issue]
) -> list[PurePosixPath]:
    """A relative path for each sample; add a note on those that differ from what is wanted."""
    parts = [_safe_parts(sample) for sample in samples]
    tops = {names[0].casefold() if len(names) > 1 else "" for names in parts}
    if len(tops) == 1 and tops <= _IMAGE_FOLDERS:
        parts = [names[1:] for names in parts]
    stems = {PurePosixPath(names[-1]).stem.casefold() for names in parts}
    taken, paths, renamed = set[str](), list[PurePosixPath](), IssueLog()
    for sample, (*folders, last) in zip(samples, parts, strict=True):
        name = _unlike_mask(last, stems)
        if name != last:
            renamed.add(_LIKE_MASK, sample.key)
        wanted = PurePosixPath(*place(sample, (*folders, name)))
        path = _free_path(wanted, taken)
        taken.add(_folded_stem(path))
        if _is_unusual(sample, last) or _shorten(wanted) != wanted:
            renamed.add(_UNUSUAL, sample.key)
        elif path != wanted:
            renamed.add(_RENAMED, sample.key)
        paths.append(path)
    notes += renamed.issues()
    return paths


def _unlike_mask(name: str, stems: set[str]) -> str:
    """a_mask.png -> a_mask_image.png, if there is another image called a."""
    path = PurePosixPath(name)
    suffix = MASK_SUFFIX.search(path.stem)
    is_like = suffix is not None and path.stem[: suffix.start()].casefold() in stems
    return f"{path.stem}_image{path.suffix}" if is_like else name


def _safe_parts(sample: Sample) -> Parts:
    """The folders and the name in a key, without what leads elsewhere.

    '/data/../a.jpg' -> ('data', 'a.jpg'). Hidden files would not be found again ('.a' -> '_a'), and
    backslashes would be taken for those of Windows.
    """
    is_part = isinstance(sample.path, StoredImage)
    key = _PART_OF_FILE.sub("/", sample.key) if is_part else sample.key
    parts = tuple(
        replace_unprintable(re.sub(r"^\.|\\", "_", part))
        for part in key.split("/")
        if part not in ("", ".", "..")
    )
    return parts[1:] if re.fullmatch("[A-Za-z]:", parts[0]) else parts


def _is_unusual(sample: Sample, name: str) -> bool:
    """Whether the name of an image contains what its copy's must not."""
    return isinstance(sample.path, Path) and sample.key.rpartition("/")[2] != name


def _free_path(path: PurePosixPath, taken: set[str]) -> PurePosixPath:
    """The path, or a.png -> a-png.png, a-png-2.png, ... until no other image has the stem."""
    ends = ["", f"-{path.suffix[1:]}"]
    for number in range(len(taken) + 3):
        end = ends[number] if number < len(ends) else f"{ends[1]}-{number}"
        candidate = _shorten(path, end)
        if _folded_stem(candidate) not in taken:
            return candidate
    raise AssertionError("there are more candidates than taken names")


def _shorten(path: PurePosixPath, end: str = "") -> PurePosixPath:
    """The path with `end` after its stem, which is cut where the name would be too long."""
    room = _MAX_BYTES - len(end.encode()) - max(len(path.suffix.encode()), len(_LABELS))
    stem = path.stem.encode()[: max(room, 1)].decode(errors="ignore")
    return path.with_name(f"{stem}{end}{path.suffix}")


def _folded_stem(path: PurePosixPath) -> str:
    """Without regard to case, as some file systems compare names."""
    return str(path.with_suffix("")).casefold()


def write_classes(table: Table, folder: Path) -> None:
    """Write classes.txt: all class names in order, one per line."""
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in table.classes), encoding="utf-8")
