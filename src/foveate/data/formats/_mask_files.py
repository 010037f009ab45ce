"""Files of masks: images, arrays (.npy, .npz), and TIFFs of several pages.

K: number of layers of a mask that has one for each class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foveate.data.discovery import is_image
from foveate.errors import BrokenImage
from foveate.images import nifti
from foveate.images.codec import (
    read_header,
    read_image,
    read_index_mask,
    read_mask_pages,
    read_size,
)
from foveate.utils.paths import printable

ARRAYS = frozenset({".npy", ".npz"})
LOSSY = frozenset({".jpg", ".jpeg", ".jfif"})
_PAGED = frozenset({".tif", ".tiff"})
_TINT = 24  # by which JPEG changes the channels of gray
_MAX_LAYERS = 256
_MAX_VALUES = 2**32  # of an array, 4 GB of bytes


def is_mask_file(path: Path) -> bool:
    """Whether a file has the extension of an image or an array; it is not opened."""
    return is_image(path) or path.suffix.lower() in ARRAYS


def is_lossy(path: Path) -> bool:
    """Whether the format of a file changes the values of its pixels."""
    return path.suffix.lower() in LOSSY


def mask_size(path: Path) -> tuple[int, int]:
    """Return the (H, W) of a mask.

    Raises:
        BrokenImage: It cannot be read.
    """
    if path.suffix.lower() not in ARRAYS:
        return read_size(path)
    shape = _layers_first(_load(path), path).shape
    return shape[-2], shape[-1]


def read_layers_of(path: Path) -> np.ndarray | None:
    """Return the layers of a mask that has one for each class, (K, H, W) bool; None if it has one.

    Raises:
        BrokenImage: It cannot be read, or its layers hold more than two values.
    """
    suffix = path.suffix.lower()
    if suffix in ARRAYS:
        values = _layers_first(_load(path), path)
        layers = values if values.ndim == 3 else None
    elif suffix in _PAGED:
        pages = read_mask_pages(path) if read_header(path).is_multi_frame else []
        layers = np.stack(pages) if len(pages) > 1 else None
    else:
        layers = None
    if layers is None:
        return None
    for layer in layers:
        if len(np.unique(layer)) > 2 or layer.min() < 0:
            raise BrokenImage(
                "a layer of this mask holds more than two values",
                where=printable(path),
                why=f"of {len(layers)} layers of {layer.shape[1]} x {layer.shape[0]} px, one holds"
                f" {len(np.unique(layer))} values",
                hint="save one layer of 0 and 1 for each class, or one layer that holds the"
                " number of the class",
                id="mask_layer_values",
            )
    return np.asarray(layers > 0)


def read_values(path: Path) -> np.ndarray | None:
    """Return the values of a mask of one layer, (H, W) integers; None if it is in color.

    The slices of a volume are one below the other.

    Raises:
        BrokenImage: It cannot be read.
    """
    if path.suffix.lower() in ARRAYS:
        array = _layers_first(_load(path), path)
        if array.ndim == 3:
            raise _broken(path, f"it has {len(array)} layers, others of the same data have one")
        return array
    if nifti.is_volume(path):
        return nifti.read_all_values(path)
    try:
        return read_index_mask(path)
    except BrokenImage as error:
        if error.id != "mask_has_colors":
            raise
    if not is_lossy(path):
        return None
    pixels = read_image(path)[0].astype(np.int16)
    tint = pixels.max(axis=-1) - pixels.min(axis=-1)
    return pixels[..., 1].astype(np.uint8) if np.quantile(tint, 0.999) <= _TINT else None


# --- arrays


def _load(path: Path) -> np.ndarray:
    """The only array in a file, as integers."""
    if not path.is_file():
        raise _broken(path, "there is nothing at this path")
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.lib.npyio.NpzFile):
                with content:
                    names = list(content.files)
                    if len(names) != 1:
                        raise _several_arrays(path, names)
                    content = content[names[0]]
    except BrokenImage:
        raise
    except ValueError as error:
        if "Object arrays" in str(error) or _begins_as_pickle(path):
            raise _pickled(path) from None
        raise _broken(path, str(error)) from None
    except Exception as error:  # a damaged file makes NumPy and zipfile raise nearly anything
        raise _broken(path, str(error)) from None
    return _whole_numbers(content, path)


def _begins_as_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise BrokenImage(
                "this mask has fractions instead of class numbers",
                where=printable(path),
                why=f"its type is {values.dtype}",
                id="mask_fractions",
            )
        values = values.astype(np.int64)
    if values.dtype.kind not in "biu" or values.size > _MAX_VALUES:
        raise _broken(path, f"it holds {values.size} values of the type {values.dtype}")
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def _layers_first(values: np.ndarray, path: Path) -> np.ndarray:
    """(H, W), or (K, H, W): the shorter one of the first and the last axis counts the layers."""
    shape = values.shape
    if 0 in shape:
        raise _broken(path, f"its shape is {shape}")
    if values.ndim == 3 and 1 in (shape[0], shape[2]):
        values = values[0] if shape[0] == 1 else values[..., 0]
    if values.ndim == 3 and shape[0] != shape[2] and min(shape[0], shape[2]) <= _MAX_LAYERS:
        values = values if shape[0] < shape[2] else np.moveaxis(values, -1, 0)
    elif values.ndim != 2:
        raise _broken(
            path, f"its shape is {shape}; it has to be (H, W), (H, W, classes) or (classes, H, W)"
        )
    return values


def _broken(path: Path, why: str) -> BrokenImage:
    return BrokenImage(
        "this array is not a mask",
        where=printable(path),
        why=why.replace("\n", " ")[:200],
        hint="save an array of integers with numpy.save",
        id="array_not_a_mask",
    )


def _several_arrays(path: Path, names: list[str]) -> BrokenImage:
    return BrokenImage(
        "this file holds several arrays",
        where=printable(path),
        why="they are: " + ", ".join(names[:8]),
        hint="save the mask alone: numpy.savez_compressed(path, mask)",
        id="several_arrays",
    )


def _pickled(path: Path) -> BrokenImage:
    return BrokenImage(
        "this array holds Python objects, which may run any program when they are opened",
        where=printable(path),
        why="it was saved with pickle, as Cellpose saves its _seg.npy",
        hint="save the mask as a PNG (in Cellpose: File, Save masks as PNG), or as an array of"
        " integers",
        id="pickled_mask",
    )
