"""Numbers or classes? What the labels of a table tell about it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from foveate.utils.paths import printable

MAX_NUMBERED_CLASSES = 20
"""With more different whole numbers, these are amounts rather than classes."""

EITHER = "--task regress learns them as amounts, --task classify as classes"
"""How to choose."""

_MAX_SHOWN, _MAX_LENGTH = 3, 30  # columns and values that a message names, and their characters
_MIN_ROWS, _MANY_DIFFERENT = 20, 0.8  # from so many rows on, such a share of different labels


def nearly_all_differ(different: int, count: int) -> bool:
    """Whether labels differ too much to be classes.

    Args:
        different: Number of different labels.
        count: Number of labels.
    """
    return count >= _MIN_ROWS and different >= _MANY_DIFFERENT * count


def describe_columns(columns: Mapping[str, Sequence[str]]) -> str:
    """Return what a message says of columns that may state classes, and how to choose one.

    Args:
        columns: Their different values, as `class_columns` returns them; at least one column.
    """
    first, *others = columns
    values = ", ".join(_short(value) for value in columns[first][:_MAX_SHOWN])
    more = ", ..." if len(columns[first]) > _MAX_SHOWN else ""
    text = f"the column {_short(first)!r}, whose values repeat ({values}{more})"
    if others:
        also = ", ".join(repr(_short(name)) for name in others[:_MAX_SHOWN])
        text += f", and {also}{', ...' if len(others) > _MAX_SHOWN else ''}"
    return f"{text}: --set data.column={shlex.quote(printable(first))} reads it as classes"


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."
