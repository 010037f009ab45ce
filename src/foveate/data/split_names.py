"""Names of splits, as folders and tables spell them."""

from __future__ import annotations

from foveate.types import Split

_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_from_name(name: str) -> Split | None:
    """Return the split that a name stands for ('Training' -> 'train'); None if it is none."""
    return _NAMES.get(name.strip().casefold())
