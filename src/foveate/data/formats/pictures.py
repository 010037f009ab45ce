"""Pictures in a folder, of which nothing else is said: what a generator may learn from."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from foveate.data.discovery import find_images, is_image, listed
from foveate.data.formats import Format
from foveate.errors import DataError
from foveate.predictions import ImagePrediction
from foveate.types import Sample, Table
from foveate.utils.paths import printable


class Pictures(Format):
    summary: ClassVar[str] = "pictures without labels"

    def sniff(self, path: Path) -> bool:
        """Nothing but pictures: a folder or a table beside them would mean something."""
        found = listed(path) if path.is_dir() else []
        alone = all(child.is_file() and not _is_card(child) for child in found)
        return alone and any(map(is_image, found))

    def read(self, path: Path) -> Table:
        """All pictures under `path`. Raises DataError where there are none."""
        samples = [
            Sample(file, printable(file.relative_to(path)), ImagePrediction()) for file in find_images(path)
        ]
        if not samples:
            raise DataError("there are no pictures in this folder", where=printable(path))
        return Table(tuple(sorted(samples, key=lambda sample: sample.key)), (), "pictures", path)


def _is_card(file: Path) -> bool:
    return file.suffix.lower() in (
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".ndjson",
        ".parquet",
        ".yaml",
        ".yml",
        ".xml",
        ".txt",
    )
