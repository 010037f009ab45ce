"""Images inside files: slices of volumes, frames of DICOM, rows of Parquet, members of archives.

Imports no torch: exported files predict for them where there is none.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from foveate.data.discovery import EXTENSIONS, extension_of, is_hidden, lacks_extension
from foveate.data.issues import IssueLog
from foveate.errors import BrokenImage, DataError
from foveate.images import dicom, nifti, slides
from foveate.images.codec import read_image, read_stored_values
from foveate.images.encoding import encode_bands, encode_pgm
from foveate.messages import counted
from foveate.predictions import Boxes, Regions
from foveate.types import IssueKind, Sample, StoredImage, Table, content_of
from foveate.utils.paths import printable

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import ChunkedArray

_OPEN_FILES = 8  # archives and row groups that are kept open in a process
ARCHIVES = (".zip", ".tar")  # those that are read in place
MAX_MEMBER_BYTES = 2**29  # of a member of an archive
_MEDICAL = frozenset((*nifti.VOLUME_EXTENSIONS, *slides.SLIDE_EXTENSIONS, *dicom.EXTENSIONS))

SLICED = IssueKind(
    "sliced_volumes", "volumes whose slices are read as images, with the label of the volume"
)
TILED = IssueKind(
    "tiled_slides",
    "whole slides whose tiles with tissue are read as images, with the label of the slide",
)
PATIENTS = IssueKind(
    "dicom_patients",
    "DICOM images grouped by a hash of the patient's identifier, which no file of the run contains",
)


@dataclass(frozen=True)
class SliceOfFile(StoredImage):
    """A slice of a NIfTI volume, or a frame of a DICOM file.

    Attributes:
        path: The file.
        index: Index of the slice, from 0.
    """

    path: Path
    index: int

    @property
    def format(self) -> str:
        return "NIfTI" if nifti.is_volume(self.path) else "DICOM"

    def content(self) -> bytes:
        """Return what the decoder reads.

        Raises:
            BrokenImage: The file cannot be read.
        """
        if nifti.is_volume(self.path):
            return encode_pgm(nifti.read_slice(self.path, self.index))
        try:
            return encode_pgm(dicom.render(self.path, self.index))
        except BrokenImage:
            raise
        except Exception as error:  # pydicom raises nearly anything
            raise _unreadable("frame", self.path, str(error)) from None


@dataclass(frozen=True)
class ChannelStack(StoredImage):
    """Images of one size, each of which is a band of one image. Needs tifffile.

    Attributes:
        channels: The images, in the order of the bands.
    """

    channels: tuple[Path | StoredImage, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the channels that are files of their own."""
        return tuple(each for each in self.channels if isinstance(each, Path))

    @property
    def format(self) -> str:
        first = self.channels[0]
        return first.format if isinstance(first, StoredImage) else first.suffix[1:].upper()

    def content(self) -> bytes:
        """Return what the decoder reads.

        Raises:
            BrokenImage: A file cannot be read, or they differ in size.
        """
        bands = [_read_band(content_of(channel)) for channel in self.channels]
        sizes = [f"{width} x {height} px" for height, width in (band.shape for band in bands)]
        if len(set(sizes)) > 1:
            raise BrokenImage(
                "the channels of this image differ in size",
                why=", ".join(sizes),
                hint="resample them to one size",
                id="channel_sizes_differ",
            )
        return encode_bands(bands)


def _read_band(source: Path | bytes) -> np.ndarray:
    """(H, W): the values of an image of one band; of colors the first one."""
    values = read_stored_values(source)
    if values.dtype.itemsize == 1:  # perhaps indices of a palette
        values = read_image(source)[0]
    return values[..., 0] if values.ndim == 3 else values


