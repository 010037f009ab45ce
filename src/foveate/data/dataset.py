"""A Table -> scanned pictures -> splits -> loaders of Batch.

Chance is keyed by (seed, epoch, index), so the number of workers, a resume or another order of reading changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from foveate.data.image_cache import ImageCache
from foveate.data.mosaic import Mosaic
from foveate.data.transforms import DeferredNormalize, Transform, crop_target
from foveate.images import codec as images
from foveate.images.preprocessing import tile_corners
from foveate.types import Batch, Sample, TargetTensors

SampleIndex = tuple[int, int]  # (epoch, index into the samples)
Item = tuple[
    torch.Tensor, TargetTensors, torch.Tensor, torch.Tensor, int
]  # of Pictures: image, target, view, size, index
Encode = Callable[[object, tuple[int, int]], TargetTensors]
Join = Callable[[Sequence[tuple[tuple[int, int], Any]], tuple[int, int]], Any]


class ImageDataset(Dataset[Item]):
    """Samples made ready; an item is asked for as (epoch, index). With a `mosaic`, some are shown together with three others."""

    def __init__(
        self,
        samples: Sequence[Sample],
        pixels: ImageCache,
        transform: Transform,
        encode: Encode,
        seed: int,
        mosaic: Mosaic | None = None,
    ) -> None:
        self.samples, self.pixels, self.transform, self.encode, self.seed = (
            samples,
            pixels,
            transform,
            encode,
            seed,
        )
        self.mosaic = mosaic

    def __len__(self) -> int:
        return len(self.samples)

    def name_of(self, index: int) -> str:
        """What the picture at this place is called."""
        return self.samples[index].key

    def __getitem__(self, place: SampleIndex) -> Item:
        epoch, index = place
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                seed_from(self.seed, epoch, index)
            )  # no GPU: to seed one that sleeps takes 3 ms
            if self.mosaic is not None and self.mosaic.is_drawn():
                others = torch.randint(len(self.samples), (3,)).tolist()
                pixels, size, target = self.mosaic.combine(
                    [self._read(each) for each in (index, *others)]
                )
            else:
                pixels, size, target = self._read(index)
            image, view, target = self.transform(pixels, size, target)
        return image, target, torch.tensor(view), torch.tensor(size), index

    def _read(self, index: int) -> tuple[np.ndarray, tuple[int, int], TargetTensors]:
        sample = self.samples[index]
        pixels, size = self.pixels.read(sample.path)
        return pixels, size, self.encode(sample.target, size) if sample.target is not None else {}

    def collate(self, items: Sequence[Item]) -> Batch:
        """Items as one batch."""
        images, targets, views, sizes, indices = zip(*items, strict=True)
        spec = self.transform.spec if isinstance(self.transform, DeferredNormalize) else None
        return Batch(
            torch.stack(images),
            list(targets),
            torch.stack(views),
            torch.stack(sizes),
            torch.tensor(indices),
            spec,
        )

    def merge_predictions(self, answers: Sequence[Any]) -> list[Any]:
        """An answer for each sample, in their order, from those for each item."""
        return list(answers)


class TiledDataset(ImageDataset):
    """Samples seen through windows: an item is a square of `side` px, cut out of a picture at full resolution.

    Neighbours overlap by a quarter at least. `join` makes one answer of those to the windows of a picture. `places`: the sample
    and the upper left corner (x, y) of each item.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        pixels: ImageCache,
        transform: Transform,
        encode: Encode,
        seed: int,
        side: int,
        join: Join,
    ) -> None:
        super().__init__(samples, pixels, transform, encode, seed)
        self.side, self.join = side, join
        self.sizes = [images.read_size(sample.source) for sample in samples]
        self.tiles = [
            (index, (x, y))
            for index, size in enumerate(self.sizes)
            for x, y in tile_corners(size, side)
        ]

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, place: SampleIndex) -> Item:
        index, (x, y) = self.tiles[place[1]]
        pixels, _, target = self._read(index)
        part = pixels[y : y + self.side, x : x + self.side]
        image, view, target = self.transform(
            part, part.shape[:2], crop_target(target, x, y, part.shape[:2])
        )
        return image, target, torch.tensor(view), torch.tensor(part.shape[:2]), index

    def merge_predictions(self, answers: Sequence[Any]) -> list[Any]:
        parts: list[list[tuple[tuple[int, int], Any]]] = [[] for _ in self.samples]
        for (index, corner), answer in zip(self.tiles, answers, strict=True):
            parts[index].append((corner, answer))
        return [self.join(found, size) for found, size in zip(parts, self.sizes, strict=True)]


def seed_from(*parts: object) -> int:
    """A 63-bit seed from any words and numbers, the same on every machine."""
    return (
        int.from_bytes(
            hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big"
        )
        >> 1
    )
