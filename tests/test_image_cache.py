"""The cache of decoded images: in memory, then in a file, without changing results."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.data import image_cache
from foveate.data.dataset import ImageDataset
from foveate.data.image_cache import ImageCache
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.transforms import evaluation_transform
from foveate.types import InputSpec, Sample
from foveate.utils import memory

SIDE, IMAGE_BYTES = 16, 16 * 16 * 3  # pixels; bytes of a decoded image


@pytest.fixture
def images(tmp_path):
    rng, paths = np.random.default_rng(0), []
    for index in range(12):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(paths[-1])
    return paths


@pytest.fixture
def small_cache(monkeypatch, tmp_path):
    """A cache with memory for a little more than two images."""
    monkeypatch.setattr(memory, "total_memory", lambda: 4 * (2 * IMAGE_BYTES + 100))
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    return ImageCache(SIDE, "crop", keep=True)


def record_decodes(monkeypatch):
    """Record the sources that are decoded from now on."""
    sources, read_image = [], image_cache.read_image

    def record_and_read(source, *sides):
        sources.append(source)
        return read_image(source, *sides)

    monkeypatch.setattr(image_cache, "read_image", record_and_read)
    return sources


def test_a_cache_larger_than_memory_is_kept_in_a_file_unchanged(
    small_cache, images, monkeypatch, tmp_path
):
    decoded = record_decodes(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        first = list(pool.map(small_cache.read, images))
    second = [small_cache.read(path) for path in images]
    assert len(decoded) == len(images)
    assert all(
        (one[0] == other[0]).all() and one[1] == other[1]
        for one, other in zip(first, second, strict=True)
    )
    assert len(small_cache._kept) == 2
    assert not list((tmp_path / "cache").iterdir())  # an unnamed file: nothing to clean up


def test_loader_workers_read_the_cache_too(small_cache, images, monkeypatch):
    expected = [small_cache.read(path)[0].copy() for path in images]
    monkeypatch.setattr(
        image_cache, "read_image", raise_disk_full
    )  # any further decoding would fail
    samples = [Sample(path, path.name) for path in images]
    dataset = ImageDataset(
        samples,
        small_cache,
        evaluation_transform(InputSpec(SIDE, (0, 0, 0), (1, 1, 1)), "crop"),
        lambda target, size: {},
        0,
    )
    for workers in (2, 0):
        loader = make_loader(dataset, BatchSampler(len(dataset), 4), workers)
        loaded = torch.cat([batch.images for batch in loader])
        assert (loaded.permute(0, 2, 3, 1).numpy() == np.stack(expected)).all()


def raise_disk_full(*arguments):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("problem", ["full", "half", "nowhere"])
def test_a_full_disk_does_not_change_the_result(
    small_cache, images, monkeypatch, tmp_path, problem
):
    if problem == "full":
        monkeypatch.setattr(os, "pwrite", raise_disk_full)
    elif problem == "half":  # half of the free space: three images
        monkeypatch.setattr(
            shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 6 * IMAGE_BYTES})
        )
    else:
        (tmp_path / "cache").write_text("a file where a folder should be")
    decoded = record_decodes(monkeypatch)
    for _ in range(2):
        for path in images:
            assert (small_cache.read(path)[0] == np.asarray(Image.open(path))).all()
    cached = 2 + (3 if problem == "half" else 0)
    assert len(decoded) == len(images) + (len(images) - cached)


def test_nothing_is_kept_unless_requested(images, monkeypatch):
    decoded, cache = record_decodes(monkeypatch), ImageCache(SIDE, "crop", keep=False)
    for _ in range(2):
        cache.read(images[0])
    assert len(decoded) == 2


def test_memory_is_that_of_the_container(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    machine = memory.total_memory()
    assert machine > 2**28
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("905\n")
    (tmp_path / "memory.stat").write_text(
        "anon 5\nactive_file 0\ninactive_file 900\n"
    )  # the page cache does not count
    assert memory.total_memory() == machine
    (tmp_path / "memory.max").write_text(f"{2**27}\n")
    assert memory.total_memory() == 2**27
    assert memory.available_memory() == 2**27 - 5
    assert (
        image_cache.MEMORY_SHARE * memory.total_memory()
        == ImageCache(SIDE, "crop", keep=True).free_bytes
    )
