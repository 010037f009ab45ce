"""COCO annotation files: which files they are, their splits, and where their images are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from foveate.data.boxes import class_name
from foveate.data.discovery import list_folder, list_subfolders
from foveate.data.formats._box_table import is_file
from foveate.data.issues import skip_and_record
from foveate.data.split_names import split_from_name
from foveate.errors import DataError
from foveate.types import Split
from foveate.utils.paths import printable

SPLIT_ORDER: tuple[Split | None, ...] = ("train", "val", "test", None)
# annotations of the same images for other tasks, in COCO's own folder
_KEYPOINTS = "person_keypoints"
_OTHER_TASKS = ("captions", _KEYPOINTS, "panoptic", "stuff", "image_info")
_HEAD = 65_536  # bytes that are read to recognize a file
_LISTS = re.compile(rb'"(images|annotations)"\s*:\s*\[')
_CATEGORIES = re.compile(rb'"categories"\s*:\s*\[')  # alone in Label Studio's notes.json
# lists of the same names in the exports of other tools: Hasty, V7 Darwin, Datumaro
_FOREIGN = re.compile(rb'"(export_format_version|label_classes|slots|items)"\s*:')

Entry = dict[str, Any]
"""An object of COCO's JSON."""


def annotation_files(path: Path) -> list[Path]:
    """Return the annotation files at a path, those of train first.

    Raises:
        DataError: A folder cannot be listed.
    """
    if path.is_file():
        return [path] if _is_annotations(path, with_keypoints=True) else []
    folders = [path]
    for child in list_subfolders(path):
        if child.name.casefold() in ("annotations", "labels") or split_from_name(child.name):
            folders.append(child)
    listed = [file for folder in folders for file in list_folder(folder)]
    files = [file for file in listed if _is_annotations(file)]
    if not files:
        named = [file for file in listed if file.name.startswith(_KEYPOINTS)]
        files = [file for file in named if _is_annotations(file, with_keypoints=True)]
    return sorted(files, key=lambda file: (SPLIT_ORDER.index(split_of_file(file)), file))


def require_annotation_files(path: Path) -> list[Path]:
    """Return the file at a path, whatever it contains, or the annotation files of a folder.

    Raises:
        DataError: The folder has none, or cannot be listed.
    """
    files = [path] if path.is_file() else annotation_files(path)
    if not files:
        raise DataError(
            "there are no COCO annotations in this folder",
            where=printable(path),
            hint="give the .json file itself",
            id="coco_no_annotations",
        )
    return files


def _is_annotations(file: Path, with_keypoints: bool = False) -> bool:
    """Whether a file has annotations of objects; `with_keypoints`: also COCO's own ones of people,
    which instances_*.json beside them has as well.
    """
    others = tuple(task for task in _OTHER_TASKS if not (with_keypoints and task == _KEYPOINTS))
    if file.suffix.lower() != ".json" or not file.is_file() or file.stem.startswith(others):
        return False
    if is_panoptic(file):
        return False
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return False
    is_cut = len(head) == _HEAD  # the other lists may follow
    has_lists = _LISTS.search(head) or (is_cut and _CATEGORIES.search(head))
    return bool(has_lists) and not _FOREIGN.search(head)


def is_panoptic(file: Path) -> bool:
    """Whether a file looks like COCO's panoptic annotations, by its name, beginning and end."""
    if file.suffix.lower() != ".json" or not file.is_file():
        return False
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
        opened.seek(max(0, file.stat().st_size - _HEAD))
        tail = opened.read(_HEAD)
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return False
    named = file.stem.startswith("panoptic") and b'"annotations"' in head
    return named or b'"segments_info"' in head or b'"segments_info"' in tail


def split_of_file(file: Path) -> Split | None:
    """Return the split that the name of a file states, or its folder's.

    instances_train2017.json -> 'train', valid/_annotations.coco.json -> 'val'.
    """
    words = re.findall("[a-z]+", file.stem.casefold())
    splits = (split_from_name(word) for word in (*reversed(words), file.parent.name))
    return next((split for split in splits if split), None)


