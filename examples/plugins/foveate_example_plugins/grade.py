"""Classes with an order: predicts the grade nearest to the expected rank and penalizes predictions
by their distance, so that 'mild' instead of 'none' costs less than 'severe' instead of 'none'."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from foveate.modeling.tasks.classify import Classify, ClassifySettings
from foveate.predictions import Labels
from foveate.types import Batch
from foveate_example_plugins._types import Grade


class GradeSettings(ClassifySettings):
    rank_weight: float = Field(
        1.0, ge=0, description="weight of the squared distance between expected and true rank"
    )


class GradeTask(Classify):
    """The classes are ranked in the order of their names: call them 0-none, 1-mild, 2-severe."""

    prediction_type = Grade  # the type of the predictions; the metric that reads it scores the task
    target_types = (Labels,)  # the type of the targets that a data format provides
    Settings = GradeSettings

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        targets = torch.stack([target["labels"] for target in batch.targets])
        distance = _expected_rank(output) - targets @ _ranks(targets)
        penalty = self.settings.rank_weight * distance.square().mean()
        return {**super().loss(output, batch), "rank": penalty}

    def decode(self, output: Tensor, batch: Batch | None) -> list[Labels]:
        scores = output.float().softmax(1).cpu().numpy()
        indices = _expected_rank(output).round().long().tolist()
        return [
            Grade((self.classes[index],), row) for index, row in zip(indices, scores, strict=True)
        ]


def _ranks(like: Tensor) -> Tensor:
    """0, 1, ..., K - 1 for a tensor (B, K)."""
    return torch.arange(like.shape[1], dtype=torch.float32, device=like.device)


def _expected_rank(logits: Tensor) -> Tensor:
    """Logits (B, K) -> (B,) ranks in [0, K - 1]."""
    probabilities = logits.float().softmax(1)
    return probabilities @ _ranks(probabilities)
