"""A folder with images and a file labels.txt: a path, a tab and a class name in every line."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from foveate.data.formats import Fit, Format, Reading
from foveate.errors import DataError
from foveate.predictions import Labels
from foveate.types import Sample, Table


class LabelList(Format):
    summary: ClassVar[str] = "images listed in labels.txt"
    target: ClassVar[type | None] = Labels

    def sniff(self, path: Path) -> Reading | None:
        return Reading(Fit.STATED) if (path / "labels.txt").is_file() else None

    def read(self, path: Path) -> Table:
        samples = []
        lines = (path / "labels.txt").read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            key, tab, label = line.partition("\t")
            if not tab:
                raise DataError(
                    "this line has no tab between the path and the class",
                    where=f"{path / 'labels.txt'}, line {number}",
                    hint="write: images/1.jpg<TAB>cat",
                )
            samples.append(Sample(path / key, key, Labels((label.strip(),))))
        classes = sorted({sample.target.names[0] for sample in samples})
        return Table(tuple(samples), tuple(classes), format="label_list", root=path)
