"""Groups of classes as users write them: which classes become one, under which name."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from pydantic import BeforeValidator

_EXAMPLE = "{tumor: [glioma, meningioma], healthy: no_tumor}"


def parse_class_groups(value: Any) -> dict[str, list[str]] | None:
    """Return a name -> the classes that it stands for.

    Args:
        value: A mapping from names to a class or several, or a list of the classes to keep.

    Raises:
        ValueError: It is something else, or a class is in two groups.
    """
    if value is None:
        return None
    if isinstance(value, list | tuple):
        value = {_name(each): each for each in value}
    if not isinstance(value, dict) or not value:
        raise ValueError(f"a list of classes, or groups such as {_EXAMPLE}")
    groups = {
        _name(name): [_name(each) for each in (own if isinstance(own, list | tuple) else [own])]
        for name, own in value.items()
    }
    counts = Counter(each for own in groups.values() for each in own)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"groups without a common class ({twice[0]!r} is named twice)")
    if empty := [name for name, own in groups.items() if not own]:
        raise ValueError(f"groups of at least one class ({empty[0]!r} has none)")
    return groups


def _name(value: Any) -> str:
    """A class name; numbers are names as well. YAML reads a plain no as false."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"names of classes, and {value!r} is none (quote yes, no, on and off)")
    return str(value)


ClassGroups = Annotated[dict[str, list[str]] | None, BeforeValidator(parse_class_groups)]
