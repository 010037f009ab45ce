"""The files of a folder: images in the order of their names.

Nothing is opened but folders, and no more names are held in memory than one folder has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from foveate.data.issues import skip_and_record
from foveate.errors import DataError, UsageError
from foveate.images import dicom
from foveate.images.nifti import VOLUME_EXTENSIONS
from foveate.images.readers import ARCHIVE_EXTENSIONS, HEIC_EXTENSIONS, VIDEO_EXTENSIONS
from foveate.images.slides import SLIDE_EXTENSIONS
from foveate.types import IssueKind
from foveate.utils.paths import did_you_mean_path, printable

EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif"),
        *(".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2", ".j2k", ".avif"),
        *HEIC_EXTENSIONS,
        *dicom.EXTENSIONS,
        *VOLUME_EXTENSIONS,
        *SLIDE_EXTENSIONS,
    )
)
_CLUTTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir"})  # of file managers
UNSUPPORTED_EXTENSIONS = frozenset(
    (
        *(".jxl", ".tga", ".psd", ".exr", ".hdr", ".svg"),
        *(".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2"),
    )
)
_OTHER_MEDIA = frozenset((*VIDEO_EXTENSIONS, *ARCHIVE_EXTENSIONS))
_MAX_REMEMBERED = 500_000  # entries of folders, about 100 MB

Found = TypeVar("Found")
Entries = list[tuple[str, bool]]
"""The name of each regular file and folder of a folder, and whether it is a folder."""
Walk = list[tuple[Path, list[str]]]
"""Each folder below a folder, and the sorted names of its files."""


@dataclass
class _FolderMemory:
    """Entries of the folders that were listed, by path, their total number, and the folders below
    them; and what was concluded from them.
    """

    folders: dict[str, Entries] = field(default_factory=dict)
    total: int = 0
    walks: dict[str, Walk] = field(default_factory=dict)
    children: dict[str, list[Path]] = field(default_factory=dict)
    conclusions: dict[object, Any] = field(default_factory=dict)

    def add(self, folder: str, entries: Entries) -> None:
        """Remember a folder, as long as there is room."""
        if self.total + len(entries) <= _MAX_REMEMBERED:
            self.folders[folder], self.total = entries, self.total + len(entries)

    def add_walk(self, root: str, folders: Iterable[tuple[Path, list[str]]]) -> Iterator[Any]:
        """Yield the folders below a folder, and remember them, as long as there is room."""
        walk, entries = Walk(), 0
        for each in folders:
            entries += 1 + len(each[1])
            if self.total + entries <= _MAX_REMEMBERED:
                walk.append(each)
            yield each
        if self.total + entries <= _MAX_REMEMBERED:
            self.walks[root], self.total = walk, self.total + entries

    def add_children(self, folder: str, children: list[Path]) -> None:
        """Remember what is in a folder itself, as long as there is room."""
        if self.total + len(children) <= _MAX_REMEMBERED:
            self.children[folder], self.total = children, self.total + len(children)


_memory: ContextVar[_FolderMemory | None] = ContextVar("folder_memory", default=None)

UNLISTABLE = IssueKind(
    "unlistable_folder",
    "the folder cannot be listed",
    "error",
    "files",
    "run chmod u+rx on the folder, or leave it out",
)


@contextmanager
def remember_folders() -> Iterator[None]:
    """List each folder once, however many formats look at it; for as long as nothing changes."""
    if _memory.get() is not None:
        yield
        return
    token = _memory.set(_FolderMemory())
    try:
        yield
    finally:
        _memory.reset(token)


def remember(key: object, conclude: Callable[[], Found]) -> Found:
    """Return `conclude()`; inside `remember_folders` it is called only once for a key.

    Raises:
        DataError: `conclude` raised it, now or before.
    """
    memory = _memory.get()
    if memory is None:
        return conclude()
    if key not in memory.conclusions:
        try:
            memory.conclusions[key] = conclude()
        except DataError as error:
            memory.conclusions[key] = error
    found: Found | DataError = memory.conclusions[key]
    if isinstance(found, DataError):
        raise found
    return found


def walk_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder below `root`, itself included, with the sorted names of its files.

    Raises:
        DataError: A folder cannot be listed.
    """
    memory, key = _memory.get(), str(root)
    if memory and key in memory.walks:
        return iter(memory.walks[key])
    folders = _walk_folders(root, set())
    return memory.add_walk(key, folders) if memory else folders


def is_image(path: Path) -> bool:
    """Whether a file has the extension of an image.

    Only files without an extension, or with a number in its place, are opened: DICOM files are
    often named so.
    """
    extension = extension_of(path.name)
    if extension in EXTENSIONS:
        return True
    return lacks_extension(extension) and _is_unnamed_dicom(path)


def lacks_extension(extension: str) -> bool:
    """Whether a file has no extension, or a number in its place, as DICOM files often do."""
    return not extension.strip(".0123456789")


def extension_of(name: str) -> str:
    """Return the extension of a file name, in lower case; ".nii.gz" counts as one."""
    # not by Path.suffix: that would intern the names of all files
    stem, dot, last = name.rpartition(".")
    if not dot:
        return ""
    extension = f".{last.lower()}"
    return f".nii{extension}" if extension == ".gz" and stem.lower().endswith(".nii") else extension


def any_ends_in(names: Iterable[str], extensions: tuple[str, ...]) -> bool:
    """Whether any file name has one of the extensions, in upper or lower case."""
    return bool(_endings(extensions).search("\n".join(names)))  # at once: folders can be large


@cache
def _endings(extensions: tuple[str, ...]) -> re.Pattern[str]:
    pattern = "|".join(map(re.escape, extensions))
    return re.compile(rf"(?:{pattern})$", re.IGNORECASE | re.MULTILINE)


