"""The task contract with two small tasks that are defined here: detection and captioning.

They are trained on synthetic images with the same parts as the tasks of the library.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import tv_tensors

from foveate.data.transforms import evaluation_transform, training_transform
from foveate.modeling.backbones import Backbone
from foveate.modeling.tasks import Task
from foveate.predictions import Boxes, Text
from foveate.recipe import AugmentRecipe, TrainingRecipe
from foveate.types import Batch, Features, InputSpec, Provides, Sample, TargetTensors
from helpers import box_iou, predict_without_run, train_without_run

SIDE = 64


def random_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
    """Make a bright square on a dark background: pixels, its box (4,) and its color name."""
    height, width = int(rng.integers(64, 110)), int(rng.integers(64, 110))
    pixels = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    side = int(rng.integers(20, 36))
    x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
    channel = int(rng.integers(3))
    pixels[y : y + side, x : x + side, channel] = 255
    return (
        pixels,
        np.array([x, y, x + side, y + side], np.float32),
        ("red", "green", "blue")[channel],
    )


class Detect(Task):
    """Predicts one box per image, relative to the input of the network, from its maps."""

    needs = frozenset({Provides.MAPS})
    prediction_type: ClassVar[type[Boxes]] = Boxes
    framing: ClassVar[str] = "whole"

    def head(self, backbone: Backbone) -> nn.Module:
        return _BoxHead(backbone.map_widths[-2])

    def encode(self, target_boxes: Boxes, size: tuple[int, int]) -> TargetTensors:
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(target_boxes.xyxy), format="XYXY", canvas_size=size
        )
        return {"boxes": boxes, "labels": torch.zeros(len(target_boxes.names), dtype=torch.int64)}

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        expected = (
            torch.stack([target["boxes"][0].as_subclass(Tensor) for target in batch.targets])
            / batch.images.shape[-1]
        )
        return {"box": functional.l1_loss(output, expected)}

    def decode(self, output: Tensor, batch: Batch) -> list[Boxes]:
        side = batch.views[:, 2:] - batch.views[:, :2]
        corners = output.view(-1, 2, 2) * side[:, None] + batch.views[:, None, :2]
        return [
            Boxes(row.reshape(1, 4).numpy(), ("square",), np.ones(1, np.float32)) for row in corners
        ]


class _BoxHead(nn.Module):
    """The center by a soft argmax over a map, and the size by a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heat, self.extent = nn.Conv2d(width, 1, 1), nn.Linear(width, 2)

    def forward(self, features: Features, batch: Batch) -> Tensor:
        map_ = features.maps[-2]
        heat = self.heat(map_).flatten(1).softmax(1).view(len(map_), *map_.shape[-2:])
        positions = (torch.arange(map_.shape[-1]) + 0.5) / map_.shape[-1]
        center = torch.stack(
            [(heat.sum(1) * positions).sum(1), (heat.sum(2) * positions).sum(1)], 1
        )
        half_size = self.extent(map_.mean((2, 3))).sigmoid() / 2
        return torch.cat([center - half_size, center + half_size], 1)


class Caption(Task):
    """Generates captions of two words, word by word, with teacher forcing in training."""

    needs = frozenset({Provides.TOKENS})
    prediction_type: ClassVar[type[Text]] = Text
    WORDS: ClassVar[tuple[str, ...]] = ("<start>", "red", "green", "blue", "square")

    def head(self, backbone: Backbone) -> nn.Module:
        return _WordDecoder(backbone.token_width, len(self.WORDS))

    def encode(self, target_text: Text, size: tuple[int, int]) -> TargetTensors:
        return {
            "words": torch.tensor(
                [self.WORDS.index(word) for word in target_text.sentences[0].split()]
            )
        }

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        expected = torch.stack([target["words"] for target in batch.targets])
        return {"words": functional.cross_entropy(output.flatten(0, 1), expected.flatten())}

    def decode(self, output: Tensor, batch: Batch) -> list[Text]:
        return [
            Text((" ".join(self.WORDS[word] for word in row),)) for row in output.argmax(2).tolist()
        ]


