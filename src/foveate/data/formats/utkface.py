"""UTKFace: faces with the age in the name of each image, [age]_[gender]_[race]_[date].jpg.

    25_1_2_20170116174525125.jpg.chip.jpg

DATA is a folder with such images, also in folders (part1, part2, part3). The age is read as a
number. Gender and race are not; names without all four parts are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

from foveate.data.discovery import EXTENSIONS, extension_of, walk_folders
from foveate.data.formats import Fit, Format, Reading
from foveate.data.issues import IssueLog
from foveate.errors import DataError
from foveate.predictions import Number
from foveate.types import IssueKind, Sample, Table, remark
from foveate.utils.paths import printable, relative_name

# gender 0 or 1, race 0 to 4, the date with milliseconds
_NAME = re.compile(r"(?P<age>\d{1,3})_[01]_[0-4]_20\d{15}\.")
_SAMPLE, _MOST = 100, 0.9  # names that are looked at, and the share that has to be like that

_OTHER_NAME = IssueKind("utkface_other_name", "images whose name lacks a part, left out", "warning")


class UtkFace(Format):
    """Ages in the names of images."""

    summary: ClassVar[str] = "faces with ages in their names (UTKFace)"
    target: ClassVar[type | None] = Number

    def sniff(self, path: Path) -> Reading | None:
        """A folder whose first images have such names, of several ages."""
        if not path.is_dir():
            return None
        try:
            names = [file.name for file in islice(_images(path), _SAMPLE)]
        except DataError:
            return None
        ages = [match["age"] for name in names if (match := _NAME.match(name))]
        fits = len(set(ages)) > 1 and len(ages) >= _MOST * len(names)
        return Reading(Fit.STATED) if fits else None

    def read(self, path: Path) -> Table:
        """Read the names; no image is opened.

        Raises:
            DataError: There are no such names.
        """
        samples, log = list[Sample](), IssueLog()
        for file in _images(path):
            match, key = _NAME.match(file.name), relative_name(file, path)
            if match is None:
                log.add(_OTHER_NAME, key)
            else:
                samples.append(Sample(file, key, Number(float(match["age"]))))
        if not samples:
            raise DataError(
                "no image has its age in its name",
                where=printable(path),
                hint="names are like 25_1_2_20170116174525125.jpg: age, gender, race and date",
                id="utkface_no_age",
            )
        text = (
            "the first number in the names is read as the age; for gender or race, write a table"
            " with the columns path and label"
        )
        notes = (remark("utkface_ages", text), *log.issues())
        ordered = tuple(sorted(samples, key=lambda sample: sample.key))
        return Table(ordered, (), "utkface", path, notes=notes)


def _images(root: Path) -> Iterator[Path]:
    for folder, names in walk_folders(root):
        yield from (folder / name for name in names if extension_of(name) in EXTENSIONS)
