"""The contract against three kinds of task: labels, boxes, sentences. Detection and captioning are small and live here; they learn
something real on made-up pictures, through the same loop, run folder and predictor parts as classification."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import tv_tensors

from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler
from foveate.data.transforms import evaluation_transform, training_transform
from foveate.modeling.backbones import FAMILIES, Backbone
from foveate.modeling.model import Model
from foveate.modeling.tasks import Task
from foveate.modeling.tunings import TuningSettings
from foveate.modeling.tunings.full import Full
from foveate.predictions import Boxes, Text
from foveate.recipe import AugmentRecipe, TrainingRecipe
from foveate.training.optimizer import build_optimizer, set_learning_rate
from foveate.types import Batch, Features, InputSpec, Provides, Sample, TargetTensors
from helpers import Memory, batches

SIDE = 64


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
    """A bright square on a dark ground: the picture (H, W, 3), its box (4,) and a word for its colour."""
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
    """One box an image, as four numbers of the network's square, from the finest and coarsest maps."""

    needs = frozenset({Provides.MAPS})
    prediction_type: ClassVar[type[Boxes]] = Boxes
    framing: ClassVar[str] = "whole"

    def head(self, backbone: Backbone) -> nn.Module:
        return _BoxHead(backbone.map_widths[-2])

    def encode(self, truth: Boxes, size: tuple[int, int]) -> TargetTensors:
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(truth.xyxy), format="XYXY", canvas_size=size
        )
        return {"boxes": boxes, "labels": torch.zeros(len(truth.names), dtype=torch.int64)}

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        wanted = (
            torch.stack([target["boxes"][0].as_subclass(Tensor) for target in batch.targets])
            / batch.images.shape[-1]
        )
        return {"box": functional.l1_loss(output, wanted)}

    def decode(self, output: Tensor, batch: Batch) -> list[Boxes]:
        side = batch.views[:, 2:] - batch.views[:, :2]
        corners = output.view(-1, 2, 2) * side[:, None] + batch.views[:, None, :2]
        return [
            Boxes(row.reshape(1, 4).numpy(), ("square",), np.ones(1, np.float32)) for row in corners
        ]


class _BoxHead(nn.Module):
    """A soft argmax over a map for each side of the box."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heat, self.extent = nn.Conv2d(width, 1, 1), nn.Linear(width, 2)

    def forward(self, features: Features, batch: Batch) -> Tensor:
        found = features.maps[-2]
        heat = self.heat(found).flatten(1).softmax(1).view(len(found), *found.shape[-2:])
        places = (torch.arange(found.shape[-1]) + 0.5) / found.shape[-1]
        middle = torch.stack([(heat.sum(1) * places).sum(1), (heat.sum(2) * places).sum(1)], 1)
        half = self.extent(found.mean((2, 3))).sigmoid() / 2
        return torch.cat([middle - half, middle + half], 1)


class Caption(Task):
    """Sentences of two words, written a word at a time; the truth is read while training (teacher forcing)."""

    needs = frozenset({Provides.TOKENS})
    prediction_type: ClassVar[type[Text]] = Text
    WORDS: ClassVar[tuple[str, ...]] = ("<start>", "red", "green", "blue", "square")

    def head(self, backbone: Backbone) -> nn.Module:
        return _Writer(backbone.token_width, len(self.WORDS))

    def encode(self, truth: Text, size: tuple[int, int]) -> TargetTensors:
        return {
            "words": torch.tensor([self.WORDS.index(word) for word in truth.sentences[0].split()])
        }

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        wanted = torch.stack([target["words"] for target in batch.targets])
        return {"words": functional.cross_entropy(output.flatten(0, 1), wanted.flatten())}

    def decode(self, output: Tensor, batch: Batch) -> list[Text]:
        return [
            Text((" ".join(self.WORDS[word] for word in row),)) for row in output.argmax(2).tolist()
        ]


class _Writer(nn.Module):
    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.look, self.known, self.say = (
            nn.Linear(width, 32),
            nn.Embedding(words, 32),
            nn.Linear(32, words),
        )

    def forward(self, features: Features, batch: Batch) -> Tensor:
        seen = self.look(features.tokens).amax(1)
        last = torch.zeros(len(seen), dtype=torch.int64)
        taught = (
            torch.stack([target["words"] for target in batch.targets]) if self.training else None
        )
        said: list[Tensor] = []
        for place in range(2):
            said.append(self.say(torch.relu(seen + self.known(last))))
            last = said[-1].argmax(1) if taught is None else taught[:, place]
        return torch.stack(said, 1)


def learnt(
    task: Task, truths: list[Any], scenes: list[np.ndarray], epochs: int
) -> tuple[Model, ImageDataset]:
    """The house's parts put together by hand, as the trainer does; the last 16 pictures are held out."""
    torch.manual_seed(0)
    backbone = FAMILIES.get("timm")().open("test_resnet", "none", SIDE)
    model = Model(backbone, task, Full(TuningSettings()), keep_norms=False)
    samples = [Sample(str(index), str(index), truth) for index, truth in enumerate(truths)]
    augment = AugmentRecipe(policy="none", crop=1.0)
    spec = backbone.input
    shown = ImageDataset(
        samples[:-16],
        Memory(scenes),
        training_transform(spec, task.framing, augment),
        task.encode,
        0,
    )
    recipe = TrainingRecipe(lr=3e-3, layer_decay=1.0, epochs=epochs)
    moving, steps = build_optimizer(model, recipe), epochs * len(BatchSampler(len(shown), 16))
    model.train()
    step = 0
    for epoch in range(epochs):
        for batch in batches(shown, BatchSampler(len(shown), 16, seed=0, epoch=epoch)):
            set_learning_rate(moving, recipe, step, steps)
            moving.zero_grad()
            sum(task.loss(model(batch), batch).values()).backward()
            moving.step()
            step += 1
    return model.eval(), ImageDataset(
        samples[-16:], Memory(scenes), evaluation_transform(spec, task.framing), task.encode, 0
    )


