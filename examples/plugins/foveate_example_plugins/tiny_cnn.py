"""A family of backbones with a single member: four convolutions without pretrained weights."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from foveate.modeling.backbones import Backbone, Family, ModelInfo
from foveate.modeling.weights import load_into, read_tensors
from foveate.types import Features, InputSpec, Provides

_WIDTHS = (16, 32, 64, 128)


class TinyCnn(Backbone):
    """Images (B, 3, H, W) -> maps of strides 2, 4, 8 and 16 and their mean (B, 128)."""

    def __init__(self, size: int, origin: str) -> None:
        super().__init__()
        self.provides = frozenset({Provides.POOLED, Provides.MAPS})
        self.input = InputSpec(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.width = self.token_width = _WIDTHS[-1]
        self.map_widths, self.map_strides = _WIDTHS, (2, 4, 8, 16)
        self.origin = origin
        inputs = (3, *_WIDTHS[:-1])
        self.stages = nn.ModuleList(map(_stage, inputs, _WIDTHS))

    def blocks(self) -> list[nn.Module]:
        return list(self.stages)

    def forward(self, images: Tensor, requested: Collection[Provides]) -> Features:
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        pooled = images.mean((2, 3)) if Provides.POOLED in requested else None
        return Features(pooled=pooled, maps=maps if Provides.MAPS in requested else [])


def _stage(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class TinyCnnFamily(Family):
    summary: ClassVar[str] = "a small convolutional network without pretrained weights"

    def names(self) -> list[str]:
        return ["tiny_cnn"]

    def info(self, name: str) -> ModelInfo:
        count = sum(parameter.numel() for parameter in TinyCnn(64, "").parameters())
        return ModelInfo(name, count, "Apache-2.0", 64, ("pooled", "maps"), offline=True)

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> Backbone:
        if weights in ("auto", "none", "offline", "hub"):  # nothing is published for it
            return TinyCnn(size or 64, "random")
        file = Path(weights).expanduser()
        network = TinyCnn(size or 64, f"file: {file.name}")
        load_into(network, read_tensors(file), file)
        return network
