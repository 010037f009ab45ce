"""Images by the million: a list on disk, of which 8 bytes per image are held in memory.

The images are in folders, tables or tar shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from foveate.data.dataset import ImageDataset
from foveate.data.discovery import find_images
from foveate.data.image_cache import ImageCache
from foveate.data.image_rows import ImageFinder
from foveate.data.records import ALIASES, is_table, read_records
from foveate.data.stored_images import Entry, find_members
from foveate.data.transforms import Transform
from foveate.errors import BrokenImage, DataError
from foveate.types import TargetTensors
from foveate.utils import log
from foveate.utils.files import atomic_write
from foveate.utils.paths import printable

SHARDS = (".tar",)
_MAX_BROKEN = 16  # images in a row that may be unreadable


class Catalog:
    """A list of images in a file with one line of JSON per image.

    Args:
        file: The list, as `write` wrote it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        ends = [0]
        with file.open("rb") as lines:
            for line in lines:
                ends.append(ends[-1] + len(line))
        self.starts = np.array(ends, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Entry:
        with self.file.open("rb") as lines:
            lines.seek(int(self.starts[index]))
            key, path, offset, length = json.loads(lines.readline())
        return Entry(key, Path(path), offset, length)

    @classmethod
    def write(cls, file: Path, entries: Iterable[Entry]) -> Catalog:
        """Write a list of images, one by one; return it."""
        with atomic_write(file) as aside, aside.open("w", encoding="utf-8") as lines:
            for entry in entries:
                row = [entry.key, str(entry.path), entry.offset, entry.length]
                lines.write(json.dumps(row) + "\n")
        return cls(file)


def find_entries(source: Path) -> Iterator[Entry]:
    """Find the images of a source, one by one.

    Args:
        source: A folder (with images and shards at any depth), a shard, or a table with paths.

    Raises:
        DataError: The source is none of these, or cannot be read.
    """
    if source.is_dir():
        yield from _in_folder(source)
    elif source.suffix.lower() in SHARDS:
        yield from _in_shard(source, source.name)
    elif is_table(source):
        finder = ImageFinder(source)
        for record in read_records(source, {"path": ALIASES["path"]}, ("path",)):
            path, key = finder.find_file(record.cells["path"], record.number)
            yield Entry(key, path)
    else:
        raise DataError(
            "this is not a source of images",
            where=printable(source),
            hint="give a folder of images, .tar shards, or a table with a column path",
        )


def _in_folder(folder: Path) -> Iterator[Entry]:
    for path in find_images(folder):
        yield Entry(printable(path.relative_to(folder)), path.absolute())
    for shard in sorted(folder.rglob("*.tar")):
        yield from _in_shard(shard, printable(shard.relative_to(folder)))


def _in_shard(shard: Path, name: str) -> Iterator[Entry]:
    for member, image in find_members(shard):
        assert isinstance(image, Entry)
        yield replace(image, key=f"{name}/{member}")


class Stream(ImageDataset):
    """The images of a catalog, read on demand, without targets.

    Unreadable images are replaced by the next readable one and reported once.
    """

    def __init__(
        self, catalog: Catalog, cache: ImageCache, transform: Transform, seed: int
    ) -> None:
        super().__init__((), cache, transform, lambda target, size: {}, seed)
        self.catalog, self.unreadable = catalog, dict[int, str]()

    def __len__(self) -> int:
        return len(self.catalog)

    def name_of(self, index: int) -> str:
        """Return the key of an image."""
        return self.catalog[index].key

    def _read(self, index: int) -> tuple[np.ndarray, tuple[int, int], TargetTensors]:
        for step in range(min(_MAX_BROKEN, len(self))):
            candidate = (index + step) % len(self)
            entry = self.catalog[candidate]
            try:
                return *self.cache.read(entry), {}
            except BrokenImage as error:
                if candidate not in self.unreadable:
                    self.unreadable[candidate] = error.why or error.what
                    log.warning(f"skipped {entry.key}: {self.unreadable[candidate]}")
        raise DataError(
            f"{_MAX_BROKEN} images in a row cannot be read", where=self.catalog[index].key
        )


def spread_indices(catalog: Catalog, count: int) -> Iterable[int]:
    """Return indices spread evenly over a catalog."""
    last, count = len(catalog) - 1, min(count, len(catalog))
    return torch.linspace(0, last, count).round().long().tolist()
