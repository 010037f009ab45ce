"""Numbers or classes? What the labels of a table tell about it."""

from __future__ import annotations

MAX_NUMBERED_CLASSES = 20
"""With more different whole numbers, these are amounts rather than classes."""

EITHER = "--task regress learns them as amounts, --task classify as classes"
"""How to choose."""

_MIN_ROWS, _MANY_DIFFERENT = 20, 0.8  # from so many rows on, such a share of different labels


def nearly_all_differ(different: int, count: int) -> bool:
    """Whether labels differ too much to be classes.

    Args:
        different: Number of different labels.
        count: Number of labels.
    """
    return count >= _MIN_ROWS and different >= _MANY_DIFFERENT * count
