"""Label Studio: its exports JSON and JSON-MIN.

Rectangles (also rotated ones), polygons, brush masks and ellipses are read; key points and the like
have no area and are dropped. Choices are classes of images (tags). Of several annotations of an
image the ground truth counts, or else the latest one; skipped ones do not. Images are found by the
names in their paths or URLs, without the eight characters that an upload adds. `split` and `group`
in the data of a task are understood. A file label_config.xml, the labeling config, gives the order
of the classes. DATA is the file, or the folder that contains it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from foveate.data.boxes import class_name
from foveate.data.discovery import is_image
from foveate.data.formats._box_table import NO_BOX
from foveate.data.formats._coco_files import stated_size
from foveate.data.formats._image_export import copy_images, require_labels
from foveate.data.formats._tool_files import (
    ImageLocator,
    find_annotation_files,
    not_of_tool,
    read_json_file,
    root_of_file,
)
from foveate.data.formats._tool_tables import (
    ATTRIBUTES,
    CURVES,
    LOST,
    READ_AS,
    ROTATED,
    AnnotatedImage,
    Found,
    ToolFormat,
    ToolTable,
    bounds,
    ellipse,
    number,
    objects_in,
    points,
    rotate,
)
from foveate.data.issues import skip_and_record
from foveate.data.split_names import split_in_folders
from foveate.data.tools import drawn_classes
from foveate.data.tools.labelstudio import (
    CONFIG,
    config_classes,
    decode_brush,
    labeling_config,
    local_file,
    to_results,
)
from foveate.errors import DataError
from foveate.predictions import Boxes, Labels, Regions
from foveate.types import Issue, IssueKind, Table
from foveate.utils.paths import printable

_TASKS = "tasks.json"
_CONFIGS = (CONFIG, "config.xml", "labeling_config.xml")
_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # what an upload puts before a file name
_OBJECTS = re.compile(rb'"(rectangle|polygon|brush|ellipse)(labels)?"')
_LABELS = ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "labels")
_MIN_END = "annotator"  # the first key after the results in JSON-MIN

_SEVERAL = IssueKind(
    "labelstudio_several",
    "images with several annotations; the ground truth, or else the latest one, is read",
    "warning",
)
_NOT_ANNOTATED = IssueKind(
    "labelstudio_not_annotated",
    "tasks that were skipped or not annotated, left out; predictions are no annotations",
    "warning",
)
_NO_IMAGE = IssueKind("labelstudio_no_image", "tasks without an image, left out", "error")
_TURNED = IssueKind(
    "labelstudio_turned",
    "regions that were drawn on an image turned in Label Studio, dropped",
    "error",
    hint="turn the image file itself, and draw them again",
)
_NO_LABEL = IssueKind("labelstudio_no_label", "regions without a label, dropped", "error")
_MORE_LABELS = IssueKind(
    "labelstudio_more_labels", "regions with several labels; the first one is read", "warning"
)


@dataclass(frozen=True)
class _Annotation:
    """One annotation of a task, from either export.

    Attributes:
        data: The data of the task.
        where: The task, for messages.
        values: The value of each region, with its sizes.
        choices: Classes of the image.
        rank: Whether it is the ground truth, and when it was changed; the largest counts.
    """

    data: dict[str, Any]
    where: str
    values: list[dict[str, Any]] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    rank: tuple[bool, str] = (False, "")


class LabelStudio(ToolFormat):
    """The JSON of Label Studio."""

    format: ClassVar[str] = "labelstudio"
    summary: ClassVar[str] = "Label Studio annotations in JSON"
    writes: ClassVar[tuple[type, ...]] = (Boxes, Labels, Regions)
    read_as: ClassVar[Mapping[type, str]] = READ_AS

    def find(self, path: Path) -> Found | None:
        """JSON lists of tasks."""
        heads = find_annotation_files(path, ".json", _is_tasks)
        if not heads:
            return None
        objects = any(_OBJECTS.search(head) for head in heads.values())
        tags = any(b'"choices"' in head for head in heads.values())
        short = any(b'"annotation_id"' in head for head in heads.values())
        return Found(tuple(heads), objects or not (tags or short), tags or (short and not objects))

    def collect(self, path: Path) -> ToolTable:
        """Read all files; of the images only headers.

        Raises:
            DataError: There are none, or one of them cannot be used.
        """
        found = self.look(path)
        if found is None:
            raise not_of_tool(path, "Label Studio", "is a list of tasks with annotations")
        table = ToolTable(root_of_file(path))
        locator, by_image = ImageLocator(table.root), dict[Path, list[_Annotation]]()
        for file in found.files:
            with skip_and_record():
                for annotation in _read_file(file, table):
                    names = _image_names(annotation.data)
                    if names:
                        image = locator.find(names, [file.parent, file.parent / "images"])
                        by_image.setdefault(image, []).append(annotation)
                    else:
                        table.log.add(_NO_IMAGE, annotation.where)
        for image, own in by_image.items():
            _add_image(image, own, table)
        table.stated_classes = _stated_classes(found.files)
        table.notes += locator.notes()
        return table

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write tasks.json, label_config.xml and images/; `folder` is the document root."""
        require_labels(table)
        notes: list[Issue] = []
        tasks, has_masks = [], False
        targets = [sample.target for sample in table.samples]
        for image in copy_images(table, folder / "images", notes):
            sample = image.sample
            data = {"image": local_file(f"images/{image.path}")}
            data |= {"split": str(sample.split)} if sample.split else {}
            data |= {"group": sample.group} if sample.group else {}
            results = to_results(image.size, image.drawn, table.classes)
            has_masks |= isinstance(image.drawn, Boxes) and bool(image.drawn.masks)
            tasks.append({"data": data, "annotations": [{"result": results}]})
        text = json.dumps(tasks, ensure_ascii=False)
        (folder / _TASKS).write_text(text, encoding="utf-8")
        classes = drawn_classes(table.classes, targets)
        config = labeling_config(classes, type(targets[0]), has_masks, table.multilabel)
        (folder / CONFIG).write_text(config, encoding="utf-8")
        return tuple(notes)