@dataclass(frozen=True)
class SlideTile(StoredImage):
    """A tile of a whole slide.

    Attributes:
        path: The slide.
        tile: Which one.
    """

    path: Path
    tile: slides.Tile

    @property
    def format(self) -> str:
        return self.path.suffix[1:].upper()

    def content(self) -> bytes:
        """Return what the decoder reads.

        Raises:
            BrokenImage: The slide cannot be read.
        """
        return encode_pgm(slides.read_tile(self.path, self.tile))


@dataclass(frozen=True)
class ParquetImage(StoredImage):
    """An image in a column of a Parquet file, as the datasets of Hugging Face have it.

    Attributes:
        path: The file.
        column: The column, a structure with the fields `bytes` and `path`.
        group: Index of the row group.
        row: Index of the row in its group.
    """

    path: Path
    column: str
    group: int
    row: int

    def content(self) -> Path | bytes:
        """Return what the decoder reads: the bytes in the cell, or else the file that it names.

        Raises:
            BrokenImage: The file cannot be read.
        """
        try:
            cell = _read_cells(self.path, self.column, self.group)[self.row].as_py() or {}
        except (OSError, ValueError, IndexError) as error:
            raise _unreadable("row", self.path, str(error)) from None
        if cell.get("bytes") is None and cell.get("path"):
            return self.path.parent / str(cell["path"])
        return bytes(cell.get("bytes") or b"")


@dataclass(frozen=True)
class ZipMember(StoredImage):
    """A member of a zip archive.

    Attributes:
        path: The archive.
        name: The name of the member.
    """

    path: Path
    name: str

    def content(self) -> bytes:
        """Return what the decoder reads.

        Raises:
            BrokenImage: It cannot be read, or is too large.
        """
        try:
            archive = _open_zip(self.path)
            if archive.getinfo(self.name).file_size > MAX_MEMBER_BYTES:
                raise _unreadable(
                    "member", self.path, f"it has more than {MAX_MEMBER_BYTES:,} bytes"
                )
            return archive.read(self.name)
        except (OSError, KeyError, RuntimeError, zipfile.BadZipFile, NotImplementedError) as error:
            raise _unreadable("member", self.path, f"{self.name}: {error}") from None


@dataclass(frozen=True)
class Entry(StoredImage):
    """An image file, or a member of a shard.

    Attributes:
        key: Its name.
        path: The image, or the shard.
        offset: Where it starts in the shard, bytes.
        length: Its size in the shard, bytes; None for an image file.
    """

    key: str
    path: Path
    offset: int = 0
    length: int | None = None

    def content(self) -> Path | bytes:
        """Return what the decoder reads.

        Raises:
            BrokenImage: The shard cannot be read anymore.
        """
        if self.length is None:
            return self.path
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.length)
        except OSError as error:
            raise BrokenImage(
                "the shard cannot be read", where=printable(self.path), why=str(error)
            ) from None


def _unreadable(part: str, path: Path, why: str) -> BrokenImage:
    return BrokenImage(
        f"this {part} of a file cannot be read",
        where=printable(path),
        why=why.replace("\n", " ")[:200],
        hint="check that the file is complete",
        id=f"unreadable_{part}",
    )


@lru_cache(maxsize=_OPEN_FILES)
def _open_zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@lru_cache(maxsize=_OPEN_FILES)
def _read_cells(path: Path, column: str, group: int) -> ChunkedArray:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)


# --- what a file holds


def walk_members(archive: Path) -> Iterator[tuple[str, ZipMember | Entry, int]]:
    """Yield name, content and size in bytes of the files in a .zip or .tar.

    Nothing is unpacked, so that no name of a member can lead anywhere.

    Raises:
        DataError: The archive cannot be read.
    """
    reader = _zip_members if archive.suffix.lower() == ".zip" else _tar_members
    try:
        yield from reader(archive.absolute())
    except (tarfile.TarError, zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            "the archive cannot be read",
            where=printable(archive),
            why=str(error),
            hint="copy it again; a .tar must be without compression",
            id="unreadable_archive",
        ) from None


