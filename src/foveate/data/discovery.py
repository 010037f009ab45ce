"""What lies under a folder: pictures in the order of their names, and all that a listing passes over.

Nothing is opened but folders, and of what lies directly in one the names are held, never more.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from foveate.data.issues import IssueKind, IssueLog, skip_and_record
from foveate.errors import DataError, UsageError
from foveate.utils.paths import did_you_mean_path, printable

EXTENSIONS = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".ppm",
        ".pgm",
        ".pbm",
    }
)
_CLUTTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir"})
_FOREIGN = frozenset(
    {
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".tga",
        ".psd",
        ".exr",
        ".hdr",
        ".svg",
        ".dcm",
        ".nii",
    }
    | {".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2"}
)
_ENDINGS = 100  # different endings that are counted apart

UNLISTED = IssueKind(
    "this folder cannot be listed", "error", "files", "chmod u+rx the folder, or leave it out"
)
LOOP = IssueKind("links that lead back to a folder above them, not followed", "note", "files")
AGAIN = IssueKind(
    "links to another folder of the same data: its pictures are there twice",
    "warning",
    "files",
    "remove them",
)
BROKEN_LINK = IssueKind(
    "links that lead nowhere", "warning", "files", "copy what they should lead to, or remove them"
)
OUTSIDE = IssueKind(
    "links that lead out of the folder: a copy of it would lack these files", "note", "files"
)
SPECIAL = IssueKind("pipes, sockets and devices, passed over", "warning", "files", "remove them")
CLUTTER = IssueKind("hidden files and the clutter of file managers, left out", "note", "files")
FOREIGN = IssueKind(
    "pictures in formats that are not read, left out",
    "warning",
    "files",
    "save them as JPEG or PNG",
)
NOT_UTF8 = IssueKind("names that are not UTF-8: their bytes are written as \\xNN", "note", "files")


def is_image(path: Path) -> bool:
    """Whether the name ends like a picture's; the file is not opened."""
    return path.suffix.lower() in EXTENSIONS


def find_images(folder: Path) -> Iterator[Path]:
    """The pictures under `folder`, at any depth, in the order of their names. Raises DataError for an unreadable folder."""
    return (path for path in find_files(folder) if is_image(path))


def find_files(folder: Path) -> Iterator[Path]:
    """Every regular file under `folder` in the order of names; hidden ones and the clutter of file managers are left out."""
    return _walk(folder, set())


def holds_images(folder: Path) -> bool:
    """Whether there is a picture under `folder`: nothing is listed beyond the first. Raises DataError for an unreadable folder."""
    return _holds(folder, set())


def listed(folder: Path) -> list[Path]:
    """What lies directly in `folder`, sorted by name, without hidden entries. Raises DataError when it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return [
                folder / name
                for name in sorted(entry.name for entry in entries)
                if not _hidden(name)
            ]
    except OSError as error:
        raise _unlisted(folder, error) from None


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _unlisted(folder: Path | str, error: OSError) -> DataError:
    return DataError(
        UNLISTED, where=printable(folder), why=error.strerror or str(error), hint=UNLISTED.hint
    )


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    names, folders = list[str](), set[str]()
    with skip_and_record():
        for name, is_folder in _scanned(folder, seen):
            names.append(name)
            folders.update([name] if is_folder else [])
    names.sort()
    for name in names:
        if name in folders:
            yield from _walk(folder / name, seen)
        else:
            yield folder / name


def _holds(folder: Path, seen: set[tuple[int, int]]) -> bool:
    inner = []
    with skip_and_record():
        for name, is_folder in _scanned(folder, seen):
            if not is_folder and is_image(Path(name)):
                return True
            inner += [folder / name] if is_folder else []
    return any(_holds(each_, seen) for each_ in sorted(inner))


def _scanned(folder: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """Regular files and folders, as the disk gives them: the name, and whether it is a folder. Nothing of one that was seen."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = (
                    not _hidden(entry.name) and _says(entry.is_dir) and not _leads_back(entry)
                )
                if is_folder or (not _hidden(entry.name) and _says(entry.is_file)):
                    yield entry.name, is_folder
    except OSError as error:
        raise _unlisted(folder, error) from None


