"""The files of a folder: images in the order of their names, and an inventory of everything else.

Nothing is opened but folders, and no more names are held in memory than one folder has.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from foveate.data.issues import IssueLog, skip_and_record
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
_UNSUPPORTED = frozenset(
    (
        *(".jxl", ".tga", ".psd", ".exr", ".hdr", ".svg"),
        *(".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2"),
    )
)
_OTHER_MEDIA = frozenset((*VIDEO_EXTENSIONS, *ARCHIVE_EXTENSIONS))
_MAX_EXTENSIONS = 100  # that an inventory counts separately
_MAX_REMEMBERED = 500_000  # entries of folders, about 100 MB

Found = TypeVar("Found")
Entries = list[tuple[str, bool]]
"""The name of each regular file and folder of a folder, and whether it is a folder."""


@dataclass
class _FolderMemory:
    """Entries of the folders that were listed, by path, and their total number; and what was
    concluded from them.
    """

    folders: dict[str, Entries] = field(default_factory=dict)
    total: int = 0
    children: dict[str, list[Path]] = field(default_factory=dict)
    conclusions: dict[object, Any] = field(default_factory=dict)

    def add(self, folder: str, entries: Entries) -> None:
        """Remember a folder, as long as there is room."""
        if self.total + len(entries) <= _MAX_REMEMBERED:
            self.folders[folder], self.total = entries, self.total + len(entries)

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
LOOP = IssueKind("link_loop", "links to a folder that contains them, not followed", "note", "files")
LINKED_AGAIN = IssueKind(
    "linked_again",
    "links to another folder of the same data, whose images therefore occur twice",
    "warning",
    "files",
    "remove the links",
)
BROKEN_LINK = IssueKind(
    "broken_link",
    "broken links",
    "warning",
    "files",
    "copy the files they should lead to, or remove them",
)
LINK_OUTSIDE = IssueKind(
    "link_outside",
    "links that lead out of the folder: a copy of the folder would lack these files",
    "note",
    "files",
)
SPECIAL_FILE = IssueKind(
    "special_file", "pipes, sockets and devices, skipped", "warning", "files", "remove them"
)
CLUTTER = IssueKind("clutter", "hidden files and files of file managers, skipped", "note", "files")
UNSUPPORTED = IssueKind(
    "unsupported_format",
    "images in unsupported file formats, skipped",
    "warning",
    "files",
    "save them as JPEG or PNG",
)
NOT_UTF8 = IssueKind(
    "not_utf8", "file names that are not UTF-8; their bytes are shown as \\xNN", "note", "files"
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
    return _walk_folders(root, set())


def is_image(path: Path) -> bool:
    """Whether a file has the extension of an image.

    Only files without an extension, or with a number in its place, are opened: DICOM files are
    often named so.
    """
    extension = extension_of(path.name)
    if extension in EXTENSIONS:
        return True
    return not extension.strip(".0123456789") and _is_unnamed_dicom(path)


def extension_of(name: str) -> str:
    """Return the extension of a file name, in lower case; ".nii.gz" counts as one."""
    # not by Path.suffix: that would intern the names of all files
    stem, dot, last = name.rpartition(".")
    if not dot:
        return ""
    extension = f".{last.lower()}"
    return f".nii{extension}" if extension == ".gz" and stem.lower().endswith(".nii") else extension


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
    unreadable instead of being passed over.

    Raises:
        UsageError: A path does not exist, or a folder contains no images.
    """
    for path in paths:
        if path.is_dir():
            images = [file for file in find_files(path) if is_image(file) or _is_media(file)]
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
    return extension in _UNSUPPORTED or extension in _OTHER_MEDIA


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
            names = sorted(entry.name for entry in entries if not _is_hidden(entry.name))
    except OSError as error:
        raise _unlistable(folder, error) from None
    return [folder / name for name in names]


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` itself, ordered by name, without hidden ones.

    Raises:
        DataError: The folder cannot be listed.
    """
    names = sorted(name for name, is_folder in _scan_once(folder, set()) if is_folder)
    return [folder / name for name in names]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _unlistable(folder: Path | str, error: OSError) -> DataError:
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
        identity = _identity(folder)
    except OSError as error:
        raise _unlistable(folder, error) from None
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
                if _is_hidden(entry.name):
                    continue
                is_folder = _try(entry.is_dir) and not _leads_back(entry)
                if is_folder or _try(entry.is_file):
                    yield entry.name, is_folder
    except OSError as error:
        raise _unlistable(folder, error) from None


def _identity(path: Path | str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _leads_back(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to a folder that contains it, whose content would count as its own."""
    if not entry.is_symlink():
        return False
    parent = Path(os.path.realpath(Path(entry.path).parent))
    return parent.is_relative_to(os.path.realpath(entry.path))


def _try(check: Callable[[], bool]) -> bool:
    """The result of `check`; False if a link runs in a circle, or the disk does not respond."""
    try:
        return check()
    except OSError:
        return False


# --- inventory


@dataclass
class Inventory:
    """How many files and folders a folder contains, without hidden ones.

    Attributes:
        files: Number of regular files.
        folders: Number of folders.
        images: Number of files with the extension of an image.
        extensions: Number of files by extension; of very many extensions the first ones.
    """

    files: int = 0
    folders: int = 0
    images: int = 0
    extensions: Counter[str] = field(default_factory=Counter)

    def add_file(self, name: str) -> str:
        """Count a file; return its extension."""
        extension = extension_of(name)
        self.files += 1
        self.images += extension in EXTENSIONS
        if extension in self.extensions or len(self.extensions) < _MAX_EXTENSIONS:
            self.extensions[extension] += 1
        return extension


def take_inventory(
    root: Path, log: IssueLog, advance: Callable[[int], None] = lambda count: None
) -> Inventory:
    """Count everything below `root`, and record what a listing skips silently.

    However many files there are, only the folders that are still to be visited are held in memory.

    Args:
        root: The folder.
        log: Where links, clutter, unsupported formats and the like are recorded.
        advance: Called now and then with the number of files so far.
    """
    return _InventoryWalk(root, log).run(advance)


class _InventoryWalk:
    def __init__(self, root: Path, log: IssueLog) -> None:
        self._root, self._log = str(root), log
        self._real_root = Path(os.path.realpath(root))
        self._waiting = [self._root]
        self._visited = {_identity(root)}
        self._inventory = Inventory()

    def run(self, advance: Callable[[int], None]) -> Inventory:
        while self._waiting:
            folder = self._waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        self._count(entry)
                        if self._inventory.files % 1000 == 0:
                            advance(self._inventory.files)
            except OSError as error:
                self._log.add_error(_unlistable(folder, error))
        return self._inventory

    def _count(self, entry: os.DirEntry[str]) -> None:
        key = printable(entry.path[len(self._root) :].lstrip("/\\"))
        if not _is_utf8(entry.name):
            self._log.add(NOT_UTF8, key)
        if _is_hidden(entry.name):
            self._log.add(CLUTTER, key)
            return
        if entry.is_symlink() and not self._follows(entry, key):
            return
        if _try(entry.is_dir):
            self._inventory.folders += 1
            identity = _identity(entry.path)
            if identity not in self._visited:
                self._visited.add(identity)
                self._waiting.append(entry.path)
        elif _try(entry.is_file):
            extension = self._inventory.add_file(entry.name)
            if extension in _UNSUPPORTED:
                self._log.add(UNSUPPORTED, key, why=extension)
        else:
            self._log.add(SPECIAL_FILE, key)

    def _follows(self, entry: os.DirEntry[str], key: str) -> bool:
        """Record where a link leads; return whether its target is to be counted."""
        target = Path(os.path.realpath(entry.path))
        if not (_try(entry.is_dir) or _try(entry.is_file) or target.exists()):
            self._log.add(BROKEN_LINK, key, why=printable(Path(entry.path).readlink()))
            return False
        if not target.is_relative_to(self._real_root) and not _leads_back(entry):
            self._log.add(LINK_OUTSIDE, key, why=printable(target))
        elif _try(entry.is_dir):
            kind = LOOP if _leads_back(entry) else LINKED_AGAIN
            self._log.add(kind, key, why=printable(target))
            return False
        return True


def _is_utf8(name: str) -> bool:
    """Whether a name has no lone surrogates, which stand for bytes that are not UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
