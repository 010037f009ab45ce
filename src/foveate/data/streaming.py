"""Pictures by the million: a list on disk, of which 8 bytes each are in memory; from folders, tables and tar shards."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foveate.data.dataset import ImageDataset
from foveate.data.discovery import find_images, is_image
from foveate.data.image_cache import ImageCache
from foveate.data.records import ALIASES, is_table, place_of, records
from foveate.data.transforms import Transform
from foveate.errors import BrokenImage, DataError
from foveate.types import StoredImage, TargetTensors
from foveate.utils import log
from foveate.utils.files import atomic_write
from foveate.utils.paths import printable

SHARDS = (".tar",)
_LARGEST = 1 << 29  # bytes of a picture in a shard
_TRIES = 16  # pictures in a row that may be broken


@dataclass(frozen=True)
class Entry(StoredImage):
    """A picture: a file, or so many bytes from an offset in a shard. `key` names it."""

    key: str
    path: Path
    offset: int = 0
    length: int | None = None

    def content(self) -> Path | bytes:
        """What the decoder reads. Raises BrokenImage where the shard cannot be read any more."""
        if self.length is None:
            return self.path
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.length)
        except OSError as error:
            raise BrokenImage(
                "this shard cannot be read", where=printable(self.path), why=str(error)
            ) from None


class Catalogue:
    """The pictures of a list on disk, in its order; `file` has a line of JSON each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        ends = [0]
        with file.open("rb") as lines:
            for line in lines:
                ends.append(ends[-1] + len(line))
        self.starts = np.array(ends, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, place: int) -> Entry:
        with self.file.open("rb") as lines:
            lines.seek(int(self.starts[place]))
            key, path, offset, length = json.loads(lines.readline())
        return Entry(key, Path(path), offset, length)

    @classmethod
    def listed(cls, file: Path, found: Iterable[Entry]) -> Catalogue:
        """Writes the list, as the entries come."""
        with atomic_write(file) as aside, aside.open("w", encoding="utf-8") as lines:
            for entry in found:
                lines.write(
                    json.dumps([entry.key, str(entry.path), entry.offset, entry.length]) + "\n"
                )
        return cls(file)


def entries(source: Path) -> Iterator[Entry]:
    """The pictures of a folder (with pictures and shards at any depth), a shard, or a table with a column path, one after the
    other. Raises DataError for a table or a shard that cannot be read."""
    if source.is_dir():
        yield from _of_folder(source)
    elif source.suffix.lower() in SHARDS:
        yield from _of_shard(source, source.name)
    elif is_table(source):
        for number, cells in records(source, {"path": ALIASES["path"]}, ("path",)):
            path, key = place_of(cells["path"], source, number)
            yield Entry(key, path)
    else:
        hint = "a folder of pictures, .tar shards, or a table with a column path"
        raise DataError(
            "there are no pictures to learn from here", where=printable(source), hint=hint
        )


def _of_folder(folder: Path) -> Iterator[Entry]:
    for path in find_images(folder):
        yield Entry(printable(path.relative_to(folder)), path.absolute())
    for shard in sorted(folder.rglob("*.tar")):
        yield from _of_shard(shard, printable(shard.relative_to(folder)))


def _of_shard(shard: Path, name: str) -> Iterator[Entry]:
    """Only plain files whose names end like a picture's; nothing is unpacked, so that no name can lead anywhere."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                if member.isreg() and 0 < member.size <= _LARGEST and is_image(Path(member.name)):
                    yield Entry(
                        f"{name}/{printable(member.name)}",
                        shard.absolute(),
                        member.offset_data,
                        member.size,
                    )
    except (tarfile.TarError, OSError, ValueError) as error:
        hint = "shards are plain .tar files, without compression"
        raise DataError(
            "this shard cannot be read", where=printable(shard), why=str(error), hint=hint
        ) from None


class Stream(ImageDataset):
    """The pictures of a catalogue, read as they are asked for. One that cannot be read gives its place to the next one, and is
    named once."""

    def __init__(
        self, catalogue: Catalogue, pixels: ImageCache, transform: Transform, seed: int
    ) -> None:
        super().__init__((), pixels, transform, lambda truth, size: {}, seed)
        self.catalogue, self.broken = catalogue, dict[int, str]()

    def __len__(self) -> int:
        return len(self.catalogue)

    def name_of(self, index: int) -> str:
        return self.catalogue[index].key

    def _read(self, index: int) -> tuple[np.ndarray, tuple[int, int], TargetTensors]:
        for step in range(min(_TRIES, len(self))):
            place = (index + step) % len(self)
            entry = self.catalogue[place]
            try:
                return *self.pixels.read(entry), {}
            except BrokenImage as error:
                if place not in self.broken:
                    self.broken[place] = error.why or error.what
                    log.warning(f"skipped {entry.key}: {self.broken[place]}")
        raise DataError(
            f"{_TRIES} pictures in a row cannot be read", where=self.catalogue[index].key
        )


def sampled(catalogue: Catalogue, count: int) -> Iterable[int]:
    """Places spread evenly over the catalogue."""
    return torch.linspace(0, len(catalogue) - 1, min(count, len(catalogue))).round().long().tolist()
