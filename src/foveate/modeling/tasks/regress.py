"""Regression: a number for each image, such as an age, a count or a grade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.images.preprocessing import Framing
from foveate.messages import Message
from foveate.modeling.backbones import Backbone
from foveate.modeling.tasks import DataFacts, ExplainableScore, Task, TaskSettings
from foveate.modeling.tasks._linear import LinearHead, choose_features, needed_features
from foveate.predictions import Number
from foveate.types import Batch, Decision, Features, Provides, TargetTensors


class RegressSettings(TaskSettings):
    """Settings of the task."""

    loss: Literal["huber", "l1", "l2"] = Field(
        "huber",
        description="loss function of training steps; huber: Huber 1964; a probe always minimizes "
        "squared errors (l2)",
    )
    delta: float = Field(
        1.0,
        gt=0,
        description="error from which the Huber loss grows linearly, in standard deviations of the "
        "training numbers",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the head")
    features: Literal["auto", "pooled", "maps"] = Field(
        "auto",
        description="input of the head: the pooled vector, or maps of every depth as well; auto: "
        "maps for up to 2,000 images and a head in closed form",
    )
    framing: Literal["whole", "crop"] = Field(
        "whole",
        description="whole: all of the image, padded to a square; crop: the central square",
    )


@dataclass
class RegressOutput:
    """What the head computes.

    Attributes:
        standardized: (B,) numbers, in standard deviations from the mean of the training numbers.
        mean: Mean of the training numbers, a scalar.
        deviation: Their standard deviation, a scalar.
    """

    standardized: Tensor
    mean: Tensor
    deviation: Tensor


class RegressHead(LinearHead):
    """Features -> RegressOutput.

    Attributes:
        target_mean: Mean of the training numbers, a scalar.
        target_deviation: Their standard deviation.
        target_median: Their median, which a metric compares with.
    """

    target_mean: Tensor
    target_deviation: Tensor
    target_median: Tensor

    def __init__(self, width: int, map_widths: tuple[int, ...], dropout: float) -> None:
        super().__init__(width, map_widths, 1, dropout)
        self.register_buffer("target_mean", torch.tensor(0.0))
        self.register_buffer("target_deviation", torch.tensor(1.0))
        self.register_buffer("target_median", torch.tensor(0.0))

    def forward(self, features: Features, batch: Batch | None = None) -> RegressOutput:  # type: ignore[override]
        standardized = super().forward(features, batch)[:, 0].float()
        return RegressOutput(standardized, self.target_mean, self.target_deviation)


class Regress(Task):
    """A number for each image."""

    prediction_type: ClassVar[type[Number]] = Number
    question: ClassVar[Message] = Message(
        "task.regress.question", "Which number belongs to the image?"
    )
    default_overrides: ClassVar[dict[str, Any]] = {
        "tuning": "probe",
        "augment.policy": "none",  # it turns, shears and crops, which may change a number
        "augment.crop": 1.0,
        "augment.color": 0.1,
    }
    Settings: ClassVar[type[TaskSettings]] = RegressSettings
    step_settings: ClassVar[frozenset[str]] = frozenset(("loss", "delta", "dropout"))

    settings: RegressSettings

    def __init__(self, settings: Any, classes: tuple[str, ...]) -> None:
        super().__init__(settings, classes)
        self.framing: Framing = settings.framing

    @property
    def needs(self) -> frozenset[Provides]:  # type: ignore[override]
        return needed_features(self.settings.features)

    @classmethod
    def resolve_settings(
        cls,
        settings: dict[str, Any],
        targets: Sequence[Any],
        classes: tuple[str, ...],
        facts: DataFacts,
    ) -> list[Decision]:
        if settings.get("features", "auto") != "auto":
            return []
        return [choose_features(len(targets), facts.closed_form)]

    def head(self, backbone: Backbone) -> nn.Module:
        map_widths = backbone.map_widths if Provides.MAPS in self.needs else ()
        return RegressHead(backbone.width, map_widths, self.settings.dropout)

    def fit_to_targets(self, head: nn.Module, targets: Sequence[Any]) -> list[Decision]:
        """Keep mean, standard deviation and median of the training numbers in the head."""
        assert isinstance(head, RegressHead)
        numbers = np.array([target.value for target in targets], dtype=np.float64)
        mean, deviation = float(numbers.mean()), float(numbers.std()) or 1.0
        for buffer, value in (
            (head.target_mean, mean),
            (head.target_deviation, deviation),
            (head.target_median, float(np.median(numbers))),
        ):
            buffer.fill_(value)
        text = "of {count:training image|training images}; learned is (number - mean) / deviation"
        reason = Message("choice.standardized", text, count=len(numbers))
        chosen = f"mean {mean:.4g}, deviation {deviation:.4g}"
        return [Decision("head.standardization", chosen, reason)]

    def metric_settings(self, head: nn.Module) -> dict[str, Any]:
        """Return mean and median of the training numbers."""
        assert isinstance(head, RegressHead)
        return {"mean": float(head.target_mean), "median": float(head.target_median)}

    def encode(self, target: Number, size: tuple[int, int]) -> TargetTensors:
        """Return number, a float32 scalar."""
        return {"number": torch.tensor(target.value, dtype=torch.float32)}

    def loss(self, output: RegressOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss of the standardized numbers."""
        numbers = torch.stack([target["number"] for target in batch.targets])
        wanted = (numbers - output.mean) / output.deviation
        if self.settings.loss == "l1":
            return {"loss": functional.l1_loss(output.standardized, wanted)}
        if self.settings.loss == "l2":
            return {"loss": functional.mse_loss(output.standardized, wanted)}
        return {
            "loss": functional.huber_loss(output.standardized, wanted, delta=self.settings.delta)
        }

    def decode(self, output: RegressOutput, batch: Batch | None) -> list[Number]:
        values = _numbers(output).cpu().double()
        return [Number(float(value)) for value in values]

    def export_outputs(
        self, backbone: Backbone, head: nn.Module, images: Tensor
    ) -> dict[str, Tensor]:
        """Return numbers (B, 1)."""
        return {"numbers": _numbers(head(backbone(images, self.needs)))[:, None]}

    def explainable_scores(self, output: RegressOutput, batch: Batch) -> list[ExplainableScore]:
        """Return the number itself.

        Its place in [0, 1] is the share of a normal distribution with mean and deviation of the
        training numbers that lies below it.
        """
        name = f"{self.decode(output, batch)[0].value:.4g}"
        return [
            ExplainableScore(
                name,
                lambda output: output.standardized,
                lambda output: 0.5 * (1 + torch.erf(output.standardized / math.sqrt(2))),
            )
        ]


def _numbers(output: RegressOutput) -> Tensor:
    """(B,) numbers in the unit of the data."""
    return output.mean + output.deviation * output.standardized
