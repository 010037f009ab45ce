"""COCO: boxes, and perhaps masks, of many images in one .json file, or a file for each split.

DATA is such a file, or a folder with one or more: in it, in annotations/ (instances_train2017.json) or in its split folders
(Roboflow's train/_annotations.coco.json). Images lie beside the file, or in the root, in images/ or in a folder called like
the split. Classes stand in the order of their ids, which may have gaps. An image may have a `group`, which is not COCO's own.
Masks (polygons, or run lengths in either form) are taken when every object has one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.boxes import Raw, class_name
from foveate.data.formats import Format
from foveate.data.formats._boxed import NO_BOX, Gathering, Placed, copied, is_there
from foveate.data.formats._coco_files import (
    ORDER,
    annotation_files,
    image_folders,
    lists_of,
    root_of,
    split_of,
)
from foveate.data.issues import Issue, IssueKind, Location, shown, skip_and_record
from foveate.errors import DataError
from foveate.predictions import Boxes
from foveate.types import Table
from foveate.utils.paths import printable
from foveate.utils.rle import rle_area

_ORPHANS = IssueKind("annotations of images that are not listed, dropped", "error")
_FEW_CORNERS = IssueKind("outlines with fewer than three corners, which have no inside", "warning")
_GAPS = IssueKind("files whose category ids have gaps: the classes go by name, in the order of the ids")
_MASKLESS = IssueKind(
    "images with an object that has no mask of the image's size, so that boxes alone are read",
    "warning",
)

Entry = dict[str, Any]


class Coco(Format):
    summary: ClassVar[str] = "COCO boxes in JSON"

    def sniff(self, path: Path) -> bool:
        try:
            return bool(annotation_files(path))
        except (DataError, OSError):
            return False

    def read(self, path: Path) -> Table:
        """The table of one file, or of all files of a folder. Raises DataError with the file."""
        files = annotation_files(path) or [path]
        if path.is_dir() and files == [path]:
            raise DataError(
                "there are no COCO annotations here",
                where=printable(path),
                hint="give the .json file itself",
            )
        root = root_of(path)
        gathering = Gathering(root)
        classes = [name for file in files for name in _take(file, root, gathering)]
        _all_or_no_masks(gathering)
        return gathering.table(classes, "coco")

    def write(self, table: Table, folder: Path) -> tuple[str, ...]:
        """images/, and annotations/instances_train.json, ..._val.json, ..._test.json; instances.json for images without a split."""
        notes: list[str] = []
        images, numbers = (
            list(enumerate(copied(table, folder / "images", notes), start=1)),
            count(1),
        )
        (folder / "annotations").mkdir(exist_ok=True)
        for split in ORDER:
            mine = [(number, image) for number, image in images if image.sample.split == split]
            content = _content_of(mine, table.classes, numbers)
            if content["images"]:
                name = f"instances_{split}.json" if split else "instances.json"
                text = json.dumps(content, ensure_ascii=False)
                (folder / "annotations" / name).write_text(text, encoding="utf-8")
        return tuple(notes)


# --- JSON -> boxes


def _take(file: Path, root: Path, gathering: Gathering) -> list[str]:
    """Adds the images of one file. Returns its classes in order."""
    content = lists_of(file, ("images", "annotations", "categories"), "annotations")
    names, where = _names(content["categories"], file), printable(file)
    numbers = [number for number in names if isinstance(number, int)]
    if numbers and max(numbers) - min(numbers) >= len(numbers):
        gathering.findings.add(
            _GAPS,
            file.name,
            why=f"{len(numbers)} categories, from {min(numbers)} to {max(numbers)}",
        )
    pictures: dict[Any, Entry] = {}
    for entry in content["images"]:
        with skip_and_record():
            if pictures.setdefault(_id(entry, "id", where), entry) is not entry:
                raise DataError(f"two images have the id {entry['id']!r}", where=where)
    raws = {number: Raw() for number in pictures}
    used = _drawn(content["annotations"], names, raws, pictures, where, gathering)
    folders, split = list(image_folders(file, root)), split_of(file)
    for number, entry in pictures.items():
        with skip_and_record():
            group = entry.get("group")
            gathering.take(
                _place(entry, folders, where),
                raws[number],
                split,
                str(group) if group else None,
                _size(entry),
            )
    return _without_heading(content["categories"], names, used, gathering)


def _drawn(
    annotations: list[Entry],
    names: dict[Any, str],
    raws: dict[Any, Raw],
    pictures: dict[Any, Entry],
    where: str,
    gathering: Gathering,
) -> set[str]:
    """Puts every annotation to its image's in `raws`. Returns the classes that are used."""
    used, orphans = set[str](), 0
    for entry in annotations:
        place = f"{where}, annotation {entry.get('id', '?')}"
        with skip_and_record():
            name, number = _name(entry, names, place), _id(entry, "image_id", place)
            used.add(name)
            if number not in raws:
                gathering.findings.add(_ORPHANS, f"image_id {number}")
                orphans += 1
            elif entry.get("bbox"):
                outline = entry.get("segmentation") or None
                if isinstance(outline, list) and any(
                    len(part) < 6 for part in outline if isinstance(part, list)
                ):
                    gathering.findings.add(
                        _FEW_CORNERS, str(pictures[number].get("file_name")), why=place
                    )
                raws[number].add(
                    _corners(entry["bbox"], place), name, bool(entry.get("iscrowd")), outline
                )
            else:
                gathering.findings.add(NO_BOX, str(pictures[number].get("file_name")))
    if orphans and orphans == len(annotations):
        raise DataError(
            "no annotation belongs to an image",
            where=where,
            why="no image_id is the id of one of the images",
        )
    return used


