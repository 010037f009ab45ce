"""A student sees any view and says what its own slow average says of the wide ones (DINO, Caron et al. 2021)."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.backbones import Backbone
from foveate.training.objectives import Objective, ObjectiveSettings
from foveate.training.objectives._views import global_views, pooled_views, view_features
from foveate.types import Batch
from foveate.utils.distributed import current_context

_BOTTLENECK = 128


class DINOSettings(ObjectiveSettings):
    area: float = Field(
        0.3, gt=0, le=1, description="smallest share of the image's area that a wide view shows"
    )
    local_views: int = Field(
        4, ge=0, description="smaller views beside the two wide ones, which the student alone sees"
    )
    prototypes: int = Field(1024, ge=2, description="answers to choose from")
    hidden: int = Field(512, ge=1, description="width of the projector's middle layers")
    student_temperature: float = Field(0.1, gt=0, description="of the student's answers")
    teacher_temperature: float = Field(
        0.05, gt=0, description="of the teacher's, which are sharper"
    )
    momentum: float = Field(
        0.99, ge=0, le=1, description="of the teacher at first; it ends at 1, along a cosine"
    )
    center_momentum: float = Field(
        0.9, ge=0, lt=1, description="of the mean answer, which is taken off the teacher's"
    )


class ProjectionHead(nn.Module):
    """(N, D) -> (N, K): three layers, a bottleneck of length 1, and prototypes of length 1 to compare it with."""

    def __init__(self, width: int, settings: DINOSettings) -> None:
        super().__init__()
        hidden = settings.hidden
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, _BOTTLENECK),
        )
        self.prototypes = nn.Parameter(torch.randn(settings.prototypes, _BOTTLENECK))

    def forward(self, features: Tensor) -> Tensor:
        found = functional.normalize(self.layers(features), dim=-1)
        return functional.linear(found, functional.normalize(self.prototypes, dim=1))


class StudentTeacher(nn.Module):
    """The student's head, and the teacher: an average of backbone and head that no gradient reaches."""

    centre: Tensor
    eyes: Backbone

    def __init__(self, width: int, settings: DINOSettings) -> None:
        super().__init__()
        self.student, self.teacher = ProjectionHead(width, settings), ProjectionHead(width, settings)
        self.teacher.load_state_dict(self.student.state_dict())
        self.register_buffer("centre", torch.zeros(settings.prototypes))


class DINO(Objective):
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 128}
    Settings: ClassVar[type[DINOSettings]] = DINOSettings

    settings: DINOSettings

    def head(self, backbone: Backbone) -> nn.Module:
        return StudentTeacher(backbone.width, self.settings)

    def prepare(self, backbone: Backbone, head: nn.Module) -> None:
        pair = cast(StudentTeacher, head)
        pair.eyes = copy.deepcopy(backbone).requires_grad_(False)
        pair.teacher.requires_grad_(False)

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The student's answers to all views (V + L, B, K), and the teacher's to the wide ones (V, B, K), as chances."""
        pair = cast(StudentTeacher, head)
        found = view_features(backbone, batch)
        with torch.no_grad():
            answers = pair.teacher(pooled_views(pair.eyes, global_views(batch))).float()
            chances = ((answers - pair.centre) / self.settings.teacher_temperature).softmax(-1)
            if pair.training:
                middle = answers.mean((0, 1))
                current_context().average([middle])
                pair.centre.lerp_(middle, 1 - self.settings.center_momentum)
        return pair.student(found), chances

    def loss(self, output: tuple[Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"loss": dino_loss(output[0].float() / self.settings.student_temperature, output[1])}

    @torch.no_grad()
    def after_step(self, backbone: Backbone, head: nn.Module, step: int, steps: int) -> None:
        """The teacher follows; at the end it stands still."""
        pair, slow = cast(StudentTeacher, head), 1 - self.settings.momentum
        share = slow * 0.5 * (1 + math.cos(math.pi * step / steps))
        for follower, leader in ((pair.eyes, backbone), (pair.teacher, pair.student)):
            for mean, live in zip(
                follower.state_dict().values(), leader.state_dict().values(), strict=True
            ):
                if mean.is_floating_point():
                    mean.lerp_(live, share)
                else:
                    mean.copy_(live)


def dino_loss(student: Tensor, chances: Tensor) -> Tensor:
    """(V + L, B, K) logits and (V, B, K) chances of the first V views -> mean cross entropy over pairs of different views."""
    said = student.log_softmax(-1)
    losses = -torch.einsum("tbk,sbk->ts", chances, said) / chances.shape[1]
    apart = 1 - torch.eye(len(chances), len(said), device=losses.device)
    return (losses * apart).sum() / apart.sum()
