"""Batches travel to the device as bytes and are normalized there."""

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
from helpers import Memory

SPEC = InputSpec(32, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


def pictures(transform, count: int = 6) -> ImageDataset:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(count)]
    samples = [Sample(str(place), str(place), Labels(("a",))) for place in range(count)]
    return ImageDataset(
        samples,
        Memory(pixels),
        transform,
        lambda truth, size: {"labels": torch.tensor([1.0, 0.0])},
        0,
    )


def one(shown: ImageDataset, workers: int = 0) -> Batch:
    return next(iter(make_loader(shown, BatchSampler(len(shown), len(shown)), workers)))


def wanted(images: torch.Tensor) -> torch.Tensor:
    """torchvision's own normalization."""
    scaled = functional.to_dtype(images, torch.float32, scale=True)
    return functional.normalize(scaled, list(SPEC.mean), list(SPEC.std))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bytes_are_normalized_as_torchvision_does(workers, layout):
    batch = one(pictures(evaluation_transform(SPEC, "crop")), workers)
    assert batch.images.dtype == torch.uint8
    there = batch.to("cpu", memory_format=layout)
    assert torch.equal(there.images, wanted(batch.images))
    assert there.images.is_contiguous(memory_format=layout)
    assert batch.images.dtype == torch.uint8  # what was there is as it was
    again = there.to("cpu")
    assert torch.equal(again.images, there.images)
    part = batch.subset(slice(2, 5))
    assert torch.equal(part.to("cpu").images, there.images[2:5])


def test_a_loader_may_pin_batches(monkeypatch):
    """A DataLoader does so if there is a GPU; here the call is simulated."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    batch = one(pictures(evaluation_transform(SPEC, "crop")))
    pinned = pin_memory(batch)
    assert torch.equal(pinned.images, batch.images + 1)
    assert pinned.spec is SPEC


def test_erased_areas_have_the_mean_color_and_travel_normalized():
    batch = one(pictures(training_transform(SPEC, "crop", AugmentRecipe(policy="none", erase=1.0))))
    assert batch.images.dtype == torch.float32
    assert (batch.normalized().images == batch.images).all()
    assert all(bool((image == 0).all(0).any()) for image in batch.images)


def test_images_are_mixed_after_normalization():
    """The mean of two bytes may not be a byte."""
    batch = one(pictures(training_transform(SPEC, "crop", AugmentRecipe(policy="none"))))
    torch.manual_seed(0)
    together = mix_batch(batch, AugmentRecipe(mixup=0.5))
    torch.manual_seed(0)
    numbers = mix_batch(batch.normalized(), AugmentRecipe(mixup=0.5))
    assert torch.equal(together.to("cpu").images, numbers.images)
    assert mix_batch(batch, AugmentRecipe()) is batch


def test_other_views_are_normalized_too():
    batch = one(pictures(multicrop_transform(SPEC, Crops(local_views=2), 16)))
    there = batch.to("cpu")
    for before, after in zip(batch.targets, there.targets, strict=True):
        for name in ("global_views", "local_views"):
            assert before[name].dtype == torch.uint8
            assert torch.equal(after[name], wanted(before[name]))
