"""Shared by the formats that write COCO: images, categories and objects -> one file per split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path

from foveate.data.formats._coco_files import SPLIT_ORDER, Entry
from foveate.data.formats._image_export import CopiedImage


def write_files(
    images: Sequence[CopiedImage],
    categories: Sequence[Entry],
    objects_of: Callable[[CopiedImage], Iterable[Entry]],
    folder: Path,
) -> None:
    """Write annotations/instances_{train,val,test}.json, and instances.json without a split.

    Ids of images and of objects are unique across files. The group of an image is an extension.

    Args:
        images: The images, which are in `folder`/images.
        categories: An entry for each class, in order, without an id.
        objects_of: Returns the objects of an image, each with the name of its class as `category`.
        folder: Where annotations/ is created.
    """
    numbered = [{"id": id, **entry} for id, entry in enumerate(categories, start=1)]
    category_ids = {entry["name"]: entry["id"] for entry in numbered}
    ids, by_split = count(1), {split: list[tuple[int, CopiedImage]]() for split in SPLIT_ORDER}
    for number, image in enumerate(images, start=1):
        by_split[image.sample.split].append((number, image))
    (folder / "annotations").mkdir()
    for split, of_split in by_split.items():
        if not of_split:
            continue
        annotations = [
            {
                "id": next(ids),
                "image_id": number,
                "category_id": category_ids[entry.pop("category")],
                **entry,
            }
            for number, image in of_split
            for entry in objects_of(image)
        ]
        content = {
            "images": [_image_entry(number, image) for number, image in of_split],
            "annotations": annotations,
            "categories": numbered,
        }
        name = f"instances_{split}.json" if split else "instances.json"
        text = json.dumps(content, ensure_ascii=False)
        (folder / "annotations" / name).write_text(text, encoding="utf-8")


def _image_entry(number: int, image: CopiedImage) -> Entry:
    height, width = image.size
    entry = {"id": number, "file_name": str(image.path), "width": width, "height": height}
    return entry | ({"group": image.sample.group} if image.sample.group else {})