def _is_unnamed_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return dicom.is_dicom(file.read(dicom.HEAD))
    except OSError:
        return False


def find_images(folder: Path) -> Iterator[Path]:
    """Yield the images below `folder`, at any depth, ordered by name.

    Raises:
        DataError: A folder cannot be listed.
    """
    return (path for path in find_files(folder) if is_image(path))


def find_files(folder: Path) -> Iterator[Path]:
    """Yield the regular files below `folder`, ordered by name.

    Hidden files and those of file managers are skipped; links that lead back are not followed.

    Raises:
        DataError: A folder cannot be listed.
    """
    return _walk(folder, set())


def find_images_at(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield files as they are named, and the images in folders.

    Images, videos and archives that cannot be read are among them, so that each is named as
    unreadable instead of being passed over. Of a folder without images, Parquet files are.

    Raises:
        UsageError: A path does not exist, or a folder contains no images.
    """
    for path in paths:
        if path.is_dir():
            files = list(find_files(path))
            images = [file for file in files if is_image(file) or _is_media(file)]
            # a dataset of Hugging Face; beside images, such files hold their labels
            images = images or [file for file in files if extension_of(file.name) == ".parquet"]
            if not images:
                raise UsageError("the folder contains no images", where=path)
            yield from images
        elif path.exists():
            yield path
        else:
            hint = did_you_mean_path(path) or "give images, or folders with images"
            raise UsageError("the path does not exist", where=path, hint=hint)


def _is_media(path: Path) -> bool:
    extension = extension_of(path.name)
    return extension in UNSUPPORTED_EXTENSIONS or extension in _OTHER_MEDIA


def holds_images(folder: Path) -> bool:
    """Whether there is an image below `folder`; the search ends at the first.

    Raises:
        DataError: A folder cannot be listed.
    """
    return _holds_images(folder, set())


def list_folder(folder: Path) -> list[Path]:
    """Return the entries of `folder` itself, ordered by name, without hidden ones.

    Raises:
        DataError: The folder cannot be listed.
    """
    memory = _memory.get()
    known = memory.children.get(str(folder)) if memory else None
    if known is None:
        known = _list_folder(folder)
        if memory:
            memory.add_children(str(folder), known)
    return list(known)


def _list_folder(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not is_hidden(entry.name))
    except OSError as error:
        raise unlistable(folder, error) from None
    return [folder / name for name in names]


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` itself, ordered by name, without hidden ones.

    Raises:
        DataError: The folder cannot be listed.
    """
    names = sorted(name for name, is_folder in _scan_once(folder, set()) if is_folder)
    return [folder / name for name in names]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or of a file manager."""
    return name.startswith(".") or name.lower() in _CLUTTER


def unlistable(folder: Path | str, error: OSError) -> DataError:
    """Return the error for a folder that cannot be listed."""
    why = error.strerror or str(error)
    kind = UNLISTABLE
    return DataError(kind.text, where=printable(folder), why=why, hint=kind.hint, id=kind.id)


def _walk(folder: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
    names, folders = list[str](), set[str]()
    with skip_and_record():
        for name, is_folder in _scan_once(folder, visited):
            names.append(name)
            folders.update([name] if is_folder else [])
    names.sort()
    for name in names:
        if name in folders:
            yield from _walk(folder / name, visited)
        else:
            yield folder / name


def _walk_folders(folder: Path, visited: set[tuple[int, int]]) -> Iterator[tuple[Path, list[str]]]:
    files, folders = list[str](), list[str]()
    with skip_and_record():
        for name, is_folder in _scan_once(folder, visited):
            (folders if is_folder else files).append(name)
    yield folder, sorted(files)
    for name in sorted(folders):
        yield from _walk_folders(folder / name, visited)


def _holds_images(folder: Path, visited: set[tuple[int, int]]) -> bool:
    children = []
    with skip_and_record():
        for name, is_folder in _scan_once(folder, visited):
            if not is_folder and is_image(folder / name):
                return True
            children += [folder / name] if is_folder else []
    return any(_holds_images(child, visited) for child in sorted(children))


def _scan_once(folder: Path, visited: set[tuple[int, int]]) -> Iterable[tuple[str, bool]]:
    """The entries of a folder as `_scan` lists them; nothing for one that was visited before."""
    try:
        identity = folder_identity(folder)
    except OSError as error:
        raise unlistable(folder, error) from None
    if identity in visited:  # a link that leads back
        return ()
    visited.add(identity)
    memory = _memory.get()
    if memory is None:
        return _scan(folder)
    entries = memory.folders.get(str(folder))
    if entries is None:
        entries = list(_scan(folder))
        memory.add(str(folder), entries)
    return entries


def _scan(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield the name of each regular file and folder, in the order of the disk, and whether it is
    a folder.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                is_folder = try_status(entry.is_dir) and not leads_back(entry)
                if is_folder or try_status(entry.is_file):
                    yield entry.name, is_folder
    except OSError as error:
        raise unlistable(folder, error) from None


def folder_identity(path: Path | str) -> tuple[int, int]:
    """Return the device and the number of a folder, which all links to it share."""
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def leads_back(entry: os.DirEntry[str]) -> bool:
    """Whether an entry links to a folder that contains it, whose content would count as its own."""
    if not entry.is_symlink():
        return False
    parent = Path(os.path.realpath(Path(entry.path).parent))
    return parent.is_relative_to(os.path.realpath(entry.path))


def try_status(check: Callable[[], bool]) -> bool:
    """Return `check()`; False if a link runs in a circle, or the disk does not respond."""
    try:
        return check()
    except OSError:
        return False