def root_of(path: Path) -> Path:
    """Return the root of the dataset that an annotation file, or a folder of them, belongs to."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name.casefold() == "annotations" else path.parent


def read_lists(file: Path, keys: tuple[str, ...], what: str) -> dict[str, list[dict[str, Any]]]:
    """Read the lists of objects of a COCO file.

    Args:
        file: The JSON file.
        keys: Names of the lists.
        what: What COCO calls the content ("captions"), for messages.

    Raises:
        DataError: It is not JSON, or lacks a list.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "the file is not valid JSON", where=printable(file), why=str(error), id="invalid_json"
        ) from None
    for key in keys:
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(
                f"the file does not contain COCO {what}",
                where=printable(file),
                why=f"it has no list of objects {key!r}",
                hint=f"it needs the lists {', '.join(keys[:-1])} and {keys[-1]}",
                id="not_coco",
            )
    return {key: content[key] for key in keys}


def image_folders(file: Path, root: Path) -> Iterator[Path]:
    """Yield the folders that may contain the images of an annotation file.

    Folders for all splits come first, so that a `train/` in a file name means a subfolder.
    """
    names = [file.stem.rsplit("_", 1)[-1], split_of_file(file) or ""]
    beside = [] if file.parent.name.casefold() == "annotations" else [file.parent]
    of_split = [root / parent / name for name in names for parent in ("", "images")]
    folders = dict.fromkeys([*beside, root / "images", root, root / "data", *of_split])
    return (folder for folder in folders if folder.is_dir())


# --- entries


def category_names(categories: list[Entry], where: str) -> dict[Any, str]:
    """Return category id -> class, in the order of ids; two ids of one name are one class.

    Args:
        categories: The entries of a file.
        where: The file, for messages.

    Raises:
        DataError: A category has no id or no name, or two have the same id.
    """
    names: dict[Any, str] = {}
    for entry in categories:
        with skip_and_record():
            id, name = id_in(entry, "id", where), class_name(entry.get("name", ""))
            if not name:
                raise DataError(
                    f"the category {id!r} has no name", where=where, id="coco_unnamed_category"
                )
            if names.setdefault(id, name) != name:
                why = f"{names[id]!r} and {name!r}"
                raise DataError(
                    f"two categories have the id {id!r}",
                    where=where,
                    why=why,
                    id="coco_duplicate_category",
                )
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def id_in(entry: Entry, key: str, where: str) -> int | float | str:
    """Return an id of an entry; 1, 1.0 and "1" are the same.

    Raises:
        DataError: It has none, or it is neither a number nor a text.
    """
    id = entry.get(key)
    if isinstance(id, str) and id.strip().lstrip("-").isdecimal():
        return int(id)
    if not isinstance(id, int | float | str):
        raise DataError(
            f"an entry has no {key!r}",
            where=where,
            why=f"its keys are: {', '.join(entry)}",
            id="coco_missing_key",
        )
    return id


def stated_size(entry: Entry) -> tuple[int, int] | None:
    """Return (H, W) of an image according to its entry; None if it does not state both."""
    try:
        height, width = int(entry["height"]), int(entry["width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def image_path(entry: Entry, folders: list[Path], where: str) -> Path:
    """Return the path of an image: the first in `folders` that exists, else in the first of them.

    Backslashes and percent-encoded characters are understood.

    Raises:
        DataError: The entry has no file name.
    """
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise DataError(
            f"the image {entry['id']!r} has no file_name", where=where, id="coco_no_file_name"
        )
    plain = name.replace("\\", "/")  # in files from Windows
    names = dict.fromkeys((name, plain, unquote(plain)))
    paths = (folder / name for name in names for folder in folders)
    return next((path for path in paths if is_file(path)), folders[0] / name)
