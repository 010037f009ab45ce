"""A network learns the features of a pretrained teacher: what an image says to the teacher takes the place of a label.

Features of any backbone are handed to any other (as in FitNets, Romero et al. 2015), vectors and the deepest maps, by cosine:
maps of several depths tell every part of a new network what it is for, where the vector alone tells the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.backbones import Backbone, family_of
from foveate.training.objectives import Objective, ObjectiveSettings
from foveate.types import Batch, InputSpec, Provides

_BOTH = frozenset({Provides.POOLED, Provides.MAPS})
_DEPTHS = 3  # of maps at the most
_EVEN = 0.99  # momentum of the teacher's mean and deviation


class DistillSettings(ObjectiveSettings):
    teacher: str = Field(
        "tf_efficientnet_lite0", description="a backbone; foveate models lists them"
    )
    teacher_weights: str = Field("auto", description="auto, hub, offline, or a file")
    area: float = Field(
        0.3, gt=0, le=1, description="smallest share of the image's area that a view shows"
    )
    color: float = Field(0.3, ge=0, le=1, description="strength of the random colours of views")
    maps_weight: float = Field(
        1.0,
        ge=0,
        description="weight of agreement on the three deepest maps, place by place, beside the vector",
    )


@dataclass
class DistillOutput:
    """What the student said and the teacher told: vectors (B, D), maps (B, C, h, w) of each depth, the deepest first."""

    vectors: tuple[Tensor, Tensor]
    maps: list[tuple[Tensor, Tensor]]


class DistillHead(nn.Module):
    """The teacher, and from the student's features to the teacher's. `middle`, `spread`: (D,), of the teacher's vectors."""

    factor: Tensor
    shift: Tensor
    middle: Tensor
    spread: Tensor

    def __init__(self, student: Backbone, teacher: Backbone) -> None:
        super().__init__()
        self.teacher = teacher
        self.vector = nn.Linear(student.width, teacher.width)
        pairs = list(
            zip(reversed(student.map_widths), reversed(teacher.map_widths), strict=False)
        )  # the deepest first
        self.maps = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in pairs[:_DEPTHS])
        factor, shift = renormalization(student.input, teacher.input)
        for name, tensor in (("factor", factor), ("shift", shift)):
            self.register_buffer(name, tensor)
        self.register_buffer("middle", torch.zeros(teacher.width))
        self.register_buffer("spread", torch.ones(teacher.width))

    @torch.no_grad()
    def teacher_features(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the teacher says of images that are normalised for the student: vectors (B, D) with mean 0 and deviation 1, maps."""
        images = images * self.factor + self.shift
        side = self.teacher.input.size
        if images.shape[-1] != side:
            images = functional.interpolate(images, (side, side), mode="bicubic", antialias=True)
        found = self.teacher(images, _BOTH)
        vectors = found.pooled.float()
        if self.training and len(vectors) > 1:
            variance, mean = torch.var_mean(vectors, dim=0)
            self.middle.lerp_(mean, 1 - _EVEN)
            self.spread.lerp_(variance.sqrt(), 1 - _EVEN)
        return (vectors - self.middle) / self.spread.clamp(min=1e-6), found.maps


class Distill(Objective):
    num_global_views: ClassVar[int] = 1
    needs = _BOTH
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 64}
    overrides_from_scratch: ClassVar[dict[str, Any]] = {"training.lr": 3e-3}
    Settings: ClassVar[type[DistillSettings]] = DistillSettings

    settings: DistillSettings

    def head(self, backbone: Backbone) -> nn.Module:
        name, weights = self.settings.teacher, self.settings.teacher_weights
        return DistillHead(backbone, family_of(name).open(name, weights, backbone.input.size))

    def prepare(self, backbone: Backbone, head: nn.Module) -> None:
        cast(DistillHead, head).teacher.requires_grad_(False)

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> DistillOutput:
        lesson = cast(DistillHead, head)
        vectors, maps = lesson.teacher_features(batch.images)
        found = backbone(batch.images, self.needs)
        painted = [
            paint(one) for paint, one in zip(lesson.maps, reversed(found.maps), strict=False)
        ]
        return DistillOutput(
            (lesson.vector(found.pooled), vectors), list(zip(painted, reversed(maps), strict=False))
        )

    def loss(self, output: DistillOutput, batch: Batch) -> dict[str, Tensor]:
        elsewhere = torch.stack(
            [_unlike(_as_large(said, told), told) for said, told in output.maps]
        ).mean()
        return {"vector": _unlike(*output.vectors), "maps": self.settings.maps_weight * elsewhere}


def _as_large(maps: Tensor, others: Tensor) -> Tensor:
    return functional.interpolate(maps, others.shape[-2:], mode="bilinear")


def _unlike(said: Tensor, told: Tensor) -> Tensor:
    return (1 - functional.cosine_similarity(said.float(), told.float())).mean()


def renormalization(one: InputSpec, other: InputSpec) -> tuple[Tensor, Tensor]:
    """Factor and shift, (1, 3, 1, 1), from pixels normalised for the one network to those for the other."""
    (mean, std), (theirs, spread) = (
        (torch.tensor(spec.mean).view(1, 3, 1, 1), torch.tensor(spec.std).view(1, 3, 1, 1))
        for spec in (one, other)
    )
    return std / spread, (mean - theirs) / spread
