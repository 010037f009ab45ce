"""Exports of annotation platforms: Labelbox, V7 Darwin, SuperAnnotate, Scale, Encord, Dataloop and
Hasty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foveate.data.formats._exports import (
    Export,
    ExportedImage,
    as_list,
    entry_at,
    file_names,
    json_entries,
)
from foveate.data.formats._exports import xy as xy_of
from foveate.data.formats._tool_tables import ellipse, rotate

# --- Labelbox


def _from_labelbox(file: Path) -> Iterator[ExportedImage]:
    """Rows of an export since 2023, of which each has projects with labels."""
    for entry, where in json_entries(file):
        with entry_at(where):
            row = entry["data_row"]
            names = file_names(row.get("external_id"), row.get("global_key"), row.get("row_data"))
            image = ExportedImage(names, where, entry.get("media_attributes"))
            projects = (entry.get("projects") or {}).values()
            labels = [label for project in projects for label in as_list(project.get("labels"))]
            image.is_annotated, image.is_one_of_several = bool(labels), len(labels) > 1
            for label in labels[-1:]:
                annotations = label.get("annotations") or {}
                for each in as_list(annotations.get("objects")):
                    with entry_at(where):
                        _add_labelbox_object(image, each)
                for each in as_list(annotations.get("classifications")):
                    _add_labelbox_answers(image, each)
            yield image


def _add_labelbox_object(image: ExportedImage, entry: dict[str, Any]) -> None:
    name = entry.get("name") or entry.get("title") or entry.get("value")
    box = entry.get("bounding_box") or entry.get("bbox")
    image.attributes += bool(entry.get("classifications"))
    if box:
        image.add_sized_box(box["left"], box["top"], box["width"], box["height"], name)
    elif entry.get("polygon"):
        image.add_polygon(xy_of(entry["polygon"]), name)
    elif "mask" in entry or "instanceURI" in entry:
        image.lost.append("a mask that only Labelbox's server has")
    else:
        image.lost.append(str(entry.get("annotation_kind", "another shape"))[:40])


def _add_labelbox_answers(image: ExportedImage, entry: dict[str, Any]) -> None:
    """Add the chosen answer of a question about the image, or the checked ones."""
    single = entry.get("radio_answer") or entry.get("answer")
    several = entry.get("checklist_answers") or entry.get("answers")
    for answer in [*([single] if isinstance(single, dict) else []), *as_list(several)]:
        image.add_tag(answer.get("name") or answer.get("title") or answer.get("value"))


def _from_old_labelbox(file: Path) -> Iterator[ExportedImage]:
    for entry, where in json_entries(file):
        with entry_at(where):
            names = file_names(entry.get("External ID"), entry.get("Labeled Data"))
            image = ExportedImage(names, where)
            label = entry.get("Label")
            image.is_annotated = (
                isinstance(label, dict) and bool(label) and not entry.get("Skipped")
            )
            for each in as_list(label.get("objects")) if isinstance(label, dict) else ():
                with entry_at(where):
                    _add_labelbox_object(image, each)
            for each in as_list(label.get("classifications")) if isinstance(label, dict) else ():
                _add_labelbox_answers(image, each)
            yield image


# --- V7 Darwin


def _from_darwin(file: Path) -> Iterator[ExportedImage]:
    """A file for each image, of version 2 (`item`) or 1 (`image`)."""
    for content, where in json_entries(file):
        with entry_at(where):
            item = content.get("item")
            if item:
                slot = as_list(item.get("slots"))[0]
                source = (as_list(slot.get("source_files")) or [{}])[0]
                stated, size = (item["name"], source.get("file_name")), slot
                folder = item.get("path")
            else:
                size = content["image"]
                stated = size["filename"], size.get("original_filename")
                folder = size.get("path")
            inside = f"{folder or ''}/{stated[0]}"
            image = ExportedImage(file_names(inside, *stated), where, size)
            for entry in as_list(content.get("annotations")):
                with entry_at(where):
                    _add_darwin(image, entry)
            yield image


def _add_darwin(image: ExportedImage, entry: dict[str, Any]) -> None:
    name, box = entry["name"], entry.get("bounding_box")
    image.attributes += bool(entry.get("attributes") or entry.get("properties"))
    polygon = entry.get("polygon") or entry.get("complex_polygon")
    if polygon:
        paths = polygon.get("paths") or polygon.get("path")
        paths = paths if isinstance(paths[0], list) else [paths]
        image.add_paths([xy_of(path) for path in paths], name)
    elif "tag" in entry:
        image.add_tag(name)
    elif "ellipse" in entry:
        center, radius = entry["ellipse"]["center"], entry["ellipse"]["radius"]
        angle = math.degrees(float(entry["ellipse"].get("angle") or 0))
        middle = float(center["x"]), float(center["y"])
        image.add_polygon(ellipse(middle, (float(radius["x"]), float(radius["y"])), angle), name)
    elif box:
        image.add_sized_box(box["x"], box["y"], box["w"], box["h"], name)
    else:
        kinds = ("keypoint", "line", "skeleton", "mask", "cuboid")
        image.lost.append(next((str(key) for key in kinds if key in entry), "another shape"))


# --- SuperAnnotate


def _from_superannotate(file: Path) -> Iterator[ExportedImage]:
    """A file for each image: a.jpg.json, or a.jpg___objects.json of older versions."""
    for content, where in json_entries(file):
        with entry_at(where):
            metadata = content["metadata"]
            stem = file.name.removesuffix(".json").partition("___")[0]
            image = ExportedImage(file_names(metadata.get("name"), stem), where, metadata)
            for tag in as_list(content.get("tags")):
                image.add_tag(tag)
            for entry in as_list(content["instances"]):
                with entry_at(where):
                    _add_superannotate(image, entry)
            yield image


def _add_superannotate(image: ExportedImage, entry: dict[str, Any]) -> None:
    kind, name = entry["type"], entry.get("className")
    points: Any = entry.get("points")
    image.attributes += bool(entry.get("attributes"))
    if kind == "bbox":
        image.add_box((points["x1"], points["y1"], points["x2"], points["y2"]), name)
    elif kind == "rbbox":
        corners = [float(points[axis + number]) for number in "1234" for axis in "xy"]
        image.add_rotated_box(corners, name)
    elif kind == "polygon":
        holes = [list(map(float, hole)) for hole in as_list(entry.get("exclude"))]
        image.add_polygon(list(map(float, points)), name, holes)
    elif kind == "ellipse":
        center, radii = (float(entry["cx"]), float(entry["cy"])), (entry["rx"], entry["ry"])
        outline = ellipse(center, (float(radii[0]), float(radii[1])), float(entry.get("angle", 0)))
        image.add_polygon(outline, name)
    elif kind == "tag":
        image.add_tag(name)
    else:
        image.lost.append(str(kind)[:40])


# --- Scale


def _from_scale(file: Path) -> Iterator[ExportedImage]:
    """Tasks with their answers."""
    for task, where in json_entries(file):
        with entry_at(where):
            parameters = task.get("params") or {}
            metadata = task.get("metadata") or {}
            names = file_names(metadata.get("filename"), parameters.get("attachment"))
            image = ExportedImage(names, where)
            response = task.get("response") or {}
            image.is_annotated = "annotations" in response
            for entry in as_list(response.get("annotations")):
                with entry_at(where):
                    _add_scale(image, entry)
            yield image


def _add_scale(image: ExportedImage, entry: dict[str, Any]) -> None:
    image.attributes += bool(entry.get("attributes"))
    if entry.get("type", "box") == "box" and "left" in entry:
        sides = entry["left"], entry["top"], entry["width"], entry["height"]
        image.add_sized_box(*sides, entry.get("label"))
    elif entry.get("type") == "polygon":
        image.add_polygon(xy_of(entry["vertices"]), entry.get("label"))
    else:
        image.lost.append(str(entry.get("type", "another shape"))[:40])


# --- Encord


def _from_encord(file: Path) -> Iterator[ExportedImage]:
    """Label rows, each with data units; coordinates are fractions."""
    for row, where in json_entries(file):
        with entry_at(where):
            answers = row.get("classification_answers") or {}
            for unit in (row.get("data_units") or {}).values():
                names = file_names(unit.get("data_title"), row.get("data_title"))
                image = ExportedImage(names, where, unit, in_fractions=True)
                labels = unit.get("labels") or {}
                for entry in as_list(labels.get("objects")):
                    with entry_at(where):
                        _add_encord(image, entry)
                for entry in as_list(labels.get("classifications")):
                    stated = answers.get(entry.get("classificationHash")) or {}
                    for question in as_list(stated.get("classifications")):
                        for answer in question["answers"] if _has_options(question) else ():
                            image.add_tag(answer["name"])
                yield image


def _has_options(question: dict[str, Any]) -> bool:
    """Whether a question was answered by options, not by a text."""
    return isinstance(question.get("answers"), list)


def _add_encord(image: ExportedImage, entry: dict[str, Any]) -> None:
    name, kind = entry.get("name"), entry.get("shape")
    box = entry.get("boundingBox") or entry.get("bounding_box")
    turned = entry.get("rotatableBoundingBox")
    if turned:
        x, y, width, height = (float(turned[key]) for key in "xywh")
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        center, degrees = (x + width / 2, y + height / 2), float(turned.get("theta") or 0)
        if degrees and image.size:  # fractions have another scale in each direction
            sides = float(image.size["width"]), float(image.size["height"])
            pixels = [value * sides[index % 2] for index, value in enumerate(corners)]
            middle = center[0] * sides[0], center[1] * sides[1]
            turned_pixels = rotate(pixels, middle, degrees)
            corners = [value / sides[index % 2] for index, value in enumerate(turned_pixels)]
        image.add_rotated_box(corners, name)
    elif box:
        image.add_sized_box(box["x"], box["y"], box["w"], box["h"], name)
    elif entry.get("polygon"):
        stated = entry["polygon"]  # {"0": {"x": ..., "y": ...}, ...}
        image.add_polygon(xy_of(stated.values() if isinstance(stated, dict) else stated), name)
    else:
        image.lost.append(str(kind)[:40])


# --- Dataloop


def _from_dataloop(file: Path) -> Iterator[ExportedImage]:
    """A file for each image."""
    for content, where in json_entries(file):
        with entry_at(where):
            metadata = (content.get("metadata") or {}).get("system") or {}
            image = ExportedImage(file_names(content["filename"]), where, metadata)
            for entry in as_list(content["annotations"]):
                with entry_at(where):
                    _add_dataloop(image, entry)
            yield image


def _add_dataloop(image: ExportedImage, entry: dict[str, Any]) -> None:
    kind, name = entry["type"], entry.get("label")
    stated: Any = entry.get("coordinates")
    image.attributes += bool(entry.get("attributes"))
    if kind == "box":
        corners = xy_of(stated)
        if len(corners) > 4:
            image.add_rotated_box(corners, name)
        else:
            image.add_box(corners, name)
    elif kind == "segment":
        paths = stated if isinstance(stated[0], list) else [stated]
        image.add_polygon(xy_of(paths[0]), name, [xy_of(path) for path in paths[1:]])
    elif kind == "class":
        image.add_tag(name)
    else:
        image.lost.append(str(kind)[:40])


# --- Hasty


def _from_hasty(file: Path) -> Iterator[ExportedImage]:
    for content, _ in json_entries(file):
        for index, entry in enumerate(as_list(content["images"]), start=1):
            where = f"{file.name}, image {index}"
            with entry_at(where):
                folder = entry.get("dataset_name") or ""
                name = entry["image_name"]
                image = ExportedImage(file_names(f"{folder}/{name}", name), where, entry)
                image.is_annotated = entry.get("image_status", "DONE") != "NEW"
                for tag in as_list(entry.get("tags")):
                    image.add_tag(tag.get("class_name") if isinstance(tag, dict) else tag)
                for label in as_list(entry.get("labels")):
                    with entry_at(where):
                        image.attributes += bool(label.get("attributes"))
                        if label.get("polygon"):
                            image.add_polygon(xy_of(label["polygon"]), label["class_name"])
                        else:
                            image.add_box(tuple(label["bbox"]), label["class_name"])
                yield image


def _has(*words: bytes) -> Callable[[bytes], bool]:
    return lambda head: all(word in head for word in words)


_JSON = (".json",)
PLATFORMS = (
    Export(
        "Labelbox",
        (".ndjson", ".json", ".jsonl"),
        _has(b'"data_row"', b'"projects"'),
        _from_labelbox,
        objects=re.compile(rb'"annotation_kind"'),
        tags=re.compile(rb'"(radio_answer|checklist_answers)"'),
    ),
    Export(
        "Labelbox",
        _JSON,
        _has(b'"Labeled Data"', b'"Label"'),
        _from_old_labelbox,
        objects=re.compile(rb'"(bbox|polygon|instanceURI)"'),
        tags=re.compile(rb'"answers?"'),
    ),
    Export(
        "V7 Darwin",
        _JSON,
        lambda head: (
            (b'"slots"' in head and b'"item"' in head)
            or (b'"image"' in head and b'"workview_url"' in head)
        ),
        _from_darwin,
        objects=re.compile(rb'"(bounding_box|polygon|complex_polygon|ellipse)"'),
        tags=re.compile(rb'"tag"\s*:'),
        one_each=True,
    ),
    Export(
        "SuperAnnotate",
        _JSON,
        _has(b'"instances"', b'"metadata"'),
        _from_superannotate,
        objects=re.compile(rb'"type"\s*:\s*"(r?bbox|polygon|ellipse)"'),
        tags=re.compile(rb'"tags"\s*:\s*\[\s*"|"type"\s*:\s*"tag"'),
        one_each=True,
    ),
    Export(
        "Scale",
        _JSON,
        _has(b'"task_id"', b'"params"'),
        _from_scale,
        objects=re.compile(rb'"annotations"'),
    ),
    Export(
        "Encord",
        _JSON,
        _has(b'"data_units"', b'"data_hash"'),
        _from_encord,
        objects=re.compile(rb'"objectHash"|"featureHash"\s*:[^}]*"shape"'),
        tags=re.compile(rb'"classificationHash"'),
    ),
    Export(
        "Dataloop",
        _JSON,
        lambda head: (
            b'"filename"' in head and b'"annotations"' in head and b'"coordinates"' in head
        ),
        _from_dataloop,
        objects=re.compile(rb'"type"\s*:\s*"(box|segment)"'),
        tags=re.compile(rb'"type"\s*:\s*"class"'),
        one_each=True,
    ),
    Export(
        "Hasty",
        _JSON,
        _has(b'"export_format_version"', b'"label_classes"'),
        _from_hasty,
        objects=re.compile(rb'"bbox"|"polygon"|"label_classes"'),
    ),
)
"""Exports of platforms."""