class _WordDecoder(nn.Module):
    def __init__(self, width: int, vocabulary_size: int) -> None:
        super().__init__()
        self.image_layer, self.embedding, self.output_layer = (
            nn.Linear(width, 32),
            nn.Embedding(vocabulary_size, 32),
            nn.Linear(32, vocabulary_size),
        )

    def forward(self, features: Features, batch: Batch) -> Tensor:
        image_features = self.image_layer(features.tokens).amax(1)
        last = torch.zeros(len(image_features), dtype=torch.int64)
        target_words = (
            torch.stack([target["words"] for target in batch.targets]) if self.training else None
        )
        logits: list[Tensor] = []
        for step in range(2):
            logits.append(self.output_layer(torch.relu(image_features + self.embedding(last))))
            last = logits[-1].argmax(1) if target_words is None else target_words[:, step]
        return torch.stack(logits, 1)


def train(task: Task, targets: list[Any], scenes: list[np.ndarray], epochs: int):
    samples = [Sample(str(index), str(index), target) for index, target in enumerate(targets)]
    recipe = TrainingRecipe(lr=3e-3, layer_decay=1.0, epochs=epochs)
    return train_without_run(task, samples, scenes, recipe, batch_size=16)


@pytest.fixture(scope="module")
def scenes() -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    rng = np.random.default_rng(0)
    pixels, boxes, color_names = zip(*(random_scene(rng) for _ in range(144)), strict=True)
    return list(pixels), list(boxes), list(color_names)


def test_boxes_are_returned_in_original_pixels(scenes):
    pixels, boxes, _ = scenes
    targets = [Boxes(box[None], ("square",)) for box in boxes]
    model, held_out = train(Detect(None, ("square",)), targets, pixels, epochs=14)
    overlaps = [
        box_iou(prediction.xyxy[0], sample.target.xyxy[0])
        for prediction, sample in zip(
            predict_without_run(model, held_out), held_out.samples, strict=True
        )
    ]
    assert np.mean(overlaps) > 0.45  # boxes at random overlap by about 0.05


def test_captions_are_generated_without_the_target(scenes):
    pixels, _, color_names = scenes
    targets = [Text((f"{color_name} square",)) for color_name in color_names]
    model, held_out = train(Caption(None, ()), targets, pixels, epochs=8)
    predictions = predict_without_run(model, held_out)
    assert all(text.sentences[0].endswith("square") for text in predictions)
    assert (
        np.mean(
            [
                text == sample.target
                for text, sample in zip(predictions, held_out.samples, strict=True)
            ]
        )
        > 0.8
    )  # 1/3 by chance


def test_full_views_return_boxes_exactly():
    """A box in the network's input, mapped through the view, is the original box."""
    spec = InputSpec(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    pixels = np.zeros((50, 200, 3), np.uint8)
    pixels[10:30, 100:140] = 255
    image, view, _ = evaluation_transform(spec, "whole")(
        pixels, (100, 400), {}
    )  # decoded at half its size
    rows, columns = np.nonzero(image[0].numpy() > 127)
    input_box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SIDE
    scale = np.array([view[2] - view[0], view[3] - view[1]])
    original_box = (input_box.reshape(2, 2) * scale + np.array(view[:2])).ravel()
    np.testing.assert_allclose(original_box, [200, 20, 280, 60], atol=400 / SIDE)


def test_augmented_boxes_stay_on_their_object():
    spec = InputSpec(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    transform = training_transform(spec, "whole", AugmentRecipe(rotate=10, scale=0.1, flip=0.5))
    task = Detect(None, ("square",))
    for seed in range(12):
        torch.manual_seed(seed)
        pixels = np.zeros((80, 100, 3), np.uint8)
        pixels[30:50, 20:50] = 255
        target = task.encode(
            Boxes(np.array([[40, 60, 100, 100]], np.float32), ("square",)), (160, 200)
        )
        image, _, augmented = transform(pixels, (160, 200), target)
        rows, columns = np.nonzero(image[0].numpy() > 127)
        visible_box = np.array(
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32
        )
        assert box_iou(visible_box, augmented["boxes"][0].numpy()) > 0.75
