"""DINO (Caron et al. 2021): a student predicts, from any view, what its own average says of others.

Letters: B images, V global views, L local views, N vectors, D width of a feature, K prototypes.
"""

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
    min_area: float = Field(
        0.3, gt=0, le=1, description="minimum area fraction of the views at the size of the network"
    )
    local_views: int = Field(
        4, ge=0, description="smaller views beside the two global ones, for the student only"
    )
    prototypes: int = Field(1024, ge=2, description="number of prototypes (outputs)")
    hidden: int = Field(512, ge=1, description="width of the hidden layers of the projection head")
    student_temperature: float = Field(0.1, gt=0, description="softmax temperature of the student")
    teacher_temperature: float = Field(
        0.05, gt=0, description="softmax temperature of the teacher, which is sharper"
    )
    momentum: float = Field(
        0.99, ge=0, le=1, description="initial momentum of the teacher; it rises to 1 on a cosine"
    )
    center_momentum: float = Field(
        0.9, ge=0, lt=1, description="momentum of the center, which is subtracted from the teacher"
    )


class ProjectionHead(nn.Module):
    """(N, D) -> (N, K): three layers, and cosine similarity with the prototypes."""

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
        vectors = functional.normalize(self.layers(features), dim=-1)
        return functional.linear(vectors, functional.normalize(self.prototypes, dim=1))


class StudentTeacher(nn.Module):
    """The head of the student; and the teacher, an average of backbone and head without gradients.

    Attributes:
        center: (K,), running mean of the teacher's outputs.
        teacher_backbone: set by `DINO.prepare`.
    """

    center: Tensor
    teacher_backbone: Backbone

    def __init__(self, width: int, settings: DINOSettings) -> None:
        super().__init__()
        self.student = ProjectionHead(width, settings)
        self.teacher = ProjectionHead(width, settings)
        self.teacher.load_state_dict(self.student.state_dict())
        self.register_buffer("center", torch.zeros(settings.prototypes))


class DINO(Objective):
    default_overrides: ClassVar[dict[str, Any]] = {"training.batch_size": 128}
    Settings: ClassVar[type[DINOSettings]] = DINOSettings

    settings: DINOSettings

    def head(self, backbone: Backbone) -> nn.Module:
        return StudentTeacher(backbone.width, self.settings)

    def prepare(self, backbone: Backbone, head: nn.Module) -> None:
        pair = cast(StudentTeacher, head)
        pair.teacher_backbone = copy.deepcopy(backbone).requires_grad_(False)
        pair.teacher.requires_grad_(False)

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the student's logits (V + L, B, K) and the teacher's probabilities (V, B, K)."""
        pair = cast(StudentTeacher, head)
        features = view_features(backbone, batch)
        with torch.no_grad():
            teacher_features = pooled_views(pair.teacher_backbone, global_views(batch))
            logits = pair.teacher(teacher_features).float()
            centered = (logits - pair.center) / self.settings.teacher_temperature
            probabilities = centered.softmax(-1)
            if pair.training:
                mean = logits.mean((0, 1))
                current_context().average([mean])
                pair.center.lerp_(mean, 1 - self.settings.center_momentum)
        return pair.student(features), probabilities

    def loss(self, output: tuple[Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        logits, probabilities = output
        scaled = logits.float() / self.settings.student_temperature
        return {"loss": dino_loss(scaled, probabilities)}

    @torch.no_grad()
    def after_step(self, backbone: Backbone, head: nn.Module, step: int, steps: int) -> None:
        """Let the teacher follow the student; at the end it stands still."""
        pair = cast(StudentTeacher, head)
        rate = (1 - self.settings.momentum) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for teacher, student in (
            (pair.teacher_backbone, backbone),
            (pair.teacher, pair.student),
        ):
            tensors = zip(teacher.state_dict().values(), student.state_dict().values(), strict=True)
            for mean, live in tensors:
                if mean.is_floating_point():
                    mean.lerp_(live, rate)
                else:
                    mean.copy_(live)


def dino_loss(student: Tensor, probabilities: Tensor) -> Tensor:
    """Return the mean cross entropy over pairs of different views.

    Args:
        student: (V + L, B, K) logits of all views.
        probabilities: (V, B, K) of the teacher, for the first V views.
    """
    log_probabilities = student.log_softmax(-1)
    losses = -torch.einsum("tbk,sbk->ts", probabilities, log_probabilities)
    losses = losses / probabilities.shape[1]
    different = 1 - torch.eye(len(probabilities), len(student), device=losses.device)
    return (losses * different).sum() / different.sum()
