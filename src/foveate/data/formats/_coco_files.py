"""Where COCO's annotations lie, which split they are of, and where their images may lie."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveate.data.discovery import listed
from foveate.data.splits import split_from_name
from foveate.errors import DataError
from foveate.types import Split
from foveate.utils.paths import printable

_OTHER_TASKS = (
    "captions",
    "person_keypoints",
    "panoptic",
    "stuff",
    "image_info",
)  # of the same images, in COCO's own folder
_HEAD = 65_536  # bytes that are looked at to recognise a file
_LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
ORDER: tuple[Split | None, ...] = ("train", "val", "test", None)


def annotation_files(path: Path) -> list[Path]:
    """The files of annotations at a path; those of train first."""
    if path.is_file():
        return [path] if _is_annotations(path) else []
    inner = [child for child in listed(path) if child.is_dir() and _may_hold(child.name)]
    files = [file for folder in (path, *inner) for file in listed(folder) if _is_annotations(file)]
    return sorted(files, key=lambda file: (ORDER.index(split_of(file)), file))


def _may_hold(name: str) -> bool:
    return name.casefold() in ("annotations", "labels") or split_from_name(name) is not None


def _is_annotations(file: Path) -> bool:
    if file.suffix.lower() != ".json" or not file.is_file() or file.stem.startswith(_OTHER_TASKS):
        return False
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and _LISTS.search(head) is not None


def split_of(file: Path) -> Split | None:
    """instances_train2017.json, valid/_annotations.coco.json: what the name says, or the folder's."""
    words = re.findall("[a-z]+", file.stem.casefold())
    found = (split_from_name(word) for word in (*reversed(words), file.parent.name))
    return next((split for split in found if split), None)


def root_of(path: Path) -> Path:
    """The folder that a file of annotations, or the folder that was given, speaks for."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name.casefold() == "annotations" else path.parent


def lists_of(file: Path, keys: tuple[str, ...], what: str) -> dict[str, list[dict[str, Any]]]:
    """The lists of objects of a JSON file of COCO `what`; raises DataError where one is missing."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "this is not a file of JSON", where=printable(file), why=str(error)
        ) from None
    for key in keys:
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            why = f"it has no list {key!r} of objects"
            hint = f"it needs {', '.join(keys[:-1])} and {keys[-1]}"
            raise DataError(
                f"this is not a file of COCO {what}", where=printable(file), why=why, hint=hint
            )
    return {key: content[key] for key in keys}


def image_folders(file: Path, root: Path) -> Iterator[Path]:
    """Where the images of a file may lie; first the places for all splits, so that a subfolder `train` means what it says."""
    words = [file.stem.rsplit("_", 1)[-1], split_of(file) or ""]
    beside = [] if file.parent.name.casefold() == "annotations" else [file.parent]
    below = [root / inner / word for word in words for inner in ("", "images")]
    places = dict.fromkeys([*beside, root / "images", root, root / "data", *below])
    return (place for place in places if place.is_dir())
