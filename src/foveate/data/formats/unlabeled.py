"""A folder of images without labels, for training a generator."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from foveate.data.discovery import find_images, is_image, list_folder
from foveate.data.formats import Fit, Format, Reading
from foveate.errors import DataError
from foveate.predictions import ImagePrediction
from foveate.types import Sample, Table
from foveate.utils.paths import printable

_ANNOTATIONS = (
    *(".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"),
    *(".yaml", ".yml", ".xml", ".txt", ".manifest", ".labels"),
)


class Unlabeled(Format):
    """Images only; each is its own target."""

    summary: ClassVar[str] = "images without labels"
    target: ClassVar[type | None] = ImagePrediction

    def sniff(self, path: Path) -> Reading | None:
        """Images and nothing else: a folder or an annotation file beside them would be labels."""
        children = list_folder(path) if path.is_dir() else []
        only_images = all(
            child.is_file() and child.suffix.lower() not in _ANNOTATIONS for child in children
        )
        return Reading(Fit.LIKELY) if only_images and any(map(is_image, children)) else None

    def read(self, path: Path) -> Table:
        """Read all images below `path`.

        Raises:
            DataError: There are none.
        """
        samples = [
            Sample(file, printable(file.relative_to(path)), ImagePrediction())
            for file in find_images(path)
        ]
        if not samples:
            raise DataError("the folder contains no images", where=printable(path), id="no_images")
        return Table(tuple(sorted(samples, key=lambda sample: sample.key)), (), "unlabeled", path)
