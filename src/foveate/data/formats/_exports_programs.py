"""Files of programs and public data sets: Create ML, VoTT, Edge Impulse, Datumaro, Scalabel
(BDD100K) and Open Images.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from foveate.data.formats._exports import (
    Export,
    ExportedImage,
    as_list,
    csv_rows,
    entry_at,
    file_names,
    json_entries,
    xy,
)
from foveate.data.split_names import split_in_name

# --- Create ML


def _from_create_ml(file: Path) -> Iterator[ExportedImage]:
    """x and y are the middle of a box."""
    for entry, where in json_entries(file):
        with entry_at(where):
            name = entry.get("image") or entry.get("imagefilename") or entry["filename"]
            image = ExportedImage(file_names(name), where)
            for each in as_list(entry.get("annotations", entry.get("annotation"))):
                with entry_at(where):
                    stated = each.get("coordinates")
                    if stated is None:
                        image.add_tag(each.get("label"))
                        continue
                    width, height = float(stated["width"]), float(stated["height"])
                    x, y = float(stated["x"]) - width / 2, float(stated["y"]) - height / 2
                    image.add_sized_box(x, y, width, height, each.get("label"))
            sides = [value for corners, _ in image.boxes for value in corners]
            image.in_fractions = bool(sides) and max(map(abs, sides)) <= 1
            yield image


# --- VoTT


def _from_vott(file: Path) -> Iterator[ExportedImage]:
    """A project with all assets, or the file of one."""
    for content, where in json_entries(file):
        assets = content["assets"].values() if "assets" in content else [content]
        for entry in assets:
            with entry_at(where):
                asset = entry["asset"]
                names = file_names(asset.get("name"), asset.get("path"))
                image = ExportedImage(names, where, asset.get("size"))
                for region in as_list(entry.get("regions")):
                    with entry_at(where):
                        _add_vott(image, region)
                yield image


def _add_vott(image: ExportedImage, region: dict[str, Any]) -> None:
    name = region["tags"][0]
    image.attributes += len(region["tags"]) > 1
    if region.get("type") == "POLYGON":
        image.add_polygon(xy(region["points"]), name)
    else:
        box = region["boundingBox"]
        image.add_sized_box(box["left"], box["top"], box["width"], box["height"], name)


# --- Edge Impulse


def _from_edge_impulse(file: Path) -> Iterator[ExportedImage]:
    for content, where in json_entries(file):
        for name, boxes in content["boundingBoxes"].items():
            image = ExportedImage(file_names(name), where)
            for box in as_list(boxes):
                with entry_at(where):
                    sides = box["x"], box["y"], box["width"], box["height"]
                    image.add_sized_box(*sides, box.get("label"))
            yield image


# --- Datumaro


def _from_datumaro(file: Path) -> Iterator[ExportedImage]:
    """Items, with the classes in `categories`."""
    for content, where in json_entries(file):
        stated = content["categories"].get("label", {}).get("labels", [])
        names = [each["name"] for each in stated]
        for item in as_list(content["items"]):
            with entry_at(where):
                medium = item.get("image") or item.get("media") or {}
                sides = as_list(medium.get("size"))
                size = {"height": sides[0], "width": sides[1]} if len(sides) == 2 else None
                found = file_names(medium.get("path"), item["id"])
                image = ExportedImage(found, where, size, split_in_name(file.stem))
                for entry in as_list(item.get("annotations")):
                    with entry_at(where):
                        _add_datumaro(image, entry, names)
                yield image


def _add_datumaro(image: ExportedImage, entry: dict[str, Any], names: list[str]) -> None:
    kind, name = entry["type"], names[entry["label_id"]]
    if kind == "bbox":
        x, y, width, height = entry["bbox"]
        image.add_sized_box(x, y, width, height, name)
    elif kind == "polygon":
        values = list(map(float, entry["points"]))
        image.add_polygon(values, name)
    elif kind == "label":
        image.add_tag(name)
    else:
        image.lost.append(str(kind)[:40])


# --- Scalabel, BDD100K


def _from_scalabel(file: Path) -> Iterator[ExportedImage]:
    for content, where in json_entries(file):
        frames = content.get("frames", [content]) if isinstance(content, dict) else []
        for frame in frames:
            with entry_at(where):
                names = file_names(frame["name"], frame.get("url"))
                image = ExportedImage(names, where, split=split_in_name(file.stem))
                for label in as_list(frame.get("labels")):
                    with entry_at(where):
                        _add_scalabel(image, label)
                yield image


def _add_scalabel(image: ExportedImage, label: dict[str, Any]) -> None:
    name, box, polygons = label.get("category"), label.get("box2d"), label.get("poly2d")
    if box:
        image.add_box((box["x1"], box["y1"], box["x2"], box["y2"]), name)
    elif polygons and all(each.get("closed", True) for each in polygons):
        image.add_paths([xy(each["vertices"]) for each in polygons], name)
    else:
        image.lost.append("lanes and the like")


# --- Open Images

_CORNERS = ("XMin", "YMin", "XMax", "YMax")


def _from_open_images(file: Path) -> Iterator[ExportedImage]:
    """A row for each box, in fractions; class-descriptions-*.csv beside it names the classes."""
    rows = csv_rows(file)
    header, _ = next(rows)
    columns = {name: index for index, name in enumerate(header)}
    names, images = _class_descriptions(file.parent), dict[str, ExportedImage]()
    split = split_in_name(file.stem.partition("-")[0])
    for row, where in rows:
        with entry_at(where):
            id = row[columns["ImageID"]]
            new = ExportedImage([f"{id}.jpg", id], where, split=split, in_fractions=True)
            image = images.setdefault(id, new)
            name = row[columns["LabelName"]]
            corners = [row[columns[corner]] for corner in _CORNERS]
            image.add_box(corners, names.get(name, name))
    yield from images.values()


def _class_descriptions(folder: Path) -> dict[str, str]:
    """Name of a class by its code: "/m/011k07,Tortoise"."""
    files = chain(folder.glob("*class-descriptions*.csv"), folder.glob("*class_descriptions*.csv"))
    names: dict[str, str] = {}
    for file in sorted(files):
        with file.open(encoding="utf-8-sig", newline="", errors="replace") as opened:
            names |= {row[0]: row[1] for row in csv.reader(opened) if len(row) > 1}
    return names


def _has_columns(head: bytes) -> bool:
    first = head.split(b"\n", 1)[0].replace(b'"', b"").split(b",")
    return {b"ImageID", b"LabelName", b"XMin", b"YMax"} <= {cell.strip() for cell in first}


_JSON = (".json",)
PROGRAMS = (
    Export(
        "Create ML",
        _JSON,
        lambda head: (
            head.startswith(b"[")
            and b'"annotation' in head
            and b'"coordinates"' in head
            and re.search(rb'"image(filename)?"\s*:\s*"', head) is not None
            and b'"filename"' not in head
        ),
        _from_create_ml,
        objects=re.compile(rb'"coordinates"'),
    ),
    Export(
        "VoTT",
        _JSON,
        lambda head: b'"asset"' in head and b'"regions"' in head,
        _from_vott,
        objects=re.compile(rb'"regions"'),
        one_each=True,
    ),
    Export(
        "Edge Impulse",
        (".labels", ".json"),
        lambda head: b'"bounding-box-labels"' in head,
        _from_edge_impulse,
        objects=re.compile(rb'"boundingBoxes"'),
    ),
    Export(
        "Datumaro",
        _JSON,
        lambda head: b'"categories"' in head and b'"items"' in head and b'"label"' in head,
        _from_datumaro,
        objects=re.compile(rb'"type"\s*:\s*"(bbox|polygon)"'),
        tags=re.compile(rb'"type"\s*:\s*"label"'),
    ),
    Export(
        "Scalabel (BDD100K)",
        _JSON,
        lambda head: b'"labels"' in head and (b'"box2d"' in head or b'"poly2d"' in head),
        _from_scalabel,
        objects=re.compile(rb'"(box2d|poly2d)"'),
    ),
    Export(
        "Open Images",
        (".csv",),
        _has_columns,
        _from_open_images,
        objects=re.compile(rb"XMin"),
    ),
)
"""Exports of programs and of public data sets."""
