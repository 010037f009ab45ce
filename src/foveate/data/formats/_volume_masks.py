"""NIfTI volumes with volumes of class numbers: their axial slices as images with masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from foveate.data.formats._mask_values import MaskEncoding, class_indices
from foveate.data.issues import IssueLog, skip_and_record
from foveate.data.stored_images import ChannelStack, SliceOfFile
from foveate.errors import BrokenImage, DataError
from foveate.images import nifti
from foveate.messages import counted
from foveate.predictions import Regions
from foveate.types import IssueKind, Sample
from foveate.utils.paths import printable

_SLICES = IssueKind(
    "slices_of_volumes", "volumes whose axial slices are read as images, one group for each volume"
)
_BROKEN = IssueKind("broken_volumes", "volumes that cannot be read, dropped", "error", "files")


def slices_of(
    volume: Sample,
    label: Path,
    encoding: MaskEncoding,
    log: IssueLog,
    channels: Sequence[Path] = (),
) -> Iterator[Sample]:
    """Yield the axial slices of a volume, which form a group.

    Args:
        volume: The volume.
        label: The volume of its class numbers.
        encoding: What the numbers mean.
        log: What is read as slices, and what is broken.
        channels: All of the volumes that are bands of the same image, if there are several.

    Raises:
        DataError: The two volumes differ in size.
    """
    image = volume.file
    try:
        own, others = nifti.volume_size(image), nifti.volume_size(label)
    except BrokenImage as error:
        log.add(_BROKEN, volume.key, why=f"{error.brief}; {error.hint}")
        return
    with skip_and_record():
        if own != others:
            raise DataError(
                "the label volume does not have the size of its image",
                where=printable(label),
                why=f"slices, height and width are {others}, those of the image {own}",
                hint="resample the labels to the image, by nearest neighbor",
                id="volume_size_differs",
            )
        log.add(_SLICES, volume.key, why=counted(own[0], "slice", "slices"))
        for index in range(own[0]):
            target = Regions(partial(_read_label_slice, label, index, encoding))
            bands = tuple(SliceOfFile(channel, index) for channel in channels)
            yield replace(
                volume,
                path=ChannelStack(bands) if bands else SliceOfFile(image, index),
                key=f"{volume.key}#{index:04d}",
                target=target,
                group=volume.key,
            )


def _read_label_slice(label: Path, index: int, encoding: MaskEncoding) -> np.ndarray:
    return class_indices(nifti.read_slice_values(label, index), label, encoding)
