"""Datasets: samples -> transformed images and targets.

Randomness is keyed by (seed, epoch, index): the number of workers, a resume or another order of
reading change nothing.
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
from foveate.images.codec import read_size
from foveate.images.preprocessing import tile_corners
from foveate.types import Batch, Sample, TargetTensors

SampleIndex = tuple[int, int]
"""Epoch, and index into the samples."""
Item = tuple[torch.Tensor, TargetTensors, torch.Tensor, torch.Tensor, int]
"""Image, target, view, size and index, as in Batch."""
Encode = Callable[[object, tuple[int, int]], TargetTensors]
"""A target and the (H, W) of the upright original -> tensors."""
MergeTiles = Callable[[Sequence[tuple[tuple[int, int], Any]], tuple[int, int]], Any]
"""Corner (x, y) and prediction of each tile, and the (H, W) of the image -> its prediction."""


class ImageDataset(Dataset[Item]):
    """Images and targets as tensors; items are indexed by (epoch, index).

    Args:
        samples: The images.
        cache: Decodes them.
        transform: From pixels to the input of the network.
        encode: From targets to tensors.
        seed: Of random transforms.
        mosaic: How images are combined at random; None for not at all.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        cache: ImageCache,
        transform: Transform,
        encode: Encode,
        seed: int,
        mosaic: Mosaic | None = None,
    ) -> None:
        self.samples, self.cache, self.transform = samples, cache, transform
        self.encode, self.seed, self.mosaic = encode, seed, mosaic

    def __len__(self) -> int:
        return len(self.samples)

    def name_of(self, index: int) -> str:
        """Return the key of a sample."""
        return self.samples[index].key

    def __getitem__(self, key: SampleIndex) -> Item:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            # the CPU's generator only: to seed that of an idle GPU takes 3 ms
            torch.default_generator.manual_seed(seed_from(self.seed, epoch, index))
            if self.mosaic is not None and self.mosaic.is_drawn():
                others = torch.randint(len(self.samples), (3,)).tolist()
                images = [self._read(each) for each in (index, *others)]
                pixels, size, target = self.mosaic.combine(images)
            else:
                pixels, size, target = self._read(index)
            image, view, target = self.transform(pixels, size, target)
        return image, target, torch.tensor(view), torch.tensor(size), index

    def _read(self, index: int) -> tuple[np.ndarray, tuple[int, int], TargetTensors]:
        sample = self.samples[index]
        pixels, size = self.cache.read(sample.path)
        return pixels, size, self.encode(sample.target, size) if sample.target is not None else {}

    def collate(self, items: Sequence[Item]) -> Batch:
        """Combine items into a batch."""
        images, targets, views, sizes, indices = zip(*items, strict=True)
        return Batch(
            images=torch.stack(images),
            targets=list(targets),
            views=torch.stack(views),
            sizes=torch.stack(sizes),
            indices=torch.tensor(indices),
            spec=self.transform.spec if isinstance(self.transform, DeferredNormalize) else None,
        )

    def merge_predictions(self, predictions: Sequence[Any]) -> list[Any]:
        """Return a prediction for each sample, given those for each item."""
        return list(predictions)


class TiledDataset(ImageDataset):
    """Tiles of images at full resolution; neighbors overlap by at least a quarter.

    Args:
        samples: The images.
        cache: Decodes them.
        transform: From pixels to the input of the network.
        encode: From targets to tensors.
        seed: Of random transforms.
        side: Side of a tile, px.
        merge_tiles: Combines the predictions for the tiles of an image.

    Attributes:
        sizes: (H, W) of each image.
        tiles: Index of the sample and upper left corner (x, y) of each item.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        cache: ImageCache,
        transform: Transform,
        encode: Encode,
        seed: int,
        side: int,
        merge_tiles: MergeTiles,
    ) -> None:
        super().__init__(samples, cache, transform, encode, seed)
        self.side, self.merge_tiles = side, merge_tiles
        self.sizes = [read_size(sample.source) for sample in samples]
        self.tiles = [
            (index, corner)
            for index, size in enumerate(self.sizes)
            for corner in tile_corners(size, side)
        ]

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, key: SampleIndex) -> Item:
        index, (x, y) = self.tiles[key[1]]
        pixels, _, target = self._read(index)
        tile = pixels[y : y + self.side, x : x + self.side]
        size = tile.shape[:2]
        image, view, target = self.transform(tile, size, crop_target(target, x, y, size))
        return image, target, torch.tensor(view), torch.tensor(size), index

    def merge_predictions(self, predictions: Sequence[Any]) -> list[Any]:
        """Return a prediction for each sample, given those for each tile."""
        tiles: list[list[tuple[tuple[int, int], Any]]] = [[] for _ in self.samples]
        for (index, corner), prediction in zip(self.tiles, predictions, strict=True):
            tiles[index].append((corner, prediction))
        pairs = zip(tiles, self.sizes, strict=True)
        return [self.merge_tiles(own, size) for own, size in pairs]


def seed_from(*parts: object) -> int:
    """Return a 63-bit seed from any words and numbers, the same on every machine."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
