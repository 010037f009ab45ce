"""What the backbone finds by itself, asked in words: nothing is learnt here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from foveate.detectors import Candidates, Detector, Terms, Truth, surest
from foveate.errors import UsageError
from foveate.types import Provides


@dataclass(frozen=True)
class Output:
    """`boxes` (B, A, 4) and `logits` (B, A, K)."""

    boxes: Tensor
    logits: Tensor


class Network(nn.Module):
    def forward(self, found: tuple[Tensor, Tensor], size: tuple[int, int], truths: list[Truth] | None = None) -> Output:
        return Output(*found)


class Native(Detector):
    needs: ClassVar[Provides] = Provides.NATIVE
    paper: ClassVar[Terms] = Terms()

    def network(self) -> nn.Module:
        return Network()

    def loss(self, output: Output, truths: list[Truth]) -> dict[str, Tensor]:
        hint = "--tuning zeroshot, or a backbone with maps and --set task.head=fcos"
        raise UsageError("what the backbone finds by itself is not trained", where="task.head", hint=hint)

    def candidates(self, output: Output) -> list[Candidates]:
        """A place says one thing at most: the class that it is surest of."""
        found: list[Any] = []
        for boxes, logits in zip(output.boxes.float(), output.logits.float().sigmoid(), strict=True):
            best = logits == logits.amax(1, keepdim=True)
            found.append(surest(boxes, logits * best))
        return found
