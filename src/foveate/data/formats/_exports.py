"""What the exports of annotation platforms state about images, in one form for all of them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from foveate.data.boxes import class_name
from foveate.data.formats._tool_files import read_json_file
from foveate.data.formats._tool_tables import Corners, bounds
from foveate.data.issues import skip_and_record
from foveate.errors import DataError
from foveate.types import Split
from foveate.utils.paths import printable

_FAULTS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
_LINES = (".jsonl", ".ndjson", ".manifest")  # extensions of files with a JSON value per line
_MAX_URL = 4096  # characters


@dataclass
class ExportedImage:
    """An image of an export.

    Attributes:
        names: The names that its file may have: paths or URLs, the likeliest first.
        where: Where it stands in the export, for messages.
        size: `width` and `height`, if stated.
        split: Its split, if stated.
        group: Its group, if stated: a video, say.
        in_fractions: Whether coordinates are fractions of its width and height, not pixels.
        boxes: Corners and class of each.
        polygons: The parts of each object, x, y, x, y, ..., its holes and its class.
        tags: Classes of the whole image.
        rotated: Number of boxes that stand for rotated ones.
        lost: Kinds of objects that are not read.
        attributes: Number of objects with attributes.
        is_annotated: Whether somebody has labeled it.
        is_one_of_several: Whether others have labeled it as well, which is not read.
    """

    names: list[str]
    where: str
    size: Mapping[str, Any] | None = None
    split: Split | None = None
    group: str | None = None
    in_fractions: bool = False
    boxes: list[tuple[Corners, str]] = field(default_factory=list)
    polygons: list[tuple[list[list[float]], list[list[float]], str]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    rotated: int = 0
    lost: list[str] = field(default_factory=list)
    attributes: int = 0
    is_annotated: bool = True
    is_one_of_several: bool = False

    def add_box(self, corners: Sequence[Any], name: object) -> None:
        """Add a box x0, y0, x1, y1. Raises ValueError or TypeError for no numbers or no name."""
        x0, y0, x1, y1 = map(float, corners)
        self.boxes.append(((x0, y0, x1, y1), _require_name(name)))

    def add_sized_box(self, x: Any, y: Any, width: Any, height: Any, name: object) -> None:
        """Add a box by its upper left corner and its sides."""
        x, y = float(x), float(y)
        self.add_box((x, y, x + float(width), y + float(height)), name)

    def add_rotated_box(self, corners: list[float], name: object) -> None:
        """Add the upright box around a rotated one: x, y, x, y, ..."""
        self.add_box(bounds(corners), name)
        self.rotated += 1

    def add_polygon(
        self, points: list[float], name: object, holes: list[list[float]] | None = None
    ) -> None:
        """Add a polygon x, y, x, y, ..., perhaps with holes."""
        self.polygons.append(([points], holes or [], _require_name(name)))

    def add_paths(self, paths: list[list[float]], name: object) -> None:
        """Add an object by its outlines: those inside of another one are holes."""
        outer = [
            path
            for path in paths
            if not any(_contains(other, path[:2]) for other in paths if other is not path)
        ]
        holes = [path for path in paths if all(path is not each for each in outer)]
        self.polygons.append((outer, holes, _require_name(name)))

    def add_tag(self, name: object) -> None:
        """Add a class of the whole image."""
        self.tags.append(_require_name(name))


@dataclass(frozen=True)
class Export:
    """The export of a tool.

    Attributes:
        tool: The name of the tool.
        extensions: Of its files.
        matches: Whether the head of a file is that of such an export.
        read: Yields the images of a file.
        objects: What in the head of a file shows that there are boxes or polygons.
        tags: What in the head of a file shows that there are classes of whole images.
        one_each: Whether there is a file for each image.
        names: What the names of its files are; None for any.
    """

    tool: str
    extensions: tuple[str, ...]
    matches: Callable[[bytes], object]
    read: Callable[[Path], Iterator[ExportedImage]]
    objects: re.Pattern[bytes]
    tags: re.Pattern[bytes] | None = None
    one_each: bool = False
    names: re.Pattern[str] | None = None


@contextmanager
def entry_at(where: str) -> Iterator[None]:
    """Make what a fault in an entry raises a DataError, which is recorded as others are."""
    with skip_and_record():
        try:
            yield
        except _FAULTS as error:
            missing = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                "an entry of the export is not as the tool writes it",
                where=where,
                why=missing[:200],
                hint="export again, or remove the entry",
                id="export_invalid_entry",
            ) from None


def entries(content: Any, file: Path) -> Iterator[tuple[Any, str]]:
    """Yield the entries of a JSON list with where each stands; of another value, itself."""
    where = printable(file)
    if not isinstance(content, list):
        yield content, where
        return
    for number, entry in enumerate(content, start=1):
        yield entry, f"{where}, entry {number}"


def json_entries(file: Path) -> Iterator[tuple[Any, str]]:
    """Yield the entries of a JSON file, or of a file with a JSON value per line.

    Raises:
        DataError: It is not JSON.
    """
    if file.suffix.lower() not in _LINES:
        try:
            content = read_json_file(file)
        except DataError:
            if not _is_lines(file):
                raise
        else:
            yield from entries(content, file)
            return
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{printable(file)}, line {number}"
            value = None
            with entry_at(where):
                value = json.loads(line) if line.strip() else None
            if value is not None:
                yield value, where


def _is_lines(file: Path) -> bool:
    """Whether the first line of a file is a JSON value of its own."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        try:
            return isinstance(json.loads(lines.readline()), dict)
        except ValueError:
            return False


def csv_rows(file: Path) -> Iterator[tuple[list[str], str]]:
    """Yield the rows of a CSV that are not empty, with where each stands.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            for number, row in enumerate(csv.reader(opened), start=1):
                if any(cell.strip() for cell in row):
                    yield [cell.strip() for cell in row], f"{printable(file)}, row {number}"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "the CSV of an export cannot be read",
            where=printable(file),
            why=str(error)[:200],
            id="export_invalid_csv",
        ) from None


def text_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a text that are not blank, with where each stands."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield line.strip(), f"{printable(file)}, line {number}"


def file_names(*stated: object) -> list[str]:
    """Return the names that an image may have, from paths and URLs: s3://bucket/a/b.jpg."""
    names: list[str] = []
    for each in stated:
        if not isinstance(each, str) or not each.strip() or len(each) > _MAX_URL:
            continue
        text = each.strip()
        if "://" in text:
            try:
                text = unquote(urlsplit(text).path)
            except ValueError:
                continue
        plain = text.replace("\\", "/").lstrip("/")
        names += filter(None, [plain, plain.rpartition("/")[2]])
    return list(dict.fromkeys(names))


def xy(points: Any) -> list[float]:
    """Return x, y, x, y, ... of a list of {"x": ..., "y": ...}, or of [x, y]."""
    pairs = [(each["x"], each["y"]) if isinstance(each, dict) else each for each in points]
    return [float(value) for x, y, *_ in pairs for value in (x, y)]


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, and nothing for None."""
    return list(value) if value is not None else []


def _contains(polygon: list[float], point: list[float]) -> bool:
    """Whether a polygon contains a point, by how often a ray from it crosses the outline."""
    x, y = point
    xs, ys = polygon[::2], polygon[1::2]
    inside = False
    for index in range(len(xs)):
        x0, y0, x1, y1 = xs[index - 1], ys[index - 1], xs[index], ys[index]
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside


def _require_name(name: object) -> str:
    text = class_name(name) if name is not None else ""
    if not text:
        raise ValueError("it has no class")
    return text
