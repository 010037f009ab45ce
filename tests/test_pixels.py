"""Decoded pictures that are kept: in memory, beyond it in a file, and never at the cost of the result."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.data import image_cache as pixels
from foveate.data.dataset import ImageDataset
from foveate.data.image_cache import ImageCache
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.transforms import evaluation_transform
from foveate.images import codec as images
from foveate.types import InputSpec, Sample
from foveate.utils import memory

SIDE, ONE = 16, 16 * 16 * 3  # px, bytes of a decoded picture


@pytest.fixture
def pictures(tmp_path):
    rng, paths = np.random.default_rng(0), []
    for place in range(12):
        paths.append(tmp_path / f"{place}.png")
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(paths[-1])
    return paths


@pytest.fixture
def cramped(monkeypatch, tmp_path):
    """Memory for two pictures and a bit."""
    monkeypatch.setattr(memory, "total", lambda: 4 * (2 * ONE + 100))
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    return ImageCache(SIDE, "crop", keep=True)


def decodes(monkeypatch):
    """The pictures that are decoded from here on."""
    seen, own = [], images.read_image
    monkeypatch.setattr(
        images, "read", lambda source, *said: (seen.append(source), own(source, *said))[1]
    )
    return seen


def test_what_memory_does_not_hold_lies_in_a_file_and_is_the_same(
    cramped, pictures, monkeypatch, tmp_path
):
    decoded = decodes(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        first = list(pool.map(cramped.read, pictures))
    again = [cramped.read(path) for path in pictures]
    assert len(decoded) == len(pictures)
    assert all(
        (one[0] == other[0]).all() and one[1] == other[1]
        for one, other in zip(first, again, strict=True)
    )
    assert len(cramped._kept) == 2
    assert not list(
        (tmp_path / "cache").iterdir()
    )  # the file has no name that anybody would have to clean up


def test_loader_processes_read_there_too(cramped, pictures, monkeypatch):
    whole = [cramped.read(path)[0].copy() for path in pictures]
    monkeypatch.setattr(images, "read", full)  # nothing is decoded any more
    samples = [Sample(path, path.name) for path in pictures]
    shown = ImageDataset(
        samples,
        cramped,
        evaluation_transform(InputSpec(SIDE, (0, 0, 0), (1, 1, 1)), "crop"),
        lambda truth, size: {},
        0,
    )
    for workers in (2, 0):
        found = torch.cat([batch.images for batch in make_loader(shown, BatchSampler(len(shown), 4), workers)])
        assert (found.permute(0, 2, 3, 1).numpy() == np.stack(whole)).all()


def full(*said):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("trouble", ["full", "half", "nowhere"])
def test_a_disk_without_room_costs_time_and_not_the_result(
    cramped, pictures, monkeypatch, tmp_path, trouble
):
    if trouble == "full":
        monkeypatch.setattr(os, "pwrite", full)
    elif trouble == "half":  # of what is free: three pictures
        monkeypatch.setattr(
            shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 6 * ONE})
        )
    else:
        (tmp_path / "cache").write_text("a file where a folder should be")
    decoded = decodes(monkeypatch)
    for _ in range(2):
        for path in pictures:
            assert (cramped.read(path)[0] == np.asarray(Image.open(path))).all()
    kept = 2 + (3 if trouble == "half" else 0)
    assert len(decoded) == len(pictures) + (len(pictures) - kept)


def test_nothing_is_kept_where_that_is_not_wanted(pictures, monkeypatch):
    decoded, own = decodes(monkeypatch), ImageCache(SIDE, "crop", keep=False)
    for _ in range(2):
        own.read(pictures[0])
    assert len(decoded) == 2


def test_memory_is_that_of_the_container(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    machine = memory.total()
    assert machine > 2**28
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("905\n")
    (tmp_path / "memory.stat").write_text(
        "anon 5\nactive_file 0\ninactive_file 900\n"
    )  # files that were read do not count
    assert memory.total() == machine
    (tmp_path / "memory.max").write_text(f"{2**27}\n")
    assert memory.total() == 2**27
    assert memory.available() == 2**27 - 5
    assert pixels.MEMORY_SHARE * memory.total() == ImageCache(SIDE, "crop", keep=True).room
