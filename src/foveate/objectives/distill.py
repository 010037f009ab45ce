"""A network learns the features of a pretrained teacher: what an image says to the teacher takes the place of a label.

Features of any backbone are handed to any other (as in FitNets, Romero et al. 2015), vectors and the deepest maps, by cosine.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.backbones import Backbone, family_of
from foveate.objectives import Objective, ObjectiveSettings
from foveate.types import Batch, InputSpec, Provides

_BOTH = frozenset({Provides.POOLED, Provides.MAPS})
_EVEN = 0.99  # momentum of the teacher's mean and deviation


class DistillSettings(ObjectiveSettings):
    teacher: str = Field("tf_efficientnet_lite0", description="a backbone; foveate models lists them")
    teacher_weights: str = Field("auto", description="auto, hub, offline, or a file")
    area: float = Field(0.3, gt=0, le=1, description="smallest share of the image's area that a view shows")
    colours: float = Field(0.3, ge=0, le=1, description="strength of the random colours of views")
    maps: float = Field(0.5, ge=0, description="weight of agreement on the deepest maps, place by place, beside that on the vector")


class Lesson(nn.Module):
    """The teacher, and from the student's features to the teacher's. `middle`, `spread`: (D,), of the teacher's vectors."""

    factor: Tensor
    shift: Tensor
    middle: Tensor
    spread: Tensor

    def __init__(self, student: Backbone, teacher: Backbone) -> None:
        super().__init__()
        self.teacher = teacher
        self.vector = nn.Sequential(
            nn.Linear(student.width, 2 * student.width), nn.GELU(), nn.Linear(2 * student.width, teacher.width)
        )
        self.maps = nn.Conv2d(student.map_widths[-1], teacher.map_widths[-1], 1)
        factor, shift = between(student.input, teacher.input)
        for name, tensor in (("factor", factor), ("shift", shift)):
            self.register_buffer(name, tensor)
        self.register_buffer("middle", torch.zeros(teacher.width))
        self.register_buffer("spread", torch.ones(teacher.width))

    @torch.no_grad()
    def told(self, images: Tensor) -> tuple[Tensor, Tensor]:
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
        return (vectors - self.middle) / self.spread.clamp(min=1e-6), found.maps[-1].float()


class Distill(Objective):
    wide: ClassVar[int] = 1
    needs = _BOTH
    suggests: ClassVar[dict[str, Any]] = {"training.batch_size": 64}
    Settings: ClassVar[type[DistillSettings]] = DistillSettings

    settings: DistillSettings

    def head(self, backbone: Backbone) -> nn.Module:
        name, weights = self.settings.teacher, self.settings.teacher_weights
        return Lesson(backbone, family_of(name).open(name, weights, backbone.input.size))

    def begin(self, backbone: Backbone, head: nn.Module) -> None:
        cast(Lesson, head).teacher.requires_grad_(False)

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Vectors of student and teacher (B, D), maps of both (B, C, h, w)."""
        lesson = cast(Lesson, head)
        vectors, maps = lesson.told(batch.images)
        found = backbone(batch.images, self.needs)
        painted = lesson.maps(found.maps[-1])
        return lesson.vector(found.pooled), vectors, functional.interpolate(painted, maps.shape[-2:], mode="bilinear"), maps

    def loss(self, output: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        said, vectors, painted, maps = (each.float() for each in output)
        unlike = (1 - functional.cosine_similarity(said, vectors)).mean()
        elsewhere = (1 - functional.cosine_similarity(painted, maps)).mean()
        return {"vector": unlike, "maps": self.settings.maps * elsewhere}


def between(one: InputSpec, other: InputSpec) -> tuple[Tensor, Tensor]:
    """Factor and shift, (1, 3, 1, 1), from pixels normalised for the one network to those for the other."""
    (mean, std), (theirs, spread) = (
        (torch.tensor(spec.mean).view(1, 3, 1, 1), torch.tensor(spec.std).view(1, 3, 1, 1)) for spec in (one, other)
    )
    return std / spread, (mean - theirs) / spread