@pytest.fixture(scope="module")
def made() -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    rng = np.random.default_rng(0)
    pixels, boxes, words = zip(*(scene(rng) for _ in range(144)), strict=True)
    return list(pixels), list(boxes), list(words)


@torch.inference_mode()
def answered(model: Model, pictures: ImageDataset) -> list[Any]:
    return [
        answer
        for batch in batches(pictures, BatchSampler(len(pictures), 5))
        for answer in model.task.decode(model(batch), batch)
    ]


def test_boxes_come_back_in_the_pixels_of_the_original(made):
    pixels, boxes, _ = made
    truths = [Boxes(box[None], ("square",)) for box in boxes]
    model, held_out = learnt(Detect(None, ("square",)), truths, pixels, epochs=14)
    overlaps = [
        iou(answer.xyxy[0], sample.target.xyxy[0])
        for answer, sample in zip(answered(model, held_out), held_out.samples, strict=True)
    ]
    assert np.mean(overlaps) > 0.45  # boxes at random overlap by about 0.05


def iou(one: np.ndarray, other: np.ndarray) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = np.prod(np.clip(high - low, 0, None))
    return float(both / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both))


def test_sentences_are_written_without_the_truth(made):
    pixels, _, words = made
    truths = [Text((f"{word} square",)) for word in words]
    model, held_out = learnt(Caption(None, ()), truths, pixels, epochs=8)
    found = answered(model, held_out)
    assert all(text.sentences[0].endswith("square") for text in found)
    assert (
        np.mean(
            [text == sample.target for text, sample in zip(found, held_out.samples, strict=True)]
        )
        > 0.8
    )  # 1/3 by chance


def test_whole_views_bring_boxes_back_exactly():
    """A box in the square that the network sees, through the view, is the box of the original."""
    spec = InputSpec(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    pixels = np.zeros((50, 200, 3), np.uint8)
    pixels[10:30, 100:140] = 255
    image, view, _ = evaluation_transform(spec, "whole")(
        pixels, (100, 400), {}
    )  # decoded at half its size
    rows, columns = np.nonzero(image[0].numpy() > 127)
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SIDE
    scale = np.array([view[2] - view[0], view[3] - view[1]])
    found = (seen.reshape(2, 2) * scale + np.array(view[:2])).ravel()
    np.testing.assert_allclose(found, [200, 20, 280, 60], atol=400 / SIDE)


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
        image, _, moved = transform(pixels, (160, 200), target)
        rows, columns = np.nonzero(image[0].numpy() > 127)
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        assert iou(seen, moved["boxes"][0].numpy()) > 0.75
