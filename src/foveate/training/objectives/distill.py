"""Feature distillation: a network learns the features of a pretrained teacher instead of labels.

Any backbone can teach any other (as in FitNets, Romero et al. 2015): pooled vectors and the deepest
maps are compared by cosine. Maps of several depths guide every part of a new network, where the
vector alone guides the last one.
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

_POOLED_AND_MAPS = frozenset({Provides.POOLED, Provides.MAPS})
_MAX_MAPS = 3  # levels of maps that are compared
_MOMENTUM = 0.99  # of mean and standard deviation of the teacher's vectors


class DistillSettings(ObjectiveSettings):
    teacher: str = Field(
        "tf_efficientnet_lite0", description="teacher backbone; foveate models lists them"
    )
    teacher_weights: str = Field(
        "auto", description="weights of the teacher: auto, hub, offline, or a file"
    )
    min_area: float = Field(0.3, gt=0, le=1, description="minimum area fraction of the view")
    color: float = Field(0.3, ge=0, le=1, description="strength of random color changes")
    maps_weight: float = Field(
        1.0, ge=0, description="weight of the three deepest maps, relative to the pooled vector"
    )


@dataclass
class DistillOutput:
    """Features of student and teacher, each a pair.

    Attributes:
        vectors: (B, D) each.
        maps: (B, C, h, w) each, the deepest first; the student's may have another size.
    """

    vectors: tuple[Tensor, Tensor]
    maps: list[tuple[Tensor, Tensor]]


class DistillHead(nn.Module):
    """The teacher, and projections from the student's features to its own.

    Attributes:
        factor, shift: (1, 3, 1, 1), from the student's normalization of pixels to the teacher's.
        mean, std: (D,), running statistics of the teacher's vectors.
    """

    factor: Tensor
    shift: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, student: Backbone, teacher: Backbone) -> None:
        super().__init__()
        self.teacher = teacher
        self.vector = nn.Linear(student.width, teacher.width)
        deepest_first = zip(
            reversed(student.map_widths), reversed(teacher.map_widths), strict=False
        )
        pairs = list(deepest_first)[:_MAX_MAPS]
        self.maps = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in pairs)
        factor, shift = renormalization(student.input, teacher.input)
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)
        self.register_buffer("mean", torch.zeros(teacher.width))
        self.register_buffer("std", torch.ones(teacher.width))

    @torch.no_grad()
    def teacher_features(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Compute the teacher's features of images that are normalized for the student.

        Returns:
            Vectors (B, D), standardized, and maps.
        """
        images = images * self.factor + self.shift
        size = self.teacher.input.size
        if images.shape[-1] != size:
            images = functional.interpolate(images, (size, size), mode="bicubic", antialias=True)
        features = self.teacher(images, _POOLED_AND_MAPS)
        vectors = features.pooled.float()
        if self.training and len(vectors) > 1:
            variance, mean = torch.var_mean(vectors, dim=0)
            self.mean.lerp_(mean, 1 - _MOMENTUM)
            self.std.lerp_(variance.sqrt(), 1 - _MOMENTUM)
        return (vectors - self.mean) / self.std.clamp(min=1e-6), features.maps


class Distill(Objective):
    num_global_views: ClassVar[int] = 1
    needs = _POOLED_AND_MAPS
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
        head = cast(DistillHead, head)
        teacher_vectors, teacher_maps = head.teacher_features(batch.images)
        features = backbone(batch.images, self.needs)
        maps = [
            project(each) for project, each in zip(head.maps, reversed(features.maps), strict=False)
        ]
        return DistillOutput(
            (head.vector(features.pooled), teacher_vectors),
            list(zip(maps, reversed(teacher_maps), strict=False)),
        )

    def loss(self, output: DistillOutput, batch: Batch) -> dict[str, Tensor]:
        losses = [
            _cosine_loss(_resize(student, teacher), teacher) for student, teacher in output.maps
        ]
        maps = torch.stack(losses).mean()
        return {"vector": _cosine_loss(*output.vectors), "maps": self.settings.maps_weight * maps}


def _resize(maps: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(maps, like.shape[-2:], mode="bilinear")


def _cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    return (1 - functional.cosine_similarity(student.float(), teacher.float())).mean()


def renormalization(source: InputSpec, target: InputSpec) -> tuple[Tensor, Tensor]:
    """Return factor and shift, (1, 3, 1, 1), from one normalization of pixels to another."""
    (mean, std), (target_mean, target_std) = (
        (torch.tensor(spec.mean).view(1, 3, 1, 1), torch.tensor(spec.std).view(1, 3, 1, 1))
        for spec in (source, target)
    )
    return std / target_std, (mean - target_mean) / target_std
