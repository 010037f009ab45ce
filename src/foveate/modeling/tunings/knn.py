"""Nearest neighbours: the training images themselves are the head, and vote by likeness (Wu et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.modeling.classifiers.knn import NEIGHBOURS, knn_vote
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings import Adaptable, Choice, Tuning, TuningSettings
from foveate.modeling.tunings._few_shot import refuse_several
from foveate.types import Batch, Features

_LEAST = 1e-4  # the chance of a class that no neighbour votes for


class KnnSettings(TuningSettings):
    k: int = Field(
        NEIGHBOURS, ge=1, description="neighbours that vote; all images where there are fewer"
    )


class NeighbourHead(nn.Module):
    """Features -> log chances (B, K). `known`: (N, D), features of training images less their `mean` (D,); `answers`: (N, K)."""

    mean: Tensor
    known: Tensor
    answers: Tensor

    def __init__(self, described: Any, classes: int, k: int) -> None:
        super().__init__()
        self.feature_vector, self.k = described.feature_vector, k
        self.register_buffer("mean", torch.zeros_like(described.mean))
        self.register_buffer("known", torch.zeros(1, len(described.mean)))
        self.register_buffer("answers", torch.full((1, classes), 1 / classes))

    def hold(self, known: Tensor, answers: Tensor) -> None:
        self.known, self.answers = known, answers

    def forward(self, features: Features, batch: Batch | None = None) -> Tensor:
        asked = self.feature_vector(features).float() - self.mean
        return knn_vote(asked, self.known, self.answers, self.k).clamp(min=_LEAST).log()


class Knn(Tuning):
    needs_steps: ClassVar[bool] = False
    default_overrides: ClassVar[dict[str, Any]] = {"task.features": "pooled"}
    Settings: ClassVar[type[TuningSettings]] = KnnSettings

    def apply(self, model: Adaptable) -> None:
        if not hasattr(model.head, "feature_vector"):
            raise UsageError(
                "nearest neighbours answer about whole images only",
                where="tuning",
                hint="--tuning full",
            )
        model.backbone.requires_grad_(False)
        model.head = NeighbourHead(model.head, len(model.classes), self.settings.k)

    def fit_head(self, model: Adaptable, known: LabeledFeatures) -> list[Choice]:
        refuse_several(known)
        head: Any = model.head
        head.mean.copy_(torch.from_numpy(known.features.mean(0)))
        head.hold(
            torch.from_numpy(known.features) - head.mean, torch.from_numpy(known.targets).float()
        )
        return []

    def prepare_for_tensors(self, model: Adaptable, tensors: Mapping[str, Tensor]) -> None:
        head: Any = model.head
        stored = tensors.get("head.known")
        if stored is not None and stored.ndim == 2:
            head.hold(torch.zeros_like(stored), torch.zeros(len(stored), head.answers.shape[1]))