def _is_tasks(head: bytes) -> bool:
    full = b'"data"' in head and (b'"annotations"' in head or b'"completions"' in head)
    short = b'"annotation_id"' in head and b'"annotator"' in head
    return head.startswith(b"[") and (full or short)


def _stated_classes(files: tuple[Path, ...]) -> list[str]:
    """The classes in a labeling config beside the files; none without one."""
    for folder in dict.fromkeys(file.parent for file in files):
        for name in _CONFIGS:
            if (folder / name).is_file():
                text = (folder / name).read_text(encoding="utf-8-sig", errors="replace")
                return config_classes(text)
    return []


# --- tasks -> annotations


def _read_file(file: Path, table: ToolTable) -> Iterator[_Annotation]:
    """Yield the annotations of all tasks; log tasks without one."""
    tasks, where = read_json_file(file), printable(file)
    if not isinstance(tasks, list):
        raise DataError("the file is not a list of tasks", where=where, id="labelstudio_not_tasks")
    for task in tasks:
        with skip_and_record():
            if not isinstance(task, dict):
                raise DataError(
                    "a task is not an object",
                    where=where,
                    why=f"got {str(task)[:80]}",
                    id="labelstudio_invalid_task",
                )
            of_task = f"{where}, task {str(task.get('id', '?'))[:40]}"
            is_short = not isinstance(task.get("data"), dict)
            read = _from_short if is_short else _from_full
            annotations = list(read(task, of_task))
            if not annotations:
                table.log.add(_NOT_ANNOTATED, of_task)
            yield from annotations


