"""Mosaic: images and their targets stay together."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.api.fit.core import fit_recipe
from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.mosaic import Mosaic, make_mosaic, require_spatial_targets
from foveate.data.transforms import training_transform
from foveate.errors import Interrupted, UsageError
from foveate.modeling.tasks.detect import Detect, DetectSettings
from foveate.modeling.tasks.segment import Segment, SegmentSettings
from foveate.modeling.weights import read_tensors
from foveate.predictions import IGNORE_INDEX, Boxes, Labels, Regions
from foveate.recipe import AugmentRecipe, Recipe, with_settings
from foveate.training import trainer
from foveate.types import InputSpec, Sample
from foveate.utils.rle import encode_rle
from helpers import MemoryImages, fit_unevaluated, without_evaluation

SPEC = InputSpec(96, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
NAMES = ("red", "green", "blue")


def random_scenes(
    count: int, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
    """Make black images with a square of one color each: pixels, boxes (4,) and channels."""
    rng = np.random.default_rng(seed)
    images, boxes, channels = [], [], []
    for _ in range(count):
        height, width, side = (
            int(rng.integers(60, 120)),
            int(rng.integers(60, 120)),
            int(rng.integers(16, 30)),
        )
        x, y, channel = (
            int(rng.integers(0, width - side)),
            int(rng.integers(0, height - side)),
            int(rng.integers(3)),
        )
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[y : y + side, x : x + side, channel] = 255
        images.append(pixels)
        boxes.append(np.array([x, y, x + side, y + side], np.float32))
        channels.append(channel)
    return images, boxes, channels


def make_dataset(
    task: Any,
    images: list[np.ndarray],
    targets: list[Any],
    probability: float = 1.0,
    scale: int = 1,
    **augment: Any,
) -> ImageDataset:
    recipe = AugmentRecipe(
        policy="none", **{"crop": 1.0, "flip": 0.0, "mosaic": probability, **augment}
    )
    samples = [Sample(Path(str(index)), str(index), target) for index, target in enumerate(targets)]
    transform = training_transform(SPEC, task.framing, recipe)
    return ImageDataset(
        samples,
        MemoryImages(images, scale),
        transform,
        task.encode,
        0,
        make_mosaic(SPEC, task.framing, recipe),
    )


def detection_dataset(
    count: int, head: str = "fcos", probability: float = 1.0, scale: int = 1, **augment: Any
) -> ImageDataset:
    images, boxes, channels = random_scenes(count)
    masks = [encode_rle(image.any(2).repeat(scale, 0).repeat(scale, 1)) for image in images]
    targets = [
        Boxes(
            scale * box[None],
            (NAMES[channel],),
            crowd=np.array([channel == 0]),
            masks=(mask,) if head == "mask_rcnn" else None,
        )
        for box, channel, mask in zip(boxes, channels, masks, strict=True)
    ]
    return make_dataset(
        Detect(DetectSettings(head=head), NAMES), images, targets, probability, scale, **augment
    )


@pytest.mark.parametrize("scale", [1, 2])
def test_boxes_match_their_objects(scale):
    """Inside a box nearly all pixels have its color; outside there are only slivers of objects."""
    dataset, count = detection_dataset(8, scale=scale), 0
    for index in range(8):
        image, target, _, _, _ = dataset[0, index]
        assert image.shape == (3, 96, 96)
        outside = image.clone()
        for box, class_index, crowd in zip(
            target["boxes"], target["classes"], target["crowd"], strict=True
        ):
            x0, y0, x1, y1 = box.round().int().tolist()
            assert image[class_index, y0:y1, x0:x1].float().mean() > 0.75 * 255
            assert bool(crowd) == (int(class_index) == 0)
            outside[:, max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1] = 0
            count += 1
        assert (outside > 127).sum() < 200  # at most a third of one of four objects
    assert 12 < count <= 32


def test_object_masks_match_their_objects():
    dataset = detection_dataset(6, head="mask_rcnn")
    for index in range(6):
        image, target, _, _, _ = dataset[0, index]
        assert target["masks"].shape == (len(target["boxes"]), 96, 96)
        for mask, class_index in zip(target["masks"], target["classes"], strict=True):
            assert image[class_index][mask.bool()].float().mean() > 0.8 * 255  # edges are blended


@pytest.mark.parametrize("view", ["whole", "windows"])
def test_masks_agree_with_pixels(view):
    """Red, green, blue and black are the classes; a corner of one image is ignored."""
    images, _, _ = random_scenes(6)
    targets = []
    for pixels in images:
        mask = np.where(pixels.any(2), pixels.argmax(2), 3)
        mask[:10, :10] = IGNORE_INDEX
        targets.append(Regions(mask.astype(np.int64)))
    dataset = make_dataset(
        Segment(SegmentSettings(framing=view), (*NAMES, "ground")), images, targets
    )
    for index in range(6):
        image, target, _, _, _ = dataset[0, index]
        mask = target["mask"]
        assert set(mask.unique().tolist()) <= {IGNORE_INDEX, 0, 1, 2, 3}
        expected = torch.where(image.amax(0) > 127, image.argmax(0), 3)
        assert (expected == mask)[mask != IGNORE_INDEX].float().mean() > 0.97
        assert (mask == IGNORE_INDEX).float().mean() < 0.1


def test_the_same_key_gives_the_same_image():
    """In any process and order; another epoch gives another image."""
    dataset = detection_dataset(8, probability=0.5, crop=0.5, flip=0.5)
    inline, parallel = (
        list(make_loader(dataset, BatchSampler(8, 4, seed=0, epoch=3), workers))
        for workers in (0, 2)
    )
    for expected, actual in zip(inline, parallel, strict=True):
        assert torch.equal(expected.images, actual.images)
        for expected_target, actual_target in zip(expected.targets, actual.targets, strict=True):
            assert all(
                torch.equal(expected_target[name], actual_target[name]) for name in expected_target
            )
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(
        dataset[3, 1][0], detection_dataset(8, probability=0.5, crop=0.5, flip=0.5)[3, 1][0]
    )
    assert torch.equal(torch.get_rng_state(), before)
    always = detection_dataset(8)
    assert not torch.equal(always[0, 1][0], always[1, 1][0])


def test_probability_zero_changes_nothing():
    without_mosaic, never = (
        detection_dataset(3, crop=0.5),
        detection_dataset(3, probability=0.0, crop=0.5),
    )
    without_mosaic.mosaic = None
    assert never.mosaic is None
    assert all(torch.equal(without_mosaic[0, index][0], never[0, index][0]) for index in range(3))


def test_probability_one_half_combines_half_of_the_images():
    drawn = [Mosaic(0.5, 32, True).is_drawn() for _ in range(400)]
    assert 140 < sum(drawn) < 260


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_occur_several_times(count):
    image, target, _, _, _ = detection_dataset(count)[0, 0]
    assert image.shape == (3, 96, 96)
    assert len(target["boxes"]) == len(target["classes"]) == len(target["crowd"])


def test_images_without_objects_are_combined():
    empty = Boxes(np.zeros((0, 4), np.float32), ())
    images, _, _ = random_scenes(4)
    for head in ("fcos", "mask_rcnn"):
        _, target, _, _, _ = make_dataset(
            Detect(DetectSettings(head=head), NAMES), images, [empty] * 4
        )[0, 0]
        assert target["boxes"].shape == (0, 4)


def test_slivers_of_objects_are_dropped():
    """Of an object as large as its image, slivers in a quarter of the mosaic are dropped."""
    images = [np.full((100, 400, 3), 255, np.uint8)] * 4
    targets = [Boxes(np.array([[0, 0, 400, 100]], np.float32), ("red",))] * 4
    dataset = make_dataset(Detect(DetectSettings(), NAMES), images, targets)
    counts = [len(dataset[epoch, 0][1]["boxes"]) for epoch in range(12)]
    assert min(counts) < 4


def test_tasks_without_positions_are_refused():
    require_spatial_targets(AugmentRecipe(), Labels)
    require_spatial_targets(AugmentRecipe(mosaic=0.5), Boxes)
    with pytest.raises(UsageError, match="only possible with boxes or masks"):
        require_spatial_targets(AugmentRecipe(mosaic=0.5), Labels)
    with pytest.raises(UsageError):
        with_settings(Recipe(), {"augment.mosaic": 1.5})


def test_fit_refuses_before_it_reads_an_image(quick, tmp_path):
    with pytest.raises(UsageError, match="only possible with boxes or masks"):
        fit_recipe(with_settings(quick, {"augment.mosaic": 0.5}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_t1_resume_is_exact(tmp_path, monkeypatch):
    """A run that was stopped within an epoch and resumed has the same weights."""
    images, boxes, channels = random_scenes(16)
    lines = ["path,label,x0,y0,x1,y1"]
    for number, (image, box, channel) in enumerate(zip(images, boxes, channels, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{number:02d}.png")
        lines.append(
            f"{number:02d}.png,{NAMES[channel]}," + ",".join(str(int(corner)) for corner in box)
        )
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    recipe = with_settings(Recipe(), {
        "data.path": str(tmp_path / "boxes.csv"), "backbone.name": "test_resnet", "backbone.weights": "none", "backbone.size": 64,
        "training.epochs": 2, "training.batch_size": 4, "training.precision": "fp32", "training.channels_last": False,
        "device": "cpu", "task.width": 32, "data.near_duplicates": 1, "augment.mosaic": 0.6,
    })  # fmt: skip
    fit_unevaluated(recipe, tmp_path / "whole")
    checks, original = [], trainer.Trainer._stop_requested

    def request_stop(self, stop):
        checks.append(stop)
        if len(checks) == 2:
            stop.signal = signal.SIGTERM
        return original(self, stop)

    monkeypatch.setattr(trainer.Trainer, "_stop_requested", request_stop)
    with pytest.raises(Interrupted):
        fit_recipe(recipe, tmp_path / "cut")
    with without_evaluation():
        fit_recipe(None, resume=tmp_path / "cut")
    first, second = (
        read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "cut")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