def _all_or_no_masks(gathering: Gathering) -> None:
    """Masks of some of the objects would teach, and measure, that the others have none."""
    truths = {
        key: sample.target
        for key, sample in gathering.samples.items()
        if isinstance(sample.target, Boxes)
    }
    bare = [key for key, truth in truths.items() if truth.names and truth.masks is None]
    if bare and any(truth.masks for truth in truths.values()):
        gathering.notes.append(
            Issue(
                f"{_MASKLESS}: {len(bare)} ({shown(bare)})",
                _MASKLESS,
                len(bare),
                tuple(map(Location, bare)),
            )
        )
        for key, truth in truths.items():
            gathering.samples[key] = replace(
                gathering.samples[key], target=replace(truth, masks=None)
            )


def _id(entry: Entry, key: str, where: str) -> int | float | str:
    number = entry.get(key)
    if not isinstance(number, int | float | str):
        raise DataError(
            f"an entry has no {key!r}", where=where, why=f"its keys are: {', '.join(entry)}"
        )
    return number


def _names(categories: list[Entry], file: Path) -> dict[Any, str]:
    """Category id -> class, in the order of ids; two ids of one name are one class."""
    names: dict[Any, str] = {}
    for entry in categories:
        with skip_and_record():
            number, name = _id(entry, "id", printable(file)), class_name(entry.get("name", ""))
            if not name:
                raise DataError(f"the category {number!r} has no name", where=printable(file))
            if names.setdefault(number, name) != name:
                why = f"{names[number]!r} and {name!r}"
                raise DataError(
                    f"two categories have the id {number!r}", where=printable(file), why=why
                )
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _name(entry: Entry, names: dict[Any, str], place: str) -> str:
    number = _id(entry, "category_id", place)
    if number not in names:
        known = ", ".join(map(repr, list(names)[:20]))
        raise DataError(
            f"no category has the id {number!r}",
            where=place,
            why=f"the ids are: {known}",
            hint="add it to categories",
        )
    return names[number]


def _corners(bbox: object, place: str) -> tuple[float, float, float, float]:
    """x, y, width, height -> x0, y0, x1, y1."""
    try:
        x, y, width, height = map(float, bbox)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        why = f"got {str(bbox)[:80]}"
        raise DataError(
            "a bbox is not four numbers", where=place, why=why, hint="x, y, width, height"
        ) from None
    return x, y, x + width, y + height


def _size(entry: Entry) -> tuple[int, int] | None:
    """The stated (H, W)."""
    height, width = entry.get("height"), entry.get("width")
    return (
        (height, width)
        if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
        else None
    )


def _place(entry: Entry, folders: list[Path], where: str) -> Path:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"the image {entry['id']!r} has no file_name", where=where)
    spellings = dict.fromkeys(
        (name, name.replace("\\", "/"))
    )  # the second is for files made on Windows
    found = (
        folder / spelling
        for spelling in spellings
        for folder in folders
        if is_there(folder / spelling)
    )
    return next(found, folders[0] / name)


def _without_heading(
    categories: list[Entry], names: dict[Any, str], used: set[str], gathering: Gathering
) -> list[str]:
    """The classes, less the one that Roboflow adds as the heading of the others and no object has."""
    above = {class_name(entry.get("supercategory") or "") for entry in categories}
    tops = {
        class_name(entry["name"]) for entry in categories if entry.get("supercategory") == "none"
    }
    headings = (above & tops) - used
    remark = "the category {!r} is only a heading of others: no class"
    gathering.notes += [
        text for name in sorted(headings) if (text := remark.format(name)) not in gathering.notes
    ]
    return [name for name in names.values() if name not in headings]


# --- boxes -> JSON


def _content_of(
    images: list[tuple[int, Placed]], classes: tuple[str, ...], numbers: Iterator[int]
) -> dict[str, list[Entry]]:
    """One file; `numbers` gives annotations their ids, which no other file shares."""
    ids = {name: number for number, name in enumerate(classes, start=1)}
    pictures: list[Entry] = []
    annotations: list[Entry] = []
    for number, image in images:
        group = {"group": image.sample.group} if image.sample.group else {}
        height, width = image.size
        pictures.append(
            {"id": number, "file_name": str(image.place), "width": width, "height": height, **group}
        )
        masks = image.boxes.masks or [None] * len(image.boxes.names)
        for ((x0, y0, x1, y1), name, crowd), mask in zip(image.rows(), masks, strict=True):
            entry = {
                "id": next(numbers),
                "image_id": number,
                "category_id": ids[name],
                "iscrowd": int(crowd),
            }
            extent = (
                {"area": (x1 - x0) * (y1 - y0)}
                if mask is None
                else {"area": rle_area(mask), "segmentation": mask}
            )
            annotations.append({**entry, "bbox": [x0, y0, x1 - x0, y1 - y0], **extent})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": pictures, "annotations": annotations, "categories": categories}
