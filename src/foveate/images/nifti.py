"""NIfTI volumes: axial slices as gray images. Needs nibabel."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import BrokenImage
from foveate.images.installed import require_reader
from foveate.utils.paths import printable

VOLUME_EXTENSIONS = (".nii", ".nii.gz")
MAX_VOXELS = 2**28
_PERCENTILES = (0.5, 99.5)  # of a volume: black and white
_VOLUMES_KEPT = 4  # decoded volumes in memory: slices, of up to four channels, follow each other


def is_volume(path: Path) -> bool:
    """Whether a file is a NIfTI volume, by its name."""
    return path.name.lower().endswith(VOLUME_EXTENSIONS)


def count_slices(path: Path) -> int:
    """Return the number of axial slices, from the header.

    Raises:
        BrokenImage: It cannot be read, or is too large.
    """
    shape, axis = _read_shape(path)
    return shape[axis]


def read_slice(path: Path, index: int) -> np.ndarray:
    """Return an axial slice with the patient's front at the top, as viewers show it.

    Black and white are percentiles of the whole volume, so that its slices are comparable.

    Args:
        path: The file.
        index: Index of the slice, from the feet upwards, from 0.

    Returns:
        (H, W) uint8.

    Raises:
        BrokenImage: The volume cannot be read.
    """
    status = path.stat()
    return np.rot90(_read_volume(path, status.st_mtime_ns, status.st_size)[..., index])


def volume_size(path: Path) -> tuple[int, int, int]:
    """Return the number of slices, and their height and width, px, from the header.

    Raises:
        BrokenImage: It cannot be read, or is too large.
    """
    shape, _ = _read_shape(path)
    nibabel = _nibabel()
    axes = nibabel.io_orientation(nibabel.load(path).affine)[:, 0].astype(int).tolist()
    width, height, slices = (shape[axes.index(axis)] for axis in range(3))
    return slices, height, width


def read_slice_values(path: Path, index: int) -> np.ndarray:
    """Return an axial slice of a volume of class numbers, as `read_slice` turns it.

    Args:
        path: The file.
        index: Index of the slice, from the feet upwards, from 0.

    Returns:
        (H, W) int32.

    Raises:
        BrokenImage: The volume cannot be read, or holds fractions.
    """
    status = path.stat()
    return np.rot90(_read_labels(path, status.st_mtime_ns, status.st_size)[..., index])


def read_all_values(path: Path) -> np.ndarray:
    """Return a volume of class numbers as (slices x H, W) int32, one slice below the other.

    Raises:
        BrokenImage: The volume cannot be read, or holds fractions.
    """
    status = path.stat()
    values = np.rot90(_read_labels(path, status.st_mtime_ns, status.st_size))
    return np.moveaxis(values, -1, 0).reshape(-1, values.shape[1])


@lru_cache(maxsize=_VOLUMES_KEPT)
def _read_labels(path: Path, modified: int, size: int) -> np.ndarray:
    """(X, Y, Z) int32, in the axes of `_read_volume`."""
    values = _read_canonical(path)
    whole = np.rint(values)
    if not np.isfinite(values).all() or (np.abs(values - whole) > 1e-3).any():  # stored as floats
        raise BrokenImage(
            "this mask has fractions instead of class numbers",
            where=printable(path),
            why=f"its type is {values.dtype}",
            id="mask_fractions",
        )
    return np.asarray(whole, dtype=np.int32)


@lru_cache(maxsize=_VOLUMES_KEPT)
def _read_volume(path: Path, modified: int, size: int) -> np.ndarray:
    """(X, Y, Z) uint8, in the axes right, anterior, superior; the first of a series."""
    values = np.nan_to_num(_read_canonical(path).astype(np.float32))
    low, high = np.percentile(values[:: max(1, values.shape[0] // 64)], _PERCENTILES)
    if high <= low:  # nearly all of it is background
        low, high = values.min(), values.max()
    scale = 255 / (high - low) if high > low else 0
    return np.asarray(((values - low) * scale).clip(0, 255).round(), dtype=np.uint8)


def _read_canonical(path: Path) -> np.ndarray:
    """(X, Y, Z) in the type of the file."""
    _read_shape(path)
    nibabel = _nibabel()
    try:
        values = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    except Exception as error:  # a damaged file makes nibabel raise nearly anything
        raise _unreadable(path, str(error)) from None
    return np.asarray(values.reshape(*values.shape[:3], -1)[..., 0])


def _read_shape(path: Path) -> tuple[tuple[int, ...], int]:
    """The stored shape, and which of its axes runs from the feet to the head."""
    require_reader("nibabel", "a NIfTI volume", printable(path))
    nibabel = _nibabel()
    try:
        image = nibabel.load(path)
        shape = tuple(image.shape)
        axis = [code in ("S", "I") for code in nibabel.aff2axcodes(image.affine)].index(True)
    except Exception as error:  # a damaged file makes nibabel raise nearly anything
        raise _unreadable(path, str(error)) from None
    if len(shape) < 3 or not 0 < math.prod(shape[:3]) <= MAX_VOXELS:
        raise _unreadable(path, f"its shape is {shape}, which is no volume of images")
    return shape, axis


def _nibabel() -> Any:
    """The package, whose functions are partly untyped."""
    import nibabel

    return nibabel


def _unreadable(path: Path, why: str) -> BrokenImage:
    return BrokenImage(
        "this volume cannot be read",
        where=printable(path),
        why=why.replace("\n", " "),
        hint="export it again, or remove it",
        id="unreadable_volume",
    )
