"""Shared by the formats of tables: images, and one row for each with what is known about it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

from foveate.data.formats._image_export import copy_images
from foveate.types import Issue, Sample, Table
from foveate.utils.csv_cells import protect_cells


def write_table(
    table: Table, file: Path, column: str, cells_of: Callable[[Sample], Iterable[str]]
) -> tuple[Issue, ...]:
    """Write a .csv with the columns path, `column`, split and group, and images/ beside it.

    Args:
        table: The dataset.
        file: The .csv.
        column: The column of what is to be learned.
        cells_of: Returns what an image has in it; there is a row for each.

    Returns:
        Notes on images that were renamed.
    """
    notes: list[Issue] = []
    images = copy_images(table, file.parent / "images", notes)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", column, "split", "group"])
        for image in images:
            sample = image.sample
            for cell in cells_of(sample):
                row = [f"images/{image.path}", cell, sample.split or "", sample.group or ""]
                writer.writerow(protect_cells(row))
    return tuple(notes)
