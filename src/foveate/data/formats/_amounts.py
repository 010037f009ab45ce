"""Numbers or classes? What the labels of a table tell about it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from foveate.data.records import ALIASES, NUMBERS, cell_text, parse_numbers
from foveate.utils.paths import printable

MAX_NUMBERED_CLASSES = 20
"""With more different whole numbers, these are amounts rather than classes."""

EITHER = "--task regress learns them as amounts, --task classify as classes"
"""How to choose."""

NumbersMeaning = Literal["classes", "amounts", "doubtful"]

_CLASS_NAME = re.compile(r"(?i:class|label|categor|(?:^|[_ -])id$)|[a-z]I[dD]$")
_MIN_REPEATS = 4  # rows for each different number, from which these may be classes
_MAX_SHOWN, _MAX_LENGTH = 3, 30  # columns and values that a message names, and their characters
_MIN_ROWS, _MANY_DIFFERENT = 20, 0.8  # from so many rows on, such a share of different labels


def nearly_all_differ(different: int, count: int) -> bool:
    """Whether labels differ too much to be classes.

    Args:
        different: Number of different labels.
        count: Number of labels.
    """
    return count >= _MIN_ROWS and different >= _MANY_DIFFERENT * count


def doubts_about_labels(cells: list[Any], table: Path) -> Iterator[str]:
    """Yield what speaks against classes: amounts, texts, JSON.

    Args:
        cells: The first labels of a table.
        table: The table.
    """
    texts = [text for cell in cells if (text := cell_text(cell))]
    different = sorted(set(texts))
    examples = ", ".join(repr(text[:40]) for text in different[:2])
    if 2 * sum(text.startswith("{") for text in texts) > len(texts):
        yield f"the labels are JSON objects, such as {examples}"
        return
    numbers = [number for number in parse_numbers(different, table) if number is not None]
    if 2 * len(numbers) <= len(different):  # a few may be missing: NA, unknown
        if nearly_all_differ(len(different), len(texts)):
            yield f"{len(different)} of the first {len(texts)} labels differ, such as {examples}"
    elif not all(map(float.is_integer, numbers)):
        yield (
            f"the labels are numbers with decimals, such as {examples}: amounts, not classes"
            f" ({EITHER})"
        )
    elif len(numbers) > MAX_NUMBERED_CLASSES or nearly_all_differ(len(numbers), len(texts)):
        yield (
            f"the labels are whole numbers from {min(numbers):.0f} to {max(numbers):.0f}, and"
            f" {len(numbers)} of the first {len(texts)} differ: amounts rather than classes"
            f" ({EITHER})"
        )


def numbers_of_column(column: str, numbers: Sequence[float]) -> NumbersMeaning:
    """Return what the numbers of a column that a user named are: by its name, or how they repeat.

    Args:
        column: Its name.
        numbers: Its first numbers.
    """
    name, different = column.strip(), len(set(numbers))
    if not all(map(float.is_integer, numbers)) or nearly_all_differ(different, len(numbers)):
        return "amounts"
    if _CLASS_NAME.search(name):
        return "classes"
    are_amounts = name.casefold() in NUMBERS and name.casefold() not in ALIASES["label"]
    if are_amounts or _MIN_REPEATS * different > len(numbers):
        return "amounts"
    return "doubtful"


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
