"""What is seen in a folder or a file, for messages about data that are not read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from foveate.data.discovery import extension_of, walk_folders
from foveate.data.records import is_table, spelled_columns
from foveate.errors import DataError
from foveate.messages import counted
from foveate.utils.paths import printable

_MAX_EXTENSIONS, _MAX_FILES, _MAX_NAMES = 4, 3, 8  # that are named
_MAX_NAME = 40  # characters of a name
_MAX_LINE = 200  # characters of a line that are read
_MAX_JSON = 2**20  # bytes of a file whose keys are looked at


def describe_contents(path: Path) -> str:
    """Return what is there: numbers of files by extension, tables with columns, JSON with keys.

    Args:
        path: A folder, or a file.

    Returns:
        For instance "30 .jpg, 1 .csv; train.csv with the columns image_id, quality".
    """
    if path.is_file():
        return _describe_file(path) or f"a file {extension_of(path.name) or 'without an extension'}"
    extensions, described = Counter[str](), list[str]()
    try:
        for folder, names in walk_folders(path):
            extensions.update(extension_of(name) or "without an extension" for name in names)
            for name in names if len(described) < _MAX_FILES else ():
                described += filter(None, [_describe_file(folder / name)])
    except DataError:
        pass  # the folder that cannot be listed is another message
    most = extensions.most_common(_MAX_EXTENSIONS)
    parts = [f"{count} {_short(extension)}" for extension, count in most]
    if len(extensions) > len(most):
        others = len(extensions) - len(most)
        parts.append(f"files with {counted(others, 'other extension', 'other extensions')}")
    return "; ".join([", ".join(parts), *described[:_MAX_FILES]])


def _describe_file(file: Path) -> str:
    """A table with its columns, JSON with its keys, a text with its first line; or nothing."""
    if is_table(file):
        return f"{_short(file.name)} with the columns {_list(spelled_columns(file))}"
    if extension_of(file.name) == ".txt":
        return (
            f"{_short(file.name)} that begins with {line!r}" if (line := _first_line(file)) else ""
        )
    if extension_of(file.name) != ".json":
        return ""
    return f"{_short(file.name)} with {keys}" if (keys := _json_keys(file)) else ""


def _first_line(file: Path) -> str:
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            return _short(text.readline(_MAX_LINE).strip())
    except OSError:
        return ""


def _json_keys(file: Path) -> str:
    try:
        if file.stat().st_size > _MAX_JSON:
            return ""
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return ""
    if isinstance(content, list):
        first = content[0] if content and isinstance(content[0], dict) else {}
        return f"a list of objects with the keys {_list(first)}" if first else ""
    return f"the keys {_list(content)}" if isinstance(content, dict) else ""


def _list(names: Iterable[str]) -> str:
    known = [_short(str(name)) for name in names]
    more = ", ..." if len(known) > _MAX_NAMES else ""
    return ", ".join(known[:_MAX_NAMES]) + more if known else "(none)"


def _short(name: str) -> str:
    text = printable(name)
    return text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 3]}..."
