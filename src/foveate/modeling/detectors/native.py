"""Open-vocabulary detections of the backbone itself; nothing is trained here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.errors import UsageError
from foveate.modeling.detectors import Detector, LossNames, ObjectTargets
from foveate.types import Provides


@dataclass(frozen=True)
class NativeOutput:
    """Raw detections.

    Attributes:
        boxes: (B, A, 4).
        logits: (B, A, K).
    """

    boxes: Tensor
    logits: Tensor


class NativeHead(nn.Module):
    def forward(
        self,
        predicted: tuple[Tensor, Tensor],
        size: tuple[int, int],
        targets: list[ObjectTargets] | None = None,
    ) -> NativeOutput:
        return NativeOutput(*predicted)


class Native(Detector):
    needs: ClassVar[Provides] = Provides.NATIVE
    default_losses: ClassVar[LossNames] = LossNames()

    def network(self) -> nn.Module:
        return NativeHead()

    def loss(self, output: NativeOutput, targets: list[ObjectTargets]) -> dict[str, Tensor]:
        """Return zero, for validation.

        Raises:
            UsageError: gradients are enabled, so that a training was begun.
        """
        if torch.is_grad_enabled():
            hint = "--tuning zeroshot, or a backbone with maps and --set task.head=fcos"
            raise UsageError(
                "the backbone's own detection head cannot be trained", where="task.head", hint=hint
            )
        return {"loss": output.logits.sum() * 0}

    def dense_predictions(self, output: NativeOutput) -> tuple[Tensor, Tensor]:
        """Keep only the most probable class of each box."""
        logits = output.logits.float()
        return output.boxes.float(), logits.sigmoid() * functional.one_hot(
            logits.argmax(2), logits.shape[2]
        )
