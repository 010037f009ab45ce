"""Where the files of annotation tools are, and which images they mean."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from foveate.data.discovery import any_ends_in, remember, walk_folders
from foveate.data.formats._box_table import is_file
from foveate.data.image_rows import ImageFinder
from foveate.errors import DataError
from foveate.types import Issue
from foveate.utils.paths import printable

HEAD = 262_144  # bytes that are read to recognize a file
_EXTENSIONS = (".json", ".xml", ".csv", ".jsonl", ".ndjson", ".manifest", ".labels", ".txt")
_MAX_IN_FOLDER = 20  # files of one kind that a folder has; more belong to an image each
_MAX_FILES = 60  # that are opened to recognize a format
_MAX_NAME = 250  # characters of a file name


def files_by_extension(root: Path) -> dict[str, list[tuple[Path, list[str]]]]:
    """Return the folders below `root` with files that may be annotations, and the files' names.

    The keys are extensions: `.json`, `.xml`, `.csv` and the like.

    Raises:
        DataError: A folder cannot be listed.
    """
    return remember(("files by extension", root), lambda: _files_by_extension(root))


def _files_by_extension(root: Path) -> dict[str, list[tuple[Path, list[str]]]]:
    found: dict[str, list[tuple[Path, list[str]]]] = {each: [] for each in _EXTENSIONS}
    for folder, names in walk_folders(root):
        if not any_ends_in(names, _EXTENSIONS):
            continue
        own: dict[str, list[str]] = {}
        for name in names:
            extension = name[name.rfind(".") :].lower()
            if extension in _EXTENSIONS:
                own.setdefault(extension, []).append(name)
        for extension, of_folder in own.items():
            found[extension].append((folder, of_folder))
    return found


def find_annotation_files(
    path: Path, extension: str, is_of_tool: Callable[[bytes], bool]
) -> dict[Path, bytes]:
    """Return the files that each describe many images, with the first `HEAD` bytes of each.

    Args:
        path: A file, or a folder.
        extension: Of the files; ".xml".
        is_of_tool: Whether the head of a file is that of a file of the tool.

    Raises:
        DataError: A folder cannot be listed.
        OSError: A file cannot be read.
    """
    if path.is_file():
        files = [path] if path.suffix.lower() == extension else []
    else:
        files = [
            folder / name
            for folder, names in files_by_extension(path)[extension]
            if len(names) <= _MAX_IN_FOLDER
            for name in names
        ]
    heads = {file: read_head(file) for file in files[:_MAX_FILES]}
    return {file: head for file, head in heads.items() if is_of_tool(head)}


def read_head(file: Path) -> bytes:
    """Return the first bytes of a file, without a byte order mark. Raises OSError."""
    with file.open("rb") as opened:
        return opened.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()


def root_of_file(path: Path) -> Path:
    """Return the root of the data at a path: for a file in a folder of annotations its parent."""
    if path.is_dir():
        return path
    beside = path.parent.name.casefold() in ("annotations", "annotation", "labels")
    return path.parent.parent if beside else path.parent


def read_json_file(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: It is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "the file is not valid JSON", where=printable(file), why=str(error), id="invalid_json"
        ) from None


def not_of_tool(path: Path, tool: str, looks: str) -> DataError:
    """Return the error for a path without files of a tool.

    Args:
        path: The path.
        tool: Its name.
        looks: What its files contain.
    """
    return DataError(
        f"there are no annotations of {tool}",
        where=printable(path),
        why=f"no file {looks}",
        hint="give the annotation file, or the folder that contains it",
        id="not_of_tool",
    )


class ImageLocator:
    """Finds the images that annotations name: at the stated path, or else by their names alone.

    Paths may be those of Windows, or percent-encoded; they are relative to the annotation file, to
    the root, or to a folder of images in it.

    Args:
        root: The root of the data.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._finder = ImageFinder(root / "annotations")

    def find(self, names: Iterable[str], folders: Iterable[Path] = ()) -> Path:
        """Return the image of the first of some names that leads to one; if none does, a path.

        Args:
            names: The names that an image may have, at least one.
            folders: Where to look first.
        """
        spelled = list(dict.fromkeys(each for name in names for each in _spellings(name)))
        for folder in (*folders, self.root, self.root / "images"):
            for name in spelled:
                if is_file(folder / name):
                    return Path(os.path.normpath(folder / name))
        for name in spelled:
            path = self._find_by_name(name)
            if path is not None:
                return path
        return self.root / spelled[0]

    def notes(self) -> list[Issue]:
        """Return a note on images that were found by their names alone."""
        return self._finder.notes()

    def _find_by_name(self, name: str) -> Path | None:
        last = name.rpartition("/")[2]
        if not last.strip() or len(last) > _MAX_NAME:
            return None
        path, _ = self._finder.find_file(last, 0)
        return path if is_file(path) else None


def _spellings(name: str) -> tuple[str, ...]:
    """A path with forward slashes and without a drive; also with %20 and the like decoded."""
    plain = re.sub(r"^[A-Za-z]:/", "/", name.strip().replace("\\", "/"))
    return plain, unquote(plain)
