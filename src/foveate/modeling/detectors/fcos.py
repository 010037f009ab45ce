"""FCOS (Tian et al. 2019, 2020): every point of the pyramid inside an object says how far its four sides are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from foveate.modeling.detectors import (
    PRIOR,
    Branch,
    Detector,
    Terms,
    Truth,
    box_overlap_loss,
    class_loss,
)

_RADIUS = 1.5  # strides from an object's centre within which points are responsible for it
_RANGE = (4, 8)  # strides: a level is responsible for objects whose farthest side is between these


@dataclass(frozen=True)
class Output:
    """`logits` (B, A, K); `sides` (B, A, 4), distances in strides to left, top, right, bottom; `centred` (B, A) logits;
    `points` (A, 2) in pixels; `strides` (A,)."""

    logits: Tensor
    sides: Tensor
    centred: Tensor
    points: Tensor
    strides: Tensor

    def boxes(self) -> Tensor:
        """(B, A, 4)."""
        reach = self.sides * self.strides[:, None]
        return torch.cat([self.points - reach[..., :2], self.points + reach[..., 2:]], -1)


class Network(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.classify = Branch(width, depth, 1, classes, PRIOR)
        self.measure = Branch(width, depth, 1, 5)

    def forward(
        self, maps: list[Tensor], size: tuple[int, int], truths: list[Truth] | None = None
    ) -> Output:
        points, strides = _points(maps, size)
        measured = self.measure(maps)
        sides = functional.softplus(measured[..., :4])  # the paper's exponential, without its leaps
        return Output(self.classify(maps), sides, measured[..., 4], points, strides)


class Fcos(Detector):
    paper: ClassVar[Terms] = Terms("focal", "giou")

    def network(self) -> nn.Module:
        return Network(self.classes, self.width, self.depth)

    def loss(self, output: Output, truths: list[Truth]) -> dict[str, Tensor]:
        """Classes over all points; boxes and centredness over the points of objects, boxes weighted by centredness."""
        matched = [_matched(output, truth, self.first, self.last) for truth in truths]
        wanted = torch.zeros_like(output.logits)
        found = output.boxes()
        classes, boxes, centred = (
            output.logits.new_zeros(()),
            output.logits.sum() * 0,
            output.logits.sum() * 0,
        )
        count, weight = 0, 0.0
        for image, (truth, places) in enumerate(zip(truths, matched, strict=True)):
            inside = places >= 0
            owners = places[inside]
            wanted[image, inside, truth.classes[owners]] = 1
            share = _centredness(output.points[inside], truth.boxes[owners])
            boxes = (
                boxes
                + (self._box_loss(output, found, image, inside, truth.boxes[owners]) * share).sum()
            )
            logits = output.centred[image, inside].float()
            centred = centred + functional.binary_cross_entropy_with_logits(
                logits, share, reduction="sum"
            )
            count, weight = count + len(owners), weight + float(share.sum())
        classes = class_loss(self.terms.classes, output.logits.float(), wanted.float())
        return {
            "class": classes / max(1, count),
            "box": boxes / max(1.0, weight),
            "centre": centred / max(1, count),
        }

    def places(self, output: Output) -> tuple[Tensor, Tensor]:
        scores = (
            output.logits.float().sigmoid() * output.centred.float().sigmoid()[..., None]
        ).sqrt()
        return output.boxes().float(), scores

    def _box_loss(
        self, output: Output, found: Tensor, image: int, inside: Tensor, wanted: Tensor
    ) -> Tensor:
        """(N,) for the points that are inside an object."""
        if self.terms.boxes == "giou":
            return box_overlap_loss(found[image, inside].float(), wanted)
        points, strides = output.points[inside], output.strides[inside]
        sides = torch.cat([points - wanted[:, :2], wanted[:, 2:] - points], 1) / strides[:, None]
        return functional.smooth_l1_loss(
            output.sides[image, inside].float(), sides, reduction="none"
        ).sum(1)


def _points(maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(A, 2) middles of the steps of every level, in pixels, and (A,) their strides."""
    points, strides = [], []
    for level in maps:
        height, width = level.shape[-2:]
        stride = size[1] / width
        y = (torch.arange(height, device=level.device) + 0.5) * (size[0] / height)
        x = (torch.arange(width, device=level.device) + 0.5) * stride
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2))
        strides.append(points[-1].new_full((height * width,), stride))
    return torch.cat(points), torch.cat(strides)


def _matched(output: Output, truth: Truth, first: int, last: int) -> Tensor:
    """(A,) int64: the object that each point is responsible for, the smallest where several claim it; -1 for none."""
    if not len(truth.boxes):
        return torch.full((len(output.points),), -1, device=output.points.device)
    points, strides = output.points[:, None], output.strides[:, None]
    corners = truth.boxes[None]
    reach = torch.cat([points - corners[..., :2], corners[..., 2:] - points], -1)  # (A, N, 4)
    middles = (corners[..., :2] + corners[..., 2:]) / 2
    near = (points - middles).abs().amax(-1) < _RADIUS * strides
    farthest = reach.amax(-1)
    low = torch.where(strides <= strides.min(), 0.0, _RANGE[0] * strides)
    high = torch.where(strides >= strides.max(), torch.inf, _RANGE[1] * strides)
    claimed = near & (reach.amin(-1) > 0) & (farthest > low) & (farthest <= high)
    areas = (corners[..., 2:] - corners[..., :2]).prod(-1).expand_as(farthest)
    smallest, owner = torch.where(claimed, areas, torch.inf).min(1)
    return torch.where(smallest.isfinite(), owner, -1)


def _centredness(points: Tensor, boxes: Tensor) -> Tensor:
    """(N,): 1 in the middle of the box, 0 at its edge (equation 3 of the paper)."""
    low, high = points - boxes[:, :2], boxes[:, 2:] - points
    return (torch.minimum(low, high) / torch.maximum(low, high)).clamp(min=0).prod(1).sqrt()
