"""Names of folders for patients or cases, which are no classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MIN_CASES = 5  # folders that may be one for each patient: patient00001, sub-01, PA000003
_CASE = re.compile(
    r"(?:patient|pat|pa|pt|subject|subj|sub|participant|case|study|slide)[ _-]*\d+"
    r"|TCGA-\w{2}-\w{4}.*",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?P<stem>[A-Za-z][A-Za-z0-9 _-]*?)[ _-]*\d{3,}")
_STEMS_OF_CLASSES = (
    *("class", "cls", "label", "type", "category", "cat", "species", "kind", "grade", "stage"),
    *("level", "person", "identity", "id", "product", "item", "sku", "sign"),
)


def are_cases(names: Sequence[str]) -> bool:
    """Whether folders are named like patients or cases: patient00001, sub-01, LIDC-IDRI-0001.

    Args:
        names: Their names, each once.
    """
    if len(names) < _MIN_CASES:
        return False
    return all(map(_CASE.fullmatch, names)) or _have_padded_numbers(names)


def _have_padded_numbers(names: Sequence[str]) -> bool:
    """Whether all names are one stem and a number with leading zeros: LIDC-IDRI-0001.

    Not of class_001; and a stem of one letter is that of ImageNet: n01440764.
    """
    parts = [_NUMBERED.fullmatch(name) for name in names]
    stems = {part["stem"].strip(" _-").casefold() if part else "" for part in parts}
    stem = stems.pop()
    return not stems and len(stem) > 1 and stem not in _STEMS_OF_CLASSES
