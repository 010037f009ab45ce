"""YOLO outlines as a class for every pixel, painted as `coco_masks` does.

The same files contain boxes, and are read as such unless masks are wanted: `foveate fit DATA
--task segment`, or `--format yolo_masks`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats.yolo import Yolo
from foveate.errors import DataError
from foveate.images.codec import read_size
from foveate.predictions import Boxes, Regions
from foveate.types import Table
from foveate.utils.paths import printable
from foveate.utils.rle import RLE, decode_rle, rle_area

_BACKGROUND = "background"


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
        classes = (_BACKGROUND, *(name for name in table.classes if name != _BACKGROUND))
        samples = tuple(
            replace(sample, target=_regions(Path(str(sample.path)), target, classes))
            for sample, target in zip(table.samples, targets, strict=True)
        )
        return replace(table, samples=samples, classes=classes, format="yolo_masks")


def _regions(image: Path, boxes: Boxes, classes: tuple[str, ...]) -> Regions:
    masks = sorted(
        zip(boxes.masks or (), boxes.names, strict=True), key=lambda pair: -rle_area(pair[0])
    )
    layers = tuple((classes.index(name), mask) for mask, name in masks)
    return Regions(partial(_paint, layers, image))


def _paint(layers: tuple[tuple[int, RLE], ...], image: Path) -> np.ndarray:
    """(H, W) int64 class indices; later layers cover earlier ones, 0 where there is none."""
    mask = np.zeros(layers[0][1]["size"] if layers else read_size(image), dtype=np.int64)
    for index, rle in layers:
        mask[decode_rle(rle)] = index
    return mask
