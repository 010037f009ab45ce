"""FCOS (Tian et al. 2019, 2020): points in an object predict the distances to its four sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.detectors import (
    PRIOR_LOGIT,
    Detector,
    LossNames,
    ObjectTargets,
    PredictionBranch,
    class_loss,
    giou_loss,
)

_RADIUS = 1.5  # strides: points this close to an object's center are responsible for it
# strides: range of the farthest side of the objects that a level is responsible for
_RANGE = (4, 8)


@dataclass(frozen=True)
class FcosOutput:
    """Raw predictions of the A points.

    Attributes:
        logits: (B, A, K).
        distances: (B, A, 4), in strides, to left, top, right, bottom.
        centerness: (B, A) logits.
        points: (A, 2), px.
        strides: (A,), px.
    """

    logits: Tensor
    distances: Tensor
    centerness: Tensor
    points: Tensor
    strides: Tensor

    def boxes(self) -> Tensor:
        """Return the predicted boxes, (B, A, 4)."""
        reach = self.distances * self.strides[:, None]
        return torch.cat([self.points - reach[..., :2], self.points + reach[..., 2:]], -1)


class FcosHead(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.classify = PredictionBranch(width, depth, 1, classes, PRIOR_LOGIT)
        self.regress = PredictionBranch(width, depth, 1, 5)

    def forward(
        self, maps: list[Tensor], size: tuple[int, int], targets: list[ObjectTargets] | None = None
    ) -> FcosOutput:
        points, strides = _points(maps, size)
        regressed = self.regress(maps)
        # the paper's exponential, without its leaps
        distances = functional.softplus(regressed[..., :4])
        return FcosOutput(self.classify(maps), distances, regressed[..., 4], points, strides)


class Fcos(Detector):
    default_losses: ClassVar[LossNames] = LossNames("focal", "giou")

    def network(self) -> nn.Module:
        return FcosHead(self.classes, self.width, self.depth)

    def loss(self, output: FcosOutput, targets: list[ObjectTargets]) -> dict[str, Tensor]:
        """Classes over all points; boxes and centerness over the points of objects.

        Box losses are weighted by the target centerness, as in the paper.
        """
        assigned = [
            _assign_points(output, target, self.min_stride, self.max_stride) for target in targets
        ]
        class_targets = torch.zeros_like(output.logits)
        predicted = output.boxes()
        classes = output.logits.new_zeros(())
        boxes = output.logits.sum() * 0
        centerness = output.logits.sum() * 0
        count, weight = 0, 0.0
        for image, (target, owner) in enumerate(zip(targets, assigned, strict=True)):
            inside = owner >= 0
            owners = owner[inside]
            class_targets[image, inside, target.classes[owners]] = 1
            share = _centerness(output.points[inside], target.boxes[owners])
            boxes = (
                boxes
                + (
                    self._box_loss(output, predicted, image, inside, target.boxes[owners]) * share
                ).sum()
            )
            logits = output.centerness[image, inside].float()
            centerness = centerness + functional.binary_cross_entropy_with_logits(
                logits, share, reduction="sum"
            )
            count, weight = count + len(owners), weight + float(share.sum())
        classes = class_loss(self.losses.classes, output.logits.float(), class_targets.float())
        return {
            "class": classes / max(1, count),
            "box": boxes / max(1.0, weight),
            "centerness": centerness / max(1, count),
        }

    def loss_weights(self, output: FcosOutput, targets: list[ObjectTargets]) -> dict[str, float]:
        count, weight = 0, 0.0
        for target in targets:
            owner = _assign_points(output, target, self.min_stride, self.max_stride)
            inside = owner >= 0
            share = _centerness(output.points[inside], target.boxes[owner[inside]])
            count, weight = count + len(share), weight + float(share.sum())
        return {"class": max(1, count), "box": max(1.0, weight), "centerness": max(1, count)}

    def dense_predictions(self, output: FcosOutput) -> tuple[Tensor, Tensor]:
        scores = (
            output.logits.float().sigmoid() * output.centerness.float().sigmoid()[..., None]
        ).sqrt()
        return output.boxes().float(), scores

    def _box_loss(
        self, output: FcosOutput, predicted: Tensor, image: int, inside: Tensor, target: Tensor
    ) -> Tensor:
        """(N,), one for each of the points that are inside an object."""
        if self.losses.boxes == "giou":
            return giou_loss(predicted[image, inside].float(), target)
        points, strides = output.points[inside], output.strides[inside]
        distances = (
            torch.cat([points - target[:, :2], target[:, 2:] - points], 1) / strides[:, None]
        )
        return functional.smooth_l1_loss(
            output.distances[image, inside].float(), distances, reduction="none"
        ).sum(1)


def _points(maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Centers (A, 2) of the cells of every level, px, and their strides (A,), px."""
    points, strides = [], []
    for level in maps:
        height, width = level.shape[-2:]
        stride = size[1] / width
        y = (torch.arange(height, device=level.device) + 0.5) * (size[0] / height)
        x = (torch.arange(width, device=level.device) + 0.5) * stride
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2))
        strides.append(points[-1].new_full((height * width,), stride))
    return torch.cat(points), torch.cat(strides)


def _assign_points(output: FcosOutput, target: ObjectTargets, first: int, last: int) -> Tensor:
    """(A,) int64: the object that each point is responsible for; -1 for none.

    Where several objects claim a point, the smallest gets it.
    """
    if not len(target.boxes):
        return torch.full((len(output.points),), -1, device=output.points.device)
    points, strides = output.points[:, None], output.strides[:, None]
    corners = target.boxes[None]
    reach = torch.cat([points - corners[..., :2], corners[..., 2:] - points], -1)  # (A, N, 4)
    centers = (corners[..., :2] + corners[..., 2:]) / 2
    near_center = (points - centers).abs().amax(-1) < _RADIUS * strides
    farthest = reach.amax(-1)
    low = torch.where(strides <= strides.min(), 0.0, _RANGE[0] * strides)
    high = torch.where(strides >= strides.max(), torch.inf, _RANGE[1] * strides)
    claimed = near_center & (reach.amin(-1) > 0) & (farthest > low) & (farthest <= high)
    areas = (corners[..., 2:] - corners[..., :2]).prod(-1).expand_as(farthest)
    smallest, owner = torch.where(claimed, areas, torch.inf).min(1)
    return torch.where(smallest.isfinite(), owner, -1)


def _centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """(N,): 1 at the center of the box, 0 at its edge (equation 3 of the paper)."""
    low, high = points - boxes[:, :2], boxes[:, 2:] - points
    return (torch.minimum(low, high) / torch.maximum(low, high)).clamp(min=0).prod(1).sqrt()
