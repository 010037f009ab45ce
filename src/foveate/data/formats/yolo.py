"""YOLO: a data.yaml with the classes and the images of each split, or a list of class names
(`_yolo_plain`); labels as text files.

DATA is the .yaml file, or the folder that contains it. The objects of images/train/1.jpg are in
labels/train/1.txt, or else beside the image: one line `class cx cy width height` per object, as
fractions of the image. Lines with outlines (class x y x y x y ...) become boxes with masks, if
every object has one; if all have four corners, they are oriented boxes. No
label file, or an empty one: no objects. The YAML is only read: other keys (`download`) are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np
import yaml

from foveate.data.boxes import RawBoxes, class_name, labeled_points
from foveate.data.discovery import find_images, list_folder
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._box_table import BoxTableBuilder, is_file
from foveate.data.formats._image_export import CopiedImage, copy_images
from foveate.data.formats._keypoints import (
    INVALID,
    KEPT,
    YoloPoints,
    to_yaml,
    to_yolo,
    yolo_points,
    yolo_skeletons,
)
from foveate.data.formats._yolo_plain import PlainYolo, default_label_file, find_plain_yolo
from foveate.data.issues import skip_and_record
from foveate.data.split_names import split_from_name
from foveate.errors import DataError, did_you_mean
from foveate.predictions import Boxes
from foveate.types import Issue, IssueKind, Split, Table, remark
from foveate.utils.paths import printable
from foveate.utils.safe_yaml import parse_yaml

_PREFERRED = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_MAX_BYTES = 1_000_000  # of a data.yaml, which has about a page
_REQUIRED_KEYS = (
    re.compile(r"^['\"]?names['\"]?\s*:", re.MULTILINE),
    re.compile(r"^['\"]?(train|val|valid|validation|test)['\"]?\s*:", re.M | re.IGNORECASE),
)
_KNOWN_KEYS = frozenset({"path", "names", "nc", "kpt_shape", "kpt_names", "flip_idx"})
_SPLITS: tuple[Split, ...] = ("train", "val", "test")

_OUTLINES = IssueKind("yolo_outlines", "outlines, replaced by their bounding boxes")
_OBB = IssueKind("yolo_oriented_boxes", "oriented boxes, replaced by the upright boxes around them")
_NO_LABELS = IssueKind(
    "yolo_no_labels", "images without a label file, read as images without objects"
)


class Yolo(Format):
    """The format of the YOLO family of detectors."""

    summary: ClassVar[str] = "YOLO labels"
    target: ClassVar[type | None] = Boxes
    outlines: ClassVar[bool] = True
    writes: ClassVar[tuple[type, ...]] = (Boxes,)

    def sniff(self, path: Path) -> Reading | None:
        """A YAML file with classes and images, a folder with exactly one, or with plain labels."""
        try:
            count = len(_yaml_files(path))
            plain = find_plain_yolo(path) if not count and path.is_dir() else None
            return Reading(Fit.STATED) if count == 1 or plain else None
        except (DataError, OSError):
            return None

    def read(self, path: Path) -> Table:
        """Read all images that data.yaml names.

        Raises:
            DataError: data.yaml or a label is faulty, or there are no images, labels or valid
                boxes.
        """
        plain = find_plain_yolo(path) if path.is_dir() and not _yaml_files(path) else None
        if plain:
            return _read_plain(plain)
        file = _yaml_file_at(path)
        content = _read_yaml(file)
        names, builder = _class_names(content, file), _Builder(file.parent)
        builder.notes += _ignored_notes(content, names, file)
        builder.set_points(content, names)
        images = list(_find_images(content, file, builder))
        labels = {image: _label_file(image) for image, _ in images}
        if images and not any(labels.values()):
            raise DataError(
                "no image has a label file",
                where=printable(file),
                why=f"there is no {printable(default_label_file(images[0][0]))}, for example",
                hint="put the labels of images/a.jpg into labels/a.txt",
                id="yolo_no_label_file",
            )
        for image, split in images:
            with skip_and_record():
                _add_image(image, labels[image], split, names, builder)
        return builder.build_yolo(names.values())

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write data.yaml, images/, labels/ and lists of images train.txt, val.txt, test.txt."""
        notes: list[Issue] = []
        images = copy_images(table, folder / "images", notes)
        content, points = dict[str, Any](), to_yaml(table)
        count = points["kpt_shape"][0] if points else 0
        for split in _SPLITS:
            of_split = [image for image in images if (image.sample.split or "train") == split]
            if of_split:
                lines = "".join(f"./images/{image.path}\n" for image in of_split)
                (folder / f"{split}.txt").write_text(lines, encoding="utf-8")
                content[split] = f"{split}.txt"
        for image in images:
            file = folder / default_label_file(Path("images", image.path))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(_to_lines(image, table.classes, count)), encoding="utf-8")
        content |= {"names": dict(enumerate(table.classes)), **points}
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        (folder / "data.yaml").write_text(text, encoding="utf-8")
        return tuple(notes)