def _from_full(task: dict[str, Any], where: str) -> Iterator[_Annotation]:
    for entry in objects_in(task.get("annotations") or task.get("completions")):
        if entry.get("was_cancelled") or entry.get("skipped"):
            continue
        results = objects_in(entry.get("result"))
        regions: dict[str, dict[str, Any]] = {}
        choices: list[str] = []
        for index, result in enumerate(results):
            value = result.get("value")
            if isinstance(value, dict) and _has_shape(value):
                # a shape and its labels, or answers about it, are results with the same id
                region = regions.setdefault(str(result.get("id", index)), {})
                region |= {key: each for key, each in result.items() if key != "value"} | value
            elif isinstance(value, dict) and isinstance(value.get("choices"), list):
                choices += map(class_name, value["choices"])
        changed = str(entry.get("updated_at") or entry.get("created_at") or "")
        rank = bool(entry.get("ground_truth")), changed
        yield _Annotation(task["data"], where, list(regions.values()), choices, rank)


def _from_short(record: dict[str, Any], where: str) -> Iterator[_Annotation]:
    """JSON-MIN: data, id, results by the name of their control, and who annotated when."""
    keys = list(record)
    end = keys.index(_MIN_END) if _MIN_END in keys else len(keys)
    start = keys.index("id") + 1 if "id" in keys[:end] else 0
    values, choices = list[dict[str, Any]](), list[str]()
    for key in keys[start:end]:
        stated = record[key]
        for each in stated if isinstance(stated, list) else [stated]:
            if isinstance(each, dict) and _has_shape(each):
                values.append(each)
            elif isinstance(each, dict) and isinstance(each.get("choices"), list):
                choices += map(class_name, each["choices"])
            elif isinstance(each, str) and key != "image":
                choices.append(class_name(each))
    changed = str(record.get("updated_at") or "")
    yield _Annotation(record, where, values, choices, (False, changed))


def _has_shape(value: dict[str, Any]) -> bool:
    return any(key in value for key in ("x", "points", "rle", "vertices", "sequence"))


def _image_names(data: dict[str, Any]) -> list[str]:
    """What the image of a task may be called, from its path or URL; none without one."""
    for value in data.values():
        if not isinstance(value, str) or len(value) > 4096:
            continue
        path = _path_of(value)
        if is_image(Path(path)):
            last = path.rpartition("/")[2]
            plain = _UPLOAD.sub("", last, count=1) if _UPLOAD.match(last) else last
            return [path.lstrip("/"), last, plain, plain.replace("_", " ")]
    return []


def _path_of(url: str) -> str:
    try:
        parts = urlsplit(url.replace("\\", "/"))
        stated = parse_qs(parts.query).get("d")
    except ValueError:
        return url
    return stated[0] if stated else unquote(parts.path)


# --- annotations -> objects


def _add_image(path: Path, annotations: list[_Annotation], table: ToolTable) -> None:
    key = table.key(path)
    if len(annotations) > 1:
        answers = {tuple(sorted(each.choices)) for each in annotations}
        differ = ", with different choices" if len(answers) > 1 else ""
        table.log.add(_SEVERAL, key, why=f"{len(annotations)} annotations{differ}")
    annotation = max(annotations, key=lambda each: each.rank)
    stated, group = annotation.data.get("split"), annotation.data.get("group")
    inside = path.relative_to(table.root).parts[:-1] if path.is_relative_to(table.root) else ()
    split = split_in_folders([stated] if isinstance(stated, str) else inside)
    image = AnnotatedImage(path, split, str(group) if group else None, table.size_of(path))
    image.tags += filter(None, annotation.choices)
    for value in annotation.values if image.size else ():
        with skip_and_record():
            _add_region(value, image, table, annotation.where)
    table.images.append(image)


