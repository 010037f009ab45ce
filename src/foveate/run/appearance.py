"""What the images of a run look like, to recognize them in another encoding or size."""

from __future__ import annotations

import numpy as np

from foveate.data.duplicates import Appearance
from foveate.data.scan import ScannedTable
from foveate.run.folder import THUMBNAILS_FILE, Run

_MAX_IMAGES = 50_000  # 58 MB; with more images only equal files are recognized


def appearance_of(scanned: ScannedTable) -> Appearance | None:
    """Return what scanned images look like; None if their colors are not known."""
    if scanned.tints is None or not len(scanned.thumbnails):
        return None
    return Appearance(scanned.thumbnails, scanned.tints).reduced()


def write_appearance(run: Run, scanned: ScannedTable) -> None:
    """Keep what the images of a run look like, in the order of splits.csv."""
    import torch

    appearance = appearance_of(scanned)
    if appearance is None or len(appearance) > _MAX_IMAGES:
        return
    arrays = {"thumbnails": appearance.thumbnails, "tints": appearance.tints}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    run.write_tensors(THUMBNAILS_FILE, tensors)


def read_appearance(run: Run, count: int) -> Appearance | None:
    """Return what the `count` images of a run look like; None if that is not known."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(run.folder / THUMBNAILS_FILE)
        appearance = Appearance(arrays["thumbnails"], arrays["tints"])
    except (OSError, SafetensorError, KeyError):
        return None
    shapes = appearance.thumbnails.shape[1:], appearance.tints.shape
    fits = shapes == ((32, 32), (count, 2, 64)) and len(appearance) == count
    return appearance if fits and appearance.thumbnails.dtype == np.uint8 else None
