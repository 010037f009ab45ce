"""The detector without anchors, points and suppression: on any backbone, with few objects, none, or more than queries."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler
from foveate.data.transforms import evaluation_transform, training_transform
from foveate.errors import UsageError
from foveate.modeling.backbones import FAMILIES
from foveate.modeling.detectors import DETECTORS, Candidates, LossNames, ObjectTargets, rtdetr
from foveate.modeling.model import Model
from foveate.modeling.pyramid import FeaturePyramid
from foveate.modeling.tasks.detect import Detect, DetectSettings
from foveate.modeling.tunings import TuningSettings
from foveate.modeling.tunings.full import Full
from foveate.predictions import Boxes
from foveate.recipe import AugmentRecipe, TrainingRecipe
from foveate.training.optimizer import build_optimizer, set_learning_rate
from foveate.types import Provides, Sample
from helpers import Memory, batches

NAMES = ("red", "green", "blue")
NOTHING = ObjectTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def objects(count: int, side: int = 96) -> ObjectTargets:
    """Boxes here and there, of all three classes."""
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 0.7
    return ObjectTargets(
        torch.cat([corners, corners + 0.1 + 0.2 * torch.rand(count, 2, generator=generator)], 1)
        * side,
        torch.arange(count) % 3,
    )


def made(classes: int = 3) -> tuple[Any, Any]:
    torch.manual_seed(0)
    detector = DETECTORS.get("rtdetr")(classes, 32, 2, LossNames())
    return detector, detector.network()


def maps(side: int, count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(side)
    return [
        torch.randn(count, 32, -(-side // stride), -(-side // stride), generator=generator)
        for stride in (8, 16, 32)
    ]


BACKBONES = {
    "test_resnet": 96,
    "mini_vgg": 96,
    "mini_densenet": 96,
    "mini_inception": 128,
    "test_vit": 112,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_it_reads_any_backbone(name):
    """Gradients reach the first block; what is found lies where it can be, the surest first."""
    side = BACKBONES[name]
    detector, network = made()
    backbone = FAMILIES.get("timm")().open(name, "none", side)
    pyramid = FeaturePyramid(
        backbone.map_widths,
        backbone.map_strides,
        detector.min_stride,
        detector.max_stride,
        detector.width,
    )
    pixels, truths = torch.randn(2, 3, side, side), [objects(1, side), NOTHING]
    output = network(
        pyramid(backbone(pixels, frozenset({Provides.MAPS})).maps, (side, side)),
        (side, side),
        truths,
    )
    losses = detector.loss(output, truths)
    assert losses.keys() == {"class", "box", "giou"}
    sum(losses.values()).backward()
    assert any(
        bool(parameter.grad.any())
        for parameter in backbone.blocks()[0].parameters()
        if parameter.grad is not None
    )
    assert all(bool(parameter.grad.isfinite().all()) for parameter in network.parameters())
    for found in detector.candidates(output):
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert (found.scores.diff() <= 0).all()
        assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()


@pytest.mark.parametrize(
    "truths",
    [[NOTHING, NOTHING], [objects(1), objects(1)], [objects(130), NOTHING]],
    ids=["none", "one", "many"],
)
@pytest.mark.parametrize("learning", [True, False])
def test_any_number_of_objects(truths, learning):
    detector, network = made()
    network.train(learning)
    losses = detector.loss(network(maps(96), (96, 96), truths if learning else None), truths)
    sum(losses.values()).backward()
    assert all(bool(value.isfinite()) for value in losses.values())
    assert (float(losses["box"].detach()) == 0) == (not len(truths[0].boxes))


@pytest.mark.parametrize("side", [40, 64, 100, 107])
def test_any_square(side):
    """Sides that 32 does not divide, and squares of fewer places than queries."""
    detector, network = made()
    output = network.eval()(maps(side), (side, side))
    assert output.logits.shape[2] == min(100, 21 * (-(-side // 32)) ** 2)
    assert len(detector.candidates(output)) == 2


def test_one_class():
    detector, network = made(classes=1)
    truths = [ObjectTargets(objects(2).boxes, torch.zeros(2, dtype=torch.int64)), NOTHING]
    assert all(
        bool(value.isfinite())
        for value in detector.loss(network(maps(96), (96, 96), truths), truths).values()
    )


def test_half_precision_loses_little():
    """The convolutions run in bf16; places and losses stay in fp32."""
    detector, network = made()
    truths, seen = [objects(3), objects(1)], []
    for half in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = network(maps(96), (96, 96), truths)
            losses = detector.loss(output, truths)
        assert output.boxes.dtype == torch.float32
        seen.append(float(sum(losses.values()).detach()))
    assert seen[1] == pytest.approx(seen[0], rel=0.1)


def test_training_goes_on_after_answers():
    """transformers remembers positions between calls; those that were made without gradients must not spoil the next step."""
    detector, network = made()
    with torch.inference_mode():
        network.eval()(maps(128), (128, 128))
    truths = [objects(2, 128), NOTHING]
    sum(detector.loss(network.train()(maps(128), (128, 128), truths), truths).values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_copy_answers_alike():
    """And no two tensors share memory: safetensors refuses those."""
    _, network = made()
    tensors = network.eval().state_dict()
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    twin = copy.deepcopy(network)
    twin.load_state_dict(tensors)
    with torch.inference_mode():
        assert torch.equal(network(maps(96), (96, 96)).logits, twin(maps(96), (96, 96)).logits)


def test_a_loss_without_bounds_is_not_hidden():
    """The loop counts steps that are not finite; the matcher would stop it with a riddle."""
    detector, network = made()
    network.model.enc_output[0].weight.data.fill_(torch.nan)
    assert all(
        not value.isfinite()
        for value in detector.loss(network(maps(96), (96, 96)), [NOTHING, NOTHING]).values()
    )


@pytest.mark.parametrize("settings", [{"class_loss": "focal"}, {"box_loss": "giou"}])
def test_other_losses_are_refused(settings):
    with pytest.raises(UsageError, match="only the losses of its paper"):
        Detect(DetectSettings(head="rtdetr", **settings), NAMES)


def test_nothing_is_suppressed():
    """Two equal boxes of a class stay two objects, but for detectors on anchors and points."""
    twice = Candidates(
        torch.tensor([[0.0, 0, 9, 9]] * 2),
        torch.tensor([0.2, 0.9]),
        torch.zeros(2, dtype=torch.int64),
    )
    kept = {
        head: Detect(DetectSettings(head=head), NAMES)._keep(twice).tolist()
        for head in ("rtdetr", "fcos")
    }
    assert kept == {"rtdetr": [1, 0], "fcos": [1]}


def scene(rng: np.random.Generator) -> tuple[np.ndarray, Boxes]:
    """A bright square on a dark ground; its colour is its class."""
    height, width, side = (
        int(rng.integers(*between)) for between in ((64, 110), (64, 110), (20, 36))
    )
    pixels = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    x, y, channel = (
        int(rng.integers(0, width - side)),
        int(rng.integers(0, height - side)),
        int(rng.integers(3)),
    )
    pixels[y : y + side, x : x + side, channel] = 255
    return pixels, Boxes(np.array([[x, y, x + side, y + side]], np.float32), (NAMES[channel],))


def learnt(
    pixels: list[np.ndarray], samples: list[Sample], epochs: int
) -> tuple[Model, ImageDataset]:
    """As the trainer does it, without a run folder; the last 16 pictures are held out."""
    torch.manual_seed(0)
    backbone = FAMILIES.get("timm")().open("test_resnet", "none", 64)
    model = Model(
        backbone,
        Detect(DetectSettings(head="rtdetr", width=32), NAMES),
        Full(TuningSettings()),
        keep_norms=False,
    )
    task, spec = model.task, backbone.input
    shown = ImageDataset(
        samples[:-16],
        Memory(pixels),
        training_transform(spec, "whole", AugmentRecipe(policy="none", crop=1.0)),
        task.encode,
        0,
    )
    recipe = TrainingRecipe(lr=2e-3, layer_decay=1.0, epochs=epochs)
    moving, steps, step = (
        build_optimizer(model, recipe),
        epochs * len(BatchSampler(len(shown), 8)),
        0,
    )
    model.train()
    for epoch in range(epochs):
        for batch in batches(shown, BatchSampler(len(shown), 8, seed=0, epoch=epoch)):
            set_learning_rate(moving, recipe, step, steps)
            moving.zero_grad()
            sum(task.loss(model(batch), batch).values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            moving.step()
            step += 1
    return model.eval(), ImageDataset(
        samples[-16:], Memory(pixels), evaluation_transform(spec, "whole"), task.encode, 0
    )


@torch.inference_mode()
def answered(model: Model, pictures: ImageDataset) -> list[Boxes]:
    return [
        answer
        for batch in batches(pictures, BatchSampler(len(pictures), 8))
        for answer in model.task.decode(model(batch), batch)
    ]


def test_objects_of_new_pictures_are_found_and_named(monkeypatch):
    """With fewer queries, for one object an image; a step costs a third."""
    monkeypatch.setattr(rtdetr, "_QUERIES", 30)
    monkeypatch.setattr(rtdetr, "_DENOISING_QUERIES", 20)
    rng = np.random.default_rng(0)
    pixels, truths = zip(*(scene(rng) for _ in range(144)), strict=True)
    model, held_out = learnt(
        list(pixels),
        [Sample(str(index), str(index), truth) for index, truth in enumerate(truths)],
        6,
    )
    pairs = [
        (answer, sample.target)
        for answer, sample in zip(answered(model, held_out), held_out.samples, strict=True)
    ]
    assert (
        np.mean([answer.names[0] == truth.names[0] for answer, truth in pairs]) > 0.8
    )  # 1/3 by chance
    assert (
        np.mean([iou(answer.xyxy[0], truth.xyxy[0]) for answer, truth in pairs]) > 0.4
    )  # 0.05 by chance


def iou(one: np.ndarray, other: np.ndarray) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = np.prod(np.clip(high - low, 0, None))
    return float(both / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both))
