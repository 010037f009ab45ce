"""RetinaNet (Lin et al. 2017): nine anchors at every step of the pyramid, classified and moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import _utils as tools
from torchvision.ops import box_iou

from foveate.modeling.detectors import (
    PRIOR,
    Branch,
    Detector,
    Terms,
    Truth,
    box_overlap_loss,
    class_loss,
)
from foveate.modeling.detectors._anchors import anchors_of

_SCALES = tuple(
    4 * 2 ** (power / 3) for power in range(3)
)  # strides: sides of the anchors of a level
_RATIOS = (0.5, 1.0, 2.0)
_POSITIVE, _NEGATIVE = (
    0.5,
    0.4,
)  # overlap from which an anchor belongs to an object, and below which to none
_CODER = tools.BoxCoder((1.0, 1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Output:
    """`logits` (B, A, K); `moves` (B, A, 4), how the anchors are shifted and stretched; `anchors` (A, 4)."""

    logits: Tensor
    moves: Tensor
    anchors: Tensor


class Network(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        each = len(_SCALES) * len(_RATIOS)
        self.classify = Branch(width, depth, each, classes, PRIOR)
        self.move = Branch(width, depth, each, 4)

    def forward(
        self, maps: list[Tensor], size: tuple[int, int], truths: list[Truth] | None = None
    ) -> Output:
        return Output(
            self.classify(maps), self.move(maps), anchors_of(maps, size, _SCALES, _RATIOS)
        )


class RetinaNet(Detector):
    paper: ClassVar[Terms] = Terms("focal", "smooth_l1")

    def network(self) -> nn.Module:
        return Network(self.classes, self.width, self.depth)

    def loss(self, output: Output, truths: list[Truth]) -> dict[str, Tensor]:
        """Classes over the anchors that clearly belong to an object or to none; boxes over those of objects."""
        classes, boxes, count = output.logits.sum() * 0, output.moves.sum() * 0, 0
        for logits, moves, truth in zip(
            output.logits.float(), output.moves.float(), truths, strict=True
        ):
            places = _matched(output.anchors, truth)
            inside = places >= 0
            wanted = torch.zeros_like(logits)
            wanted[inside, truth.classes[places[inside]]] = 1
            clear = places != tools.Matcher.BETWEEN_THRESHOLDS
            classes = classes + class_loss(self.terms.classes, logits[clear], wanted[clear])
            boxes = boxes + self._box_loss(
                moves[inside], output.anchors[inside], truth.boxes[places[inside]]
            )
            count += int(inside.sum())
        return {"class": classes / max(1, count), "box": boxes / max(1, count)}

    def places(self, output: Output) -> tuple[Tensor, Tensor]:
        moves = (
            output.moves.float().transpose(0, 1).flatten(1)
        )  # images in the place of classes: the coder takes (A, 4 * any)
        boxes = _CODER.decode_single(moves, output.anchors).unflatten(1, (-1, 4)).transpose(0, 1)
        return boxes, output.logits.float().sigmoid()

    def _box_loss(self, moves: Tensor, anchors: Tensor, wanted: Tensor) -> Tensor:
        if self.terms.boxes == "giou":
            return box_overlap_loss(_CODER.decode_single(moves, anchors), wanted).sum()
        return functional.smooth_l1_loss(
            moves, _CODER.encode_single(wanted, anchors), reduction="sum", beta=1 / 9
        )


def _matched(anchors: Tensor, truth: Truth) -> Tensor:
    """(A,) int64: the object of each anchor; below 0: none, or in between. Every object has its best anchor at least."""
    if not len(truth.boxes):
        return torch.full((len(anchors),), tools.Matcher.BELOW_LOW_THRESHOLD, device=anchors.device)
    matcher = tools.Matcher(_POSITIVE, _NEGATIVE, allow_low_quality_matches=True)
    return matcher(box_iou(truth.boxes, anchors))  # type: ignore[no-any-return]
