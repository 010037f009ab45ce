"""An inventory of a folder for `check`: everything that a listing counts, and what it skips."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from foveate.data.discovery import (
    EXTENSIONS,
    UNSUPPORTED_EXTENSIONS,
    extension_of,
    folder_identity,
    is_hidden,
    leads_back,
    try_status,
    unlistable,
)
from foveate.data.issues import IssueLog
from foveate.types import IssueKind
from foveate.utils.paths import printable

_MAX_EXTENSIONS = 100  # that are counted separately

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
        self._visited = {folder_identity(root)}
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
                self._log.add_error(unlistable(folder, error))
        return self._inventory

    def _count(self, entry: os.DirEntry[str]) -> None:
        key = printable(entry.path[len(self._root) :].lstrip("/\\"))
        if not _is_utf8(entry.name):
            self._log.add(NOT_UTF8, key)
        if is_hidden(entry.name):
            self._log.add(CLUTTER, key)
            return
        if entry.is_symlink() and not self._follows(entry, key):
            return
        if try_status(entry.is_dir):
            self._inventory.folders += 1
            identity = folder_identity(entry.path)
            if identity not in self._visited:
                self._visited.add(identity)
                self._waiting.append(entry.path)
        elif try_status(entry.is_file):
            extension = self._inventory.add_file(entry.name)
            if extension in UNSUPPORTED_EXTENSIONS:
                self._log.add(UNSUPPORTED, key, why=extension)
        else:
            self._log.add(SPECIAL_FILE, key)

    def _follows(self, entry: os.DirEntry[str], key: str) -> bool:
        """Record where a link leads; return whether its target is to be counted."""
        target = Path(os.path.realpath(entry.path))
        if not (try_status(entry.is_dir) or try_status(entry.is_file) or target.exists()):
            self._log.add(BROKEN_LINK, key, why=printable(Path(entry.path).readlink()))
            return False
        if not target.is_relative_to(self._real_root) and not leads_back(entry):
            self._log.add(LINK_OUTSIDE, key, why=printable(target))
        elif try_status(entry.is_dir):
            kind = LOOP if leads_back(entry) else LINKED_AGAIN
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
