"""Batches are moved to the device as bytes and normalized there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory
from torchvision.transforms.v2 import functional

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.multicrop import Crops, multicrop_transform
from foveate.data.transforms import evaluation_transform, mix_batch, training_transform
from foveate.predictions import Labels
from foveate.recipe import AugmentRecipe
from foveate.types import Batch, InputSpec, Sample
from helpers import MemoryImages

SPEC = InputSpec(32, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


def make_dataset(transform, count: int = 6) -> ImageDataset:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(count)]
    samples = [Sample(str(index), str(index), Labels(("a",))) for index in range(count)]
    return ImageDataset(
        samples,
        MemoryImages(pixels),
        transform,
        lambda target, size: {"labels": torch.tensor([1.0, 0.0])},
        0,
    )


def load_batch(dataset: ImageDataset, workers: int = 0) -> Batch:
    return next(iter(make_loader(dataset, BatchSampler(len(dataset), len(dataset)), workers)))


def expected_images(images: torch.Tensor) -> torch.Tensor:
    """torchvision's own normalization."""
    scaled = functional.to_dtype(images, torch.float32, scale=True)
    return functional.normalize(scaled, list(SPEC.mean), list(SPEC.std))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bytes_are_normalized_as_torchvision_does(workers, layout):
    batch = load_batch(make_dataset(evaluation_transform(SPEC, "crop")), workers)
    assert batch.images.dtype == torch.uint8
    on_device = batch.to("cpu", memory_format=layout)
    assert torch.equal(on_device.images, expected_images(batch.images))
    assert on_device.images.is_contiguous(memory_format=layout)
    assert batch.images.dtype == torch.uint8  # the batch itself does not change
    again = on_device.to("cpu")
    assert torch.equal(again.images, on_device.images)
    part = batch.subset(slice(2, 5))
    assert torch.equal(part.to("cpu").images, on_device.images[2:5])


def test_a_loader_may_pin_batches(monkeypatch):
    """A DataLoader does so if there is a GPU; here the call is simulated."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    batch = load_batch(make_dataset(evaluation_transform(SPEC, "crop")))
    pinned = pin_memory(batch)
    assert torch.equal(pinned.images, batch.images + 1)
    assert pinned.spec is SPEC


def test_erased_areas_have_the_mean_color_and_travel_normalized():
    batch = load_batch(
        make_dataset(training_transform(SPEC, "crop", AugmentRecipe(policy="none", erase=1.0)))
    )
    assert batch.images.dtype == torch.float32
    assert (batch.normalized().images == batch.images).all()
    assert all(bool((image == 0).all(0).any()) for image in batch.images)


def test_images_are_mixed_after_normalization():
    """The mean of two bytes may not be a byte."""
    batch = load_batch(make_dataset(training_transform(SPEC, "crop", AugmentRecipe(policy="none"))))
    torch.manual_seed(0)
    mixed = mix_batch(batch, AugmentRecipe(mixup=0.5))
    torch.manual_seed(0)
    expected = mix_batch(batch.normalized(), AugmentRecipe(mixup=0.5))
    assert torch.equal(mixed.to("cpu").images, expected.images)
    assert mix_batch(batch, AugmentRecipe()) is batch


def test_additional_views_are_normalized_too():
    batch = load_batch(make_dataset(multicrop_transform(SPEC, Crops(local_views=2), 16)))
    on_device = batch.to("cpu")
    for before, after in zip(batch.targets, on_device.targets, strict=True):
        for name in ("global_views", "local_views"):
            assert before[name].dtype == torch.uint8
            assert torch.equal(after[name], expected_images(before[name]))


@pytest.mark.parametrize(("count", "batch_size", "start"), [(71, 32, 0), (71, 32, 2), (7, 8, 0)])
def test_a_sampler_knows_how_many_images_it_yields(count, batch_size, start):
    sampler = BatchSampler(count, batch_size, seed=0, start=start)
    assert sampler.image_count == sum(map(len, sampler))
