"""RT-DETR: on any backbone, with no objects, few, or more than queries."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from foveate.errors import UsageError
from foveate.modeling.backbones import FAMILIES
from foveate.modeling.detectors import DETECTORS, Candidates, LossNames, ObjectTargets, rtdetr
from foveate.modeling.pyramid import FeaturePyramid
from foveate.modeling.tasks.detect import Detect, DetectSettings
from foveate.predictions import Boxes
from foveate.recipe import TrainingRecipe
from foveate.types import Provides, Sample
from helpers import box_iou, predict_without_run, train_without_run

NAMES = ("red", "green", "blue")
NO_OBJECTS = ObjectTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def random_objects(count: int, side: int = 96) -> ObjectTargets:
    """Make random boxes of all three classes."""
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 0.7
    return ObjectTargets(
        torch.cat([corners, corners + 0.1 + 0.2 * torch.rand(count, 2, generator=generator)], 1)
        * side,
        torch.arange(count) % 3,
    )


def make_detector(classes: int = 3) -> tuple[Any, Any]:
    torch.manual_seed(0)
    detector = DETECTORS.get("rtdetr")(classes, 32, 2, LossNames())
    return detector, detector.network()


def random_maps(side: int, count: int = 2) -> list[torch.Tensor]:
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
def test_any_backbone(name):
    """Gradients reach the first block; candidates are valid and sorted by score."""
    side = BACKBONES[name]
    detector, network = make_detector()
    backbone = FAMILIES.get("timm")().open(name, "none", side)
    pyramid = FeaturePyramid(
        backbone.map_widths,
        backbone.map_strides,
        detector.min_stride,
        detector.max_stride,
        detector.width,
    )
    pixels, targets = torch.randn(2, 3, side, side), [random_objects(1, side), NO_OBJECTS]
    output = network(
        pyramid(backbone(pixels, frozenset({Provides.MAPS})).maps, (side, side)),
        (side, side),
        targets,
    )
    losses = detector.loss(output, targets)
    assert losses.keys() == {"class", "box", "giou"}
    sum(losses.values()).backward()
    assert any(
        bool(parameter.grad.any())
        for parameter in backbone.blocks()[0].parameters()
        if parameter.grad is not None
    )
    assert all(bool(parameter.grad.isfinite().all()) for parameter in network.parameters())
    for candidates in detector.candidates(output):
        assert ((candidates.scores >= 0) & (candidates.scores <= 1)).all()
        assert (candidates.scores.diff() <= 0).all()
        assert (candidates.boxes[:, 2:] >= candidates.boxes[:, :2]).all()


@pytest.mark.parametrize(
    "targets",
    [
        [NO_OBJECTS, NO_OBJECTS],
        [random_objects(1), random_objects(1)],
        [random_objects(130), NO_OBJECTS],
    ],
    ids=["none", "one", "many"],
)
@pytest.mark.parametrize("training", [True, False])
def test_any_number_of_objects(targets, training):
    detector, network = make_detector()
    network.train(training)
    losses = detector.loss(
        network(random_maps(96), (96, 96), targets if training else None), targets
    )
    sum(losses.values()).backward()
    assert all(bool(value.isfinite()) for value in losses.values())
    assert (float(losses["box"].detach()) == 0) == (not len(targets[0].boxes))


@pytest.mark.parametrize("side", [40, 64, 100, 107])
def test_any_input_size(side):
    """Sizes that 32 does not divide, and maps with fewer cells than queries."""
    detector, network = make_detector()
    output = network.eval()(random_maps(side), (side, side))
    assert output.logits.shape[2] == min(100, 21 * (-(-side // 32)) ** 2)
    assert len(detector.candidates(output)) == 2


def test_one_class():
    detector, network = make_detector(classes=1)
    targets = [
        ObjectTargets(random_objects(2).boxes, torch.zeros(2, dtype=torch.int64)),
        NO_OBJECTS,
    ]
    assert all(
        bool(value.isfinite())
        for value in detector.loss(network(random_maps(96), (96, 96), targets), targets).values()
    )


def test_half_precision_loses_little():
    """The convolutions run in bf16; boxes and losses stay in fp32."""
    detector, network = make_detector()
    targets, losses_by_precision = [random_objects(3), random_objects(1)], []
    for use_bf16 in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            output = network(random_maps(96), (96, 96), targets)
            losses = detector.loss(output, targets)
        assert output.boxes.dtype == torch.float32
        losses_by_precision.append(float(sum(losses.values()).detach()))
    assert losses_by_precision[1] == pytest.approx(losses_by_precision[0], rel=0.1)


def test_training_continues_after_prediction():
    """transformers caches positions; a cache from inference mode must not break training."""
    detector, network = make_detector()
    with torch.inference_mode():
        network.eval()(random_maps(128), (128, 128))
    targets = [random_objects(2, 128), NO_OBJECTS]
    sum(
        detector.loss(network.train()(random_maps(128), (128, 128), targets), targets).values()
    ).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_copy_predicts_the_same():
    """And no two tensors share memory, which safetensors refuses."""
    _, network = make_detector()
    tensors = network.eval().state_dict()
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    copied = copy.deepcopy(network)
    copied.load_state_dict(tensors)
    with torch.inference_mode():
        assert torch.equal(
            network(random_maps(96), (96, 96)).logits, copied(random_maps(96), (96, 96)).logits
        )


def test_an_infinite_loss_is_not_hidden():
    """The trainer counts non-finite steps; the matcher would raise an unclear error."""
    detector, network = make_detector()
    network.model.enc_output[0].weight.data.fill_(torch.nan)
    assert all(
        not value.isfinite()
        for value in detector.loss(
            network(random_maps(96), (96, 96)), [NO_OBJECTS, NO_OBJECTS]
        ).values()
    )


@pytest.mark.parametrize("settings", [{"class_loss": "focal"}, {"box_loss": "giou"}])
def test_other_losses_are_refused(settings):
    with pytest.raises(UsageError, match="only the losses of its paper"):
        Detect(DetectSettings(head="rtdetr", **settings), NAMES)


def test_no_boxes_are_suppressed():
    """Two equal boxes of a class stay two objects, except for dense detectors."""
    candidates = Candidates(
        torch.tensor([[0.0, 0, 9, 9]] * 2),
        torch.tensor([0.2, 0.9]),
        torch.zeros(2, dtype=torch.int64),
    )
    kept = {
        head: Detect(DetectSettings(head=head), NAMES)._keep(candidates).tolist()
        for head in ("rtdetr", "fcos")
    }
    assert kept == {"rtdetr": [1, 0], "fcos": [1]}


def random_scene(rng: np.random.Generator) -> tuple[np.ndarray, Boxes]:
    """Make a bright square on a dark background; its color is its class."""
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


def test_objects_of_new_images_are_detected(monkeypatch):
    """With fewer queries, which suffice for one object and make steps three times faster."""
    monkeypatch.setattr(rtdetr, "_QUERIES", 30)
    monkeypatch.setattr(rtdetr, "_DENOISING_QUERIES", 20)
    rng = np.random.default_rng(0)
    pixels, targets = zip(*(random_scene(rng) for _ in range(144)), strict=True)
    samples = [Sample(str(index), str(index), target) for index, target in enumerate(targets)]
    task = Detect(DetectSettings(head="rtdetr", width=32), NAMES)
    recipe = TrainingRecipe(lr=2e-3, layer_decay=1.0, epochs=6)
    model, held_out = train_without_run(task, samples, list(pixels), recipe, batch_size=8, clip=1.0)
    predictions = predict_without_run(model, held_out)
    pairs = list(zip(predictions, (sample.target for sample in held_out.samples), strict=True))
    assert (
        np.mean([prediction.names[0] == target.names[0] for prediction, target in pairs]) > 0.8
    )  # 1/3 by chance
    assert (
        np.mean([box_iou(prediction.xyxy[0], target.xyxy[0]) for prediction, target in pairs]) > 0.4
    )  # 0.05 by chance
