"""RetinaNet (Lin et al. 2017): nine anchors per pyramid cell, classified and regressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import _utils as tools
from torchvision.ops import box_iou

from foveate.modeling.detectors import (
    PRIOR_LOGIT,
    Detector,
    LossNames,
    ObjectTargets,
    PredictionBranch,
    class_loss,
    giou_loss,
)
from foveate.modeling.detectors._anchors import make_anchors

_SCALES = tuple(4 * 2 ** (power / 3) for power in range(3))  # sides of the anchors, in strides
_RATIOS = (0.5, 1.0, 2.0)
# IoU from which an anchor is an object, below which it is background
_POSITIVE, _NEGATIVE = 0.5, 0.4
_CODER = tools.BoxCoder((1.0, 1.0, 1.0, 1.0))


@dataclass(frozen=True)
class RetinaNetOutput:
    """Raw predictions of the A anchors.

    Attributes:
        logits: (B, A, K).
        deltas: (B, A, 4), offsets relative to the anchors.
        anchors: (A, 4).
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor


class RetinaNetHead(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        each = len(_SCALES) * len(_RATIOS)
        self.classify = PredictionBranch(width, depth, each, classes, PRIOR_LOGIT)
        self.regress = PredictionBranch(width, depth, each, 4)

    def forward(
        self, maps: list[Tensor], size: tuple[int, int], targets: list[ObjectTargets] | None = None
    ) -> RetinaNetOutput:
        return RetinaNetOutput(
            self.classify(maps), self.regress(maps), make_anchors(maps, size, _SCALES, _RATIOS)
        )


class RetinaNet(Detector):
    default_losses: ClassVar[LossNames] = LossNames("focal", "smooth_l1")

    def network(self) -> nn.Module:
        return RetinaNetHead(self.classes, self.width, self.depth)

    def loss(self, output: RetinaNetOutput, targets: list[ObjectTargets]) -> dict[str, Tensor]:
        """Classes over the anchors that are clearly object or background; boxes over those of
        objects.
        """
        classes, boxes, count = output.logits.sum() * 0, output.deltas.sum() * 0, 0
        for logits, deltas, target in zip(
            output.logits.float(), output.deltas.float(), targets, strict=True
        ):
            owner = _assign_anchors(output.anchors, target)
            inside = owner >= 0
            class_targets = torch.zeros_like(logits)
            class_targets[inside, target.classes[owner[inside]]] = 1
            clear = owner != tools.Matcher.BETWEEN_THRESHOLDS
            classes = classes + class_loss(self.losses.classes, logits[clear], class_targets[clear])
            boxes = boxes + self._box_loss(
                deltas[inside], output.anchors[inside], target.boxes[owner[inside]]
            )
            count += int(inside.sum())
        return {"class": classes / max(1, count), "box": boxes / max(1, count)}

    def loss_weights(
        self, output: RetinaNetOutput, targets: list[ObjectTargets]
    ) -> dict[str, float]:
        owners = (_assign_anchors(output.anchors, target) for target in targets)
        count = max(1, sum(int((owner >= 0).sum()) for owner in owners))
        return {"class": count, "box": count}

    def dense_predictions(self, output: RetinaNetOutput) -> tuple[Tensor, Tensor]:
        # The coder takes (A, 4 * classes); images stand where it expects classes.
        deltas = output.deltas.float().transpose(0, 1).flatten(1)
        boxes = _CODER.decode_single(deltas, output.anchors).unflatten(1, (-1, 4)).transpose(0, 1)
        return boxes, output.logits.float().sigmoid()

    def _box_loss(self, deltas: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
        if self.losses.boxes == "giou":
            return giou_loss(_CODER.decode_single(deltas, anchors), targets).sum()
        return functional.smooth_l1_loss(
            deltas, _CODER.encode_single(targets, anchors), reduction="sum", beta=1 / 9
        )


def _assign_anchors(anchors: Tensor, target: ObjectTargets) -> Tensor:
    """(A,) int64: the object of each anchor; negative for background or in between.

    Every object gets at least its best anchor.
    """
    if not len(target.boxes):
        return torch.full((len(anchors),), tools.Matcher.BELOW_LOW_THRESHOLD, device=anchors.device)
    matcher = tools.Matcher(_POSITIVE, _NEGATIVE, allow_low_quality_matches=True)
    return matcher(box_iou(target.boxes, anchors))  # type: ignore[no-any-return]
