"""Outlines of objects as a class for every pixel, from any format that has them.

Larger objects are painted first, so that small ones remain visible. Pixels of no object are
`background`, the first class. The same files hold boxes, and are read as such unless masks are
wanted: `foveate fit DATA --task segment`, or `--format outlines`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from foveate.data.formats import FORMATS, Fit, Format, Reading, sniff_format
from foveate.data.formats._keypoints import KEPT
from foveate.data.formats._mask_values import BACKGROUND
from foveate.data.formats._painting import paint_image
from foveate.errors import DataError
from foveate.predictions import Boxes, Regions
from foveate.types import Sample, Table
from foveate.utils.paths import printable
from foveate.utils.rle import rle_area


class Outlines(Format):
    """Objects with outlines, as regions."""

    summary: ClassVar[str] = "outlines of objects as masks"
    target: ClassVar[type | None] = Regions
    is_painted: ClassVar[bool] = True

    def sniff(self, path: Path) -> Reading | None:
        """Data in a format with outlines, which are read as boxes unless masks are wanted."""
        return Reading(Fit.POSSIBLE) if _formats_of(path) else None

    def read(self, path: Path) -> Table:
        """Read the outlines; of the images only headers.

        Raises:
            DataError: No format with outlines fits, or several do; or not every object has one.
        """
        names = _formats_of(path)
        if len(names) != 1:
            raise DataError(
                "the data are not in exactly one format with outlines",
                where=printable(path),
                why=f"these fit: {', '.join(names)}" if names else "none fits",
                hint="give the folder, or the annotation file, of one format",
                id="outlines_format",
            )
        table = FORMATS.get(names[0])().read(path)
        targets = [sample.target for sample in table.samples if isinstance(sample.target, Boxes)]
        if not any(target.masks for target in targets):
            reasons = [str(note) for note in table.notes if note.kind is not KEPT]
            raise DataError(
                "not every object has an outline",
                where=printable(path),
                why="; ".join(reasons) or None,
                hint=f"to train on boxes, use --format {names[0]}",
                id="no_outlines",
            )
        classes = (BACKGROUND, *(name for name in table.classes if name != BACKGROUND))
        samples = tuple(
            replace(sample, target=_regions(sample, target, classes))
            for sample, target in zip(table.samples, targets, strict=True)
        )
        return replace(table, samples=samples, classes=classes, format="outlines")


def _formats_of(path: Path) -> list[str]:
    """The formats with outlines that fit, the best ones."""
    readings = {
        name: reading
        for name in FORMATS.names()
        if FORMATS.get(name).outlines and (reading := sniff_format(name, path))
    }
    best = max((reading.fit for reading in readings.values()), default=None)
    return [name for name, reading in readings.items() if reading.fit == best]


def _regions(sample: Sample, boxes: Boxes, classes: tuple[str, ...]) -> Regions:
    """The masks of an image, larger ones first."""
    assert isinstance(sample.path, Path)
    pairs = zip(boxes.names, boxes.masks or (), strict=True)
    ordered = sorted(pairs, key=lambda pair: -rle_area(pair[1]))
    shapes = tuple((classes.index(name), mask) for name, mask in ordered)
    size = shapes[0][1]["size"] if shapes else None
    return Regions(partial(paint_image, shapes, size, sample.path, sample.key))