def find_members(archive: Path) -> Iterator[tuple[str, StoredImage]]:
    """Yield name and image of the members of an archive that have the extension of an image.

    Raises:
        DataError: The archive cannot be read.
    """
    for name, image, size in walk_members(archive):
        parts = (part for part in PurePosixPath(name).parts if part != "..")
        is_sized = isinstance(image, ZipMember) or 0 < size <= MAX_MEMBER_BYTES
        if is_sized and extension_of(name) in EXTENSIONS and not any(map(is_hidden, parts)):
            yield printable(name), image


def _zip_members(archive: Path) -> Iterator[tuple[str, ZipMember, int]]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if not info.is_dir():
                name = info.filename.replace("\\", "/")
                yield name, ZipMember(archive, info.filename), info.file_size


def _tar_members(archive: Path) -> Iterator[tuple[str, Entry, int]]:
    with tarfile.open(archive, "r:") as file:
        for member in file:
            file.members = []  # type: ignore[attr-defined]  # it would keep all of them
            if member.isreg():
                name = member.name.removeprefix("./")
                yield name, Entry(name, archive, member.offset_data, member.size), member.size


def find_images_in(path: Path) -> dict[str, StoredImage]:
    """Return the images of a volume, a slide or a DICOM file by name; none where it is one image.

    Raises:
        BrokenImage: It cannot be read.
    """
    if slides.is_slide(path):
        tiles = slides.find_tiles(path)
        return {f"{x:06d}-{y:06d}": SlideTile(path, (level, x, y)) for level, x, y in tiles}
    is_volume = nifti.is_volume(path)
    count = nifti.count_slices(path) if is_volume else dicom.count_frames(path)
    if count == 1 and not is_volume:
        return {}
    return {f"{index:04d}": SliceOfFile(path, index) for index in range(count)}


def may_hold_images(name: str) -> bool:
    """Whether a file may be a volume, a slide or DICOM, by its name."""
    extension = extension_of(name)
    return extension in _MEDICAL or lacks_extension(extension)


# --- volumes in tables


def expand_volumes(table: Table) -> Table:
    """Return the table with an image for each slice of its volumes and each frame of DICOM.

    Slices keep the label and the split of their file, and form a group. DICOM images without a
    group are grouped by patient. Targets that belong to pixels stay with their file.
    """
    endings = {sample.key.rpartition(".")[2] for sample in table.samples}  # there are few
    if not any(may_hold_images(f".{ending}") or ending.lower() == "gz" for ending in endings):
        return table
    log, samples = IssueLog(), list[Sample]()
    for sample in table.samples:
        samples += _expand(sample, log) if _is_medical(sample) else [sample]
    return replace(table, samples=tuple(samples), notes=(*table.notes, *log.issues()))


def _is_medical(sample: Sample) -> bool:
    """Whether a file may hold several images, or state a patient, by its name."""
    # by the key: a path's own name takes ten times as long
    return not isinstance(sample.path, StoredImage) and may_hold_images(sample.key)


def _expand(sample: Sample, log: IssueLog) -> Iterator[Sample]:
    """Yield the images in a file; the file itself if it is one image, or cannot be read."""
    path, group = sample.file, sample.group
    try:
        images = find_images_in(path)
        is_dicom = not (nifti.is_volume(path) or slides.is_slide(path))
        patient = dicom.hashed_patient(path) if is_dicom and not group else None
    except DataError:  # decoding it will say what is wrong
        yield sample
        return
    if patient:
        log.add(PATIENTS, sample.key)
    if not images or isinstance(sample.target, Boxes | Regions):
        yield replace(sample, group=group or patient)
        return
    kind = TILED if slides.is_slide(path) else SLICED
    log.add(kind, sample.key, why=counted(len(images), "image", "images"))
    own = group or patient or sample.key
    for name, image in images.items():
        yield replace(sample, path=image, key=f"{sample.key}#{name}", group=own)