def _add_region(value: dict[str, Any], image: AnnotatedImage, table: ToolTable, where: str) -> None:
    key, labels = table.key(image.path), _labels_of(value)
    kind = _kind_of(value)
    if kind is None:
        table.log.add(LOST, key, why=str(value.get("type", "?"))[:40])
    elif value.get("image_rotation"):
        table.log.add(_TURNED, key)
    elif not labels:
        table.log.add(_NO_LABEL, key)
    else:
        if len(labels) > 1:
            table.log.add(_MORE_LABELS, key)
        if any(each in value for each in ("choices", "text", "rating", "taxonomy")):
            table.log.add(ATTRIBUTES, key)
        kind(value, labels[0], image, table, where)


def _labels_of(value: dict[str, Any]) -> list[str]:
    stated = (value.get(key) for key in _LABELS)
    return [
        class_name(name)
        for names in stated
        if isinstance(names, list)
        for name in names
        if class_name(name)
    ]


def _kind_of(value: dict[str, Any]) -> Any:
    """The function that adds a region; None for one without an area."""
    if isinstance(value.get("rle"), list):
        return _add_brush
    if isinstance(value.get("points"), list):
        return _add_polygon
    if "radiusX" in value:
        return _add_ellipse
    if "width" in value and "height" in value and "keypointlabels" not in value:
        return _add_rectangle
    return None


def _scale(image: AnnotatedImage) -> tuple[float, float]:
    """Pixels of a percent of the width, and of the height."""
    assert image.size is not None
    return image.size[1] / 100, image.size[0] / 100


def _add_rectangle(
    value: dict[str, Any], name: str, image: AnnotatedImage, table: ToolTable, where: str
) -> None:
    """Add a box in percent; a rotation is about its upper left corner."""
    sx, sy = _scale(image)
    x, y, width, height = (number(value, key, where) for key in ("x", "y", "width", "height"))
    x0, y0, x1, y1 = x * sx, y * sy, (x + width) * sx, (y + height) * sy
    degrees = number(value, "rotation", where, 0.0)
    if not degrees:
        image.add_box((x0, y0, x1, y1), name)
        return
    outline = rotate([x0, y0, x1, y0, x1, y1, x0, y1], (x0, y0), degrees)
    image.add_box(bounds(outline), name, outline)
    table.log.add(ROTATED, table.key(image.path))


def _add_polygon(
    value: dict[str, Any], name: str, image: AnnotatedImage, table: ToolTable, where: str
) -> None:
    sx, sy = _scale(image)
    percent = points(value["points"], where)
    scaled = [each * (sy if index % 2 else sx) for index, each in enumerate(percent)]
    table.add_polygon(image, scaled, name)


def _add_ellipse(
    value: dict[str, Any], name: str, image: AnnotatedImage, table: ToolTable, where: str
) -> None:
    sx, sy = _scale(image)
    x, y, rx, ry = (number(value, key, where) for key in ("x", "y", "radiusX", "radiusY"))
    degrees = number(value, "rotation", where, 0.0)
    image.add_polygon(ellipse((x * sx, y * sy), (rx * sx, ry * sy), degrees), name)
    table.log.add(CURVES, table.key(image.path))


def _add_brush(
    value: dict[str, Any], name: str, image: AnnotatedImage, table: ToolTable, where: str
) -> None:
    assert image.size is not None
    stated = {"height": value.get("original_height"), "width": value.get("original_width")}
    try:
        size = stated_size(stated) or image.size
        if size != image.size:
            raise ValueError(
                f"it was drawn on {size[1]} x {size[0]} px, and the image has"
                f" {image.size[1]} x {image.size[0]} px"
            )
        mask = decode_brush(value["rle"], size)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise DataError(
            "a brush mask does not fit its image",
            where=where,
            why=str(error)[:200],
            id="labelstudio_invalid_brush",
        ) from None
    count = len(image.outlined)
    image.add_mask(mask, 0, 0, size, name)
    if len(image.outlined) == count:
        table.log.add(NO_BOX, table.key(image.path))