class _Builder(BoxTableBuilder):
    """Remembers how keypoints are stated, and outlines: the corners of each, by image."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.outlines: dict[str, list[int]] = {}
        self.has_points = False
        self.points: YoloPoints | None = None

    def set_points(self, content: dict[str, Any], names: dict[int, str]) -> None:
        """Set what a data.yaml states about keypoints."""
        self.has_points, self.points = "kpt_shape" in content, yolo_points(content)
        if self.points:
            self.skeletons = {each.class_name: each for each in yolo_skeletons(content, names)}

    def keypoints(
        self, values: list[float], image: Path, size: tuple[int, int]
    ) -> np.ndarray | None:
        """Return the keypoints after a box, (P, 3); None without one that is labeled."""
        if not values:
            return None
        try:
            if self.points is None:
                raise ValueError("kpt_shape is not two numbers")
            points = self.points.parse(values, size)
        except ValueError as error:
            self.log.add(INVALID, self.key(image), why=str(error))
            return None
        if not labeled_points(points):
            return None
        self.log.add(KEPT, self.key(image))
        return points

    def build_yolo(self, classes: Iterable[str]) -> Table:
        """Return the table: with masks, if every object has an outline that is no oriented box."""
        oriented = {count for counts in self.outlines.values() for count in counts} == {4}
        if oriented:
            self.drop_masks()
        self.require_all_masks()
        targets = [sample.target for sample in self.samples.values()]
        if not any(isinstance(target, Boxes) and target.masks for target in targets):
            for key, counts in self.outlines.items():
                self.log.add(_OBB if oriented else _OUTLINES, key, len(counts))
        return self.build(classes, "yolo")


def _read_plain(plain: PlainYolo) -> Table:
    """Read a dataset without a data.yaml."""
    names, splits, builder = plain.class_names(), plain.splits(), _Builder(plain.root)
    for image, label in plain.pairs:
        with skip_and_record():
            _add_image(image, label, splits.get(image), names, builder)
    return builder.build_yolo(names.values())


# --- data.yaml


def _yaml_files(path: Path) -> list[Path]:
    """The YAML files at a path with classes and images; if one has a usual name, only that."""
    files = [file for file in (list_folder(path) if path.is_dir() else [path]) if _is_yolo(file)]
    return [file for file in files if file.name.lower() in _PREFERRED] or files


def _is_yolo(file: Path) -> bool:
    if file.suffix.lower() not in (".yaml", ".yml") or not file.is_file():
        return False
    if file.stat().st_size > _MAX_BYTES:
        return False
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    return all(pattern.search(text) for pattern in _REQUIRED_KEYS)


def _yaml_file_at(path: Path) -> Path:
    if path.is_file():
        return path
    files = _yaml_files(path)
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        raise DataError(
            "the folder does not have exactly one data.yaml",
            where=printable(path),
            why=f"several files fit: {names}" if files else "no YAML file has `names` and `train`",
            hint="give the .yaml file itself",
            id="yolo_data_yaml",
        )
    return files[0]


def _read_yaml(file: Path) -> dict[str, Any]:
    text, where = _read_text(file), printable(file)
    try:
        content = parse_yaml(text)
    except ValueError as error:
        hint = "remove tags such as !!python"
        raise DataError(
            "the file is not plain YAML", where=where, why=str(error), hint=hint, id="yolo_yaml"
        ) from None
    if not isinstance(content, dict) or "names" not in content:
        raise DataError(
            "the file has no class names",
            where=where,
            hint="add a line such as names: [cat, dog]",
            id="yolo_no_names",
        )
    return {str(key): value for key, value in content.items()}


def _class_names(content: dict[str, Any], file: Path) -> dict[int, str]:
    """Class index -> name, in the order of indices."""
    stated = content["names"]
    names = dict(enumerate(stated)) if isinstance(stated, list) else stated
    valid = {
        index: class_name(name)
        for index, name in (names.items() if isinstance(names, dict) else ())
        if type(index) is int and type(name) in (str, int, float)
    }
    if not valid or len(valid) != len(names) or not all(valid.values()):
        raise DataError(
            "`names` is neither a list of names nor a name for each class index",
            where=printable(file),
            why=f"got {stated!r}"[:200],
            hint="write names: [cat, dog] or names: {0: cat, 1: dog}; quote words such as no",
            id="yolo_invalid_names",
        )
    return dict(sorted(valid.items()))


def _ignored_notes(content: dict[str, Any], names: dict[int, str], file: Path) -> list[Issue]:
    notes = []
    others = [key for key in content if key not in _KNOWN_KEYS and split_from_name(key) is None]
    if others:
        text = "ignored in {file}, and not executed: {keys}"
        notes.append(remark("yolo_other_keys", text, file=file.name, keys=", ".join(others)))
    if "nc" in content and content["nc"] != len(names):
        text = "nc and names disagree in {file}: the {count:name|names} are used"
        notes.append(remark("yolo_nc", text, file=file.name, count=len(names)))
    return notes


# --- images and labels


def _find_images(
    content: dict[str, Any], file: Path, builder: BoxTableBuilder
) -> Iterator[tuple[Path, Split]]:
    """Yield the images, split by split; add a note on each path that does not exist.

    Raises:
        DataError: None of the paths exists.
    """
    stated = [
        (split, path)
        for key, value in content.items()
        if (split := split_from_name(key))
        for path in _parse_paths(value, file)
    ]
    roots = [file.parent / content["path"]] if isinstance(content.get("path"), str) else []
    missing = []
    for split, path in sorted(stated, key=lambda pair: _SPLITS.index(pair[0])):
        candidates = [root / path for root in (*roots, file.parent)]
        # Roboflow writes ../train/images for train/images
        candidates.append(file.parent / path.removeprefix("../"))
        existing = next((c for c in candidates if c.is_dir() or is_file(c)), None)
        if existing is None:
            missing.append(f"{split}: {path!r}")
        elif existing.is_dir():
            yield from ((image, split) for image in find_images(existing))
        else:
            listed = _read_list(existing, [existing.parent, *roots, file.parent])
            yield from ((image, split) for image in listed)
    if len(missing) == len(stated):
        raise _no_images(stated, missing, file)
    text = "a path of images does not exist and is skipped: {path}"
    builder.notes += [remark("yolo_missing_path", text, path=path) for path in missing]


def _no_images(stated: list[tuple[Split, str]], missing: list[str], file: Path) -> DataError:
    folders = [entry.name for entry in list_folder(file.parent) if entry.is_dir()]
    hints = (did_you_mean(PurePath(path).name, folders) for _, path in stated)
    default = f"paths are relative to `path`, or to {printable(file.parent)!r}"
    return DataError(
        "data.yaml leads to no images",
        where=printable(file),
        why="these paths do not exist: " + ", ".join(missing)
        if missing
        else "it states no train, val or test",
        hint=next(filter(None, hints), default),
        id="yolo_no_images",
    )


def _parse_paths(value: object, file: Path) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    paths = [path for path in values if isinstance(path, str)]
    if len(paths) < len(values):
        raise DataError(
            "train, val and test must each be a folder or a list of folders",
            where=printable(file),
            why=f"got {value!r}"[:200],
            id="yolo_invalid_splits",
        )
    return [path for path in paths if path]


def _read_list(file: Path, roots: list[Path]) -> Iterator[Path]:
    """The images that a text file lists, one path per line."""
    for line in _read_text(file).split("\n"):
        if name := line.rstrip("\r"):
            # CVAT writes data/images/train/a.jpg for images/train/a.jpg
            spellings = (name, name.removeprefix("data/"))
            found = (root / each for each in spellings for root in roots if is_file(root / each))
            yield next(found, roots[0] / name)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "the file cannot be read as text",
            where=printable(file),
            why=str(error),
            hint="save it as plain text in UTF-8",
            id="yolo_unreadable",
        ) from None


def _label_file(image: Path) -> Path | None:
    candidates = (default_label_file(image), image.with_suffix(".txt"))
    return next((file for file in candidates if is_file(file)), None)


def _add_image(
    image: Path,
    labels: Path | None,
    split: Split | None,
    names: dict[int, str],
    builder: _Builder,
) -> None:
    size = builder.measure(image)
    if size is None:
        return
    raw = RawBoxes()
    for number, line in enumerate(_read_text(labels).splitlines() if labels else [], start=1):
        with skip_and_record():
            if line.strip():
                where = f"{printable(labels or image)}, line {number}"
                values, rest = _parse_label(line, names, builder.has_points, where)
                outline = _to_outline(values[1:], size)
                if outline:
                    builder.outlines.setdefault(builder.key(image), []).append(len(outline) // 2)
                corners = _to_corners(values[1:], size)
                points = builder.keypoints(rest, image, size)
                raw.add(corners, names[int(values[0])], False, outline and [outline], points)
    if labels is None:
        builder.log.add(_NO_LABELS, builder.key(image))
    builder.add_image(image, raw, split, stated_size=size)


def _parse_label(
    line: str, names: dict[int, str], has_points: bool, where: str
) -> tuple[list[float], list[float]]:
    """The class index, and four numbers of a box or at least six of an outline; and the rest.

    `has_points`: what follows a box are keypoints.
    """
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise DataError(
            "the label is not a line of numbers",
            where=where,
            why=f"got {line.strip()[:80]!r}",
            id="yolo_not_numbers",
        ) from None
    if not values[0].is_integer() or int(values[0]) not in names:
        raise DataError(
            f"no class has the index {line.split()[0]}",
            where=where,
            why=f"the classes are {min(names)} to {max(names)}",
            hint="check `names` in data.yaml",
            id="yolo_unknown_class",
        )
    values, rest = (values[:5], values[5:]) if has_points else (values, [])
    if len(values) < 5 or len(values) % 2 == 0:
        raise DataError(
            f"the label has {len(values)} numbers",
            where=where,
            why="a box has 5, an outline an odd number from 7 on",
            hint="write class, center x, center y, width, height; or class, x, y, x, y, x, y, ...",
            id="yolo_number_count",
        )
    return values, rest


def _to_corners(values: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Fractions -> pixels; NaN for an outline with a NaN, which the validation then drops."""
    height, width = size
    if any(map(math.isnan, values)):
        return math.nan, math.nan, math.nan, math.nan
    if len(values) == 4:
        cx, cy, w, h = values
        return (
            (cx - w / 2) * width,
            (cy - h / 2) * height,
            (cx + w / 2) * width,
            (cy + h / 2) * height,
        )
    xs, ys = values[::2], values[1::2]
    return min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height


def _to_outline(values: list[float], size: tuple[int, int]) -> list[float] | None:
    """Fractions -> x, y, x, y, ... in pixels; None for a box, or an outline with a NaN."""
    if len(values) == 4 or any(map(math.isnan, values)):
        return None
    return [value * size[1 - index % 2] for index, value in enumerate(values)]


def _to_lines(image: CopiedImage, classes: tuple[str, ...], points: int) -> Iterator[str]:
    """The label of each object; `points`: the number of its keypoints."""
    height, width = image.size
    indices = {name: index for index, name in enumerate(classes)}
    keypoints = image.boxes.keypoints or [np.zeros((0, 3))] * len(image.boxes.names)
    for ((x0, y0, x1, y1), name, _), own in zip(image.objects(), keypoints, strict=True):
        center = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height
        sides = (x1 - x0) / width, (y1 - y0) / height
        numbers = [*map(repr, (*center, *sides)), *to_yolo(own, points, image.size)]
        yield f"{indices[name]} {' '.join(numbers)}\n"
