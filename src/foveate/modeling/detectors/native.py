"""What the backbone finds by itself, asked in words: nothing is learnt here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.errors import UsageError
from foveate.modeling.detectors import Detector, Terms, Truth
from foveate.types import Provides


@dataclass(frozen=True)
class Output:
    """`boxes` (B, A, 4) and `logits` (B, A, K)."""

    boxes: Tensor
    logits: Tensor


class Network(nn.Module):
    def forward(
        self, found: tuple[Tensor, Tensor], size: tuple[int, int], truths: list[Truth] | None = None
    ) -> Output:
        return Output(*found)


class Native(Detector):
    needs: ClassVar[Provides] = Provides.NATIVE
    paper: ClassVar[Terms] = Terms()

    def network(self) -> nn.Module:
        return Network()

    def loss(self, output: Output, truths: list[Truth]) -> dict[str, Tensor]:
        """0 where nobody learns from it. Raises UsageError in a training."""
        if torch.is_grad_enabled():
            hint = "--tuning zeroshot, or a backbone with maps and --set task.head=fcos"
            raise UsageError(
                "what the backbone finds by itself is not trained", where="task.head", hint=hint
            )
        return {"loss": output.logits.sum() * 0}

    def places(self, output: Output) -> tuple[Tensor, Tensor]:
        """A place says one thing at most: the class that it is surest of."""
        logits = output.logits.float()
        return output.boxes.float(), logits.sigmoid() * functional.one_hot(
            logits.argmax(2), logits.shape[2]
        )
