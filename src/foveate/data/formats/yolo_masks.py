"""YOLO outlines as a class for every pixel, painted as those of COCO.

The same files contain boxes, and are read as such unless masks are wanted: `foveate fit DATA
--task segment`, or `--format yolo_masks`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._mask_values import BACKGROUND
from foveate.data.formats._painting import paint_image
from foveate.data.formats.yolo import Yolo
from foveate.errors import DataError
from foveate.predictions import Boxes, Regions
from foveate.types import Sample, Table
from foveate.utils.paths import printable
from foveate.utils.rle import rle_area


class YoloMasks(Format):
    """YOLO's outlines, as regions."""

    summary: ClassVar[str] = "YOLO outlines as masks"
    target: ClassVar[type | None] = Regions

    def sniff(self, path: Path) -> Reading | None:
        """Labels of YOLO, which are read as boxes unless masks are wanted."""
        return Reading(Fit.POSSIBLE) if Yolo().sniff(path) else None

    def read(self, path: Path) -> Table:
        """Read the labels; of the images only headers.

        Raises:
            DataError: As `Yolo.read`; or not every object has an outline.
        """
        table = Yolo().read(path)
        targets = [sample.target for sample in table.samples if isinstance(sample.target, Boxes)]
        if not any(target.masks for target in targets):
            raise DataError(
                "not every object has an outline",
                where=printable(path),
                why="; ".join(map(str, table.notes)) or None,
                hint="to train on boxes, use --format yolo",
                id="yolo_no_outlines",
            )
        classes = (BACKGROUND, *(name for name in table.classes if name != BACKGROUND))
        samples = tuple(
            replace(sample, target=_regions(sample, target, classes))
            for sample, target in zip(table.samples, targets, strict=True)
        )
        return replace(table, samples=samples, classes=classes, format="yolo_masks")


def _regions(sample: Sample, boxes: Boxes, classes: tuple[str, ...]) -> Regions:
    """The masks of an image, larger ones first, so that small objects remain visible."""
    assert isinstance(sample.path, Path)
    pairs = zip(boxes.names, boxes.masks or (), strict=True)
    ordered = sorted(pairs, key=lambda pair: -rle_area(pair[1]))
    shapes = tuple((classes.index(name), mask) for name, mask in ordered)
    size = shapes[0][1]["size"] if shapes else None
    return Regions(partial(paint_image, shapes, size, sample.path, sample.key))
