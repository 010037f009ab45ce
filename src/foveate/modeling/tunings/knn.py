"""k nearest neighbors among the training images, weighted by similarity (Wu et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.modeling.classifiers.knn import NUM_NEIGHBORS, knn_vote
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings import Adaptable, Tuning, TuningSettings
from foveate.modeling.tunings._few_shot import require_single_label
from foveate.types import Batch, Decision, Features

_MIN_PROBABILITY = 1e-4  # of a class without a vote


class KnnSettings(TuningSettings):
    k: int = Field(
        NUM_NEIGHBORS, ge=1, description="neighbors that vote; all images if there are fewer"
    )


class KnnHead(nn.Module):
    """Log probabilities (B, K).

    Attributes:
        keys: (N, D), features of the training images minus their `mean` (D,).
        labels: (N, K), one-hot.
    """

    mean: Tensor
    keys: Tensor
    labels: Tensor

    def __init__(self, described: Any, classes: int, k: int) -> None:
        super().__init__()
        self.feature_vector, self.k = described.feature_vector, k
        self.register_buffer("mean", torch.zeros_like(described.mean))
        self.register_buffer("keys", torch.zeros(1, len(described.mean)))
        self.register_buffer("labels", torch.full((1, classes), 1 / classes))

    def set_cache(self, keys: Tensor, labels: Tensor) -> None:
        self.keys, self.labels = keys, labels

    def forward(self, features: Features, batch: Batch | None = None) -> Tensor:
        queries = self.feature_vector(features).float() - self.mean
        return knn_vote(queries, self.keys, self.labels, self.k).clamp(min=_MIN_PROBABILITY).log()


class Knn(Tuning):
    needs_steps: ClassVar[bool] = False
    default_overrides: ClassVar[dict[str, Any]] = {"task.features": "pooled"}
    Settings: ClassVar[type[TuningSettings]] = KnnSettings

    def apply(self, model: Adaptable) -> None:
        if not (hasattr(model.head, "feature_vector") and model.classes):
            raise UsageError(
                "nearest neighbors support classification only",
                where="tuning",
                hint="--tuning full",
            )
        model.backbone.requires_grad_(False)
        model.head = KnnHead(model.head, len(model.classes), self.settings.k)

    def fit_head(self, model: Adaptable, features: LabeledFeatures) -> list[Decision]:
        require_single_label(features)
        head: Any = model.head
        head.mean.copy_(torch.from_numpy(features.features.mean(0)))
        head.set_cache(
            torch.from_numpy(features.features) - head.mean,
            torch.from_numpy(features.targets).float(),
        )
        return []

    def prepare_for_tensors(self, model: Adaptable, tensors: Mapping[str, Tensor]) -> None:
        head: Any = model.head
        stored = tensors.get("head.keys")
        if stored is not None and stored.ndim == 2:
            head.set_cache(torch.zeros_like(stored), torch.zeros(len(stored), head.labels.shape[1]))