def _leads_back(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to a folder that it lies in: what is below would be taken for part of it."""
    return entry.is_symlink() and Path(os.path.realpath(Path(entry.path).parent)).is_relative_to(
        os.path.realpath(entry.path)
    )


def _says(question: Callable[[], bool]) -> bool:
    """False where a link runs in a circle, or the disk does not answer."""
    try:
        return question()
    except OSError:
        return False


# --- all of it, counted


@dataclass
class Inventory:
    """What lies under a folder, hidden entries aside. `endings`: how many files have each; `odd` is noted in findings."""

    files: int = 0
    folders: int = 0
    images: int = 0
    endings: Counter[str] = field(default_factory=Counter)


def inventory(
    root: Path, found: IssueLog, advance: Callable[[int], None] = lambda count: None
) -> Inventory:
    """Counts all that lies under `root`, and adds to `found` what a listing passes over in silence. Only folders that are still to
    be looked into are held in memory, however many files there are."""
    counted, top = Inventory(), Path(os.path.realpath(root))
    waiting, seen = [str(root)], {_identity(str(root))}
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    _count(entry, root, top, counted, found, waiting, seen)
                    if counted.files % 1000 == 0:
                        advance(counted.files)
        except OSError as error:
            found.refused(_unlisted(folder, error))
    return counted


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except (
        UnicodeEncodeError
    ):  # bytes that could not be read as UTF-8 stand there as lone surrogates
        return False
    return True


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _count(
    entry: os.DirEntry[str],
    root: Path,
    top: Path,
    counted: Inventory,
    found: IssueLog,
    waiting: list[str],
    seen: set[tuple[int, int]],
) -> None:
    key = printable(entry.path[len(str(root)) :].lstrip("/\\"))
    if not _is_utf8(entry.name):
        found.add(NOT_UTF8, key)
    if _hidden(entry.name):
        found.add(CLUTTER, key)
        return
    if entry.is_symlink() and not _leads_on(entry, key, top, found):
        return
    if _says(entry.is_dir):
        counted.folders += 1
        if (identity := _identity(entry.path)) not in seen:
            seen.add(identity)
            waiting.append(entry.path)
    elif _says(entry.is_file):
        _count_file(entry.name, key, counted, found)
    else:
        found.add(SPECIAL, key)


def _leads_on(entry: os.DirEntry[str], key: str, top: Path, found: IssueLog) -> bool:
    """Whether a link leads to something that is not counted anyway; where it leads is noted."""
    target = Path(os.path.realpath(entry.path))
    if not (_says(entry.is_dir) or _says(entry.is_file) or target.exists()):
        found.add(BROKEN_LINK, key, why=printable(Path(entry.path).readlink()))
        return False
    if not target.is_relative_to(top) and not _leads_back(entry):
        found.add(OUTSIDE, key, why=printable(target))
    elif _says(entry.is_dir):
        found.add(LOOP if _leads_back(entry) else AGAIN, key, why=printable(target))
        return False
    return True


def _count_file(name: str, key: str, counted: Inventory, found: IssueLog) -> None:
    ending = (
        f".{name.rpartition('.')[2].lower()}" if "." in name else ""
    )  # a Path would leave the names of all files interned
    counted.files += 1
    counted.images += ending in EXTENSIONS
    if ending in counted.endings or len(counted.endings) < _ENDINGS:
        counted.endings[ending] += 1
    if ending in _FOREIGN:
        found.add(FOREIGN, key, why=ending)


def images_at(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are named, folders with all pictures in them. Raises UsageError for a path that is not there, and for a folder
    without pictures."""
    for place in paths:
        if place.is_dir():
            found = list(find_images(place))
            if not found:
                raise UsageError("there are no pictures in this folder", where=place)
            yield from found
        elif place.exists():
            yield place
        else:
            hint = did_you_mean_path(place) or "give images or folders of images"
            raise UsageError("there is nothing at this path", where=place, hint=hint)
