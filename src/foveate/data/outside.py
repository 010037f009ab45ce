"""Images that a dataset names, but that are not in its folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from foveate.data.issues import quoted
from foveate.errors import DataError
from foveate.messages import counted
from foveate.types import Table, remark


def check_outside(table: Table, path: Path, allowed: bool) -> Table:
    """Return the table, with a note if it names images outside of its folder.

    A table or an annotation file that others wrote can name any file of the machine, and
    conversions, reports and servers would show it. Links in the folder may lead out of it: they
    were made on this machine.

    Args:
        table: The dataset.
        path: The path that the user gave.
        allowed: Whether images may be outside.

    Raises:
        DataError: Some are, and that is not allowed.
    """
    here, folders = Path.cwd(), (table.root, path if path.is_dir() else path.parent)
    stated = tuple(f"{folder}{os.sep}" for folder in folders if str(folder) != ".")
    normal = tuple(f"{os.path.normpath(here / folder)}{os.sep}" for folder in folders)
    outside = [
        sample.key
        for sample in table.samples
        if isinstance(sample.path, Path) and _is_outside(sample.path, f"{here}", stated, normal)
    ]
    if not outside:
        return table
    names = quoted(outside)
    if not allowed:
        raise DataError(
            "the data name images outside of their folder",
            where=path,
            why=f"{counted(len(outside), 'image', 'images')}, such as {names}",
            hint="--allow-outside reads them, if you trust who wrote these paths; or give the"
            " folder that holds both",
            id="images_outside",
        )
    text = "{count:image is|images are} outside of the data folder: {names}"
    note = remark("images_outside_allowed", text, count=len(outside), names=names)
    return replace(table, notes=(*table.notes, note))


def _is_outside(path: Path, here: str, stated: tuple[str, ...], normal: tuple[str, ...]) -> bool:
    """Whether a path leads out of all folders; these are given as stated, and as normal paths."""
    text = str(path)  # for many images text is much faster than paths
    if text.startswith(stated) and f"{os.sep}.." not in text:
        return False
    return not os.path.normpath(os.path.join(here, text)).startswith(normal)  # noqa: PTH118
