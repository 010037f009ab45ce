"""Faster R-CNN (Ren et al. 2015) on a pyramid (Lin et al. 2017): proposals, then their classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import _utils as tools
from torchvision.ops import MultiScaleRoIAlign, batched_nms, box_iou, clip_boxes_to_image

from foveate.errors import UsageError
from foveate.modeling.detectors import (
    Candidates,
    Detector,
    LossNames,
    ObjectTargets,
    PredictionBranch,
    giou_loss,
    top_candidates,
)
from foveate.modeling.detectors._anchors import make_anchors

_SCALES, _RATIOS = (8.0,), (0.5, 1.0, 2.0)
_PROPOSALS = 300  # proposals of an image that the second stage reads
_BEFORE_NMS = 1000  # proposals of an image before non-maximum suppression
_NMS_THRESHOLD = 0.7
# how many of an image are trained on, and the largest share of objects among them
_SAMPLED = {"anchors": (256, 0.5), "proposals": (128, 0.25)}
_ROI_SIZE = 7  # cells along each side of a region of interest
_HIDDEN = 512
_PROPOSAL_CODER = tools.BoxCoder((1.0, 1.0, 1.0, 1.0))
_BOX_CODER = tools.BoxCoder((10.0, 10.0, 5.0, 5.0))
_MIN_SIDE = 1e-3  # px: narrower proposals are dropped


@dataclass(frozen=True)
class FasterRcnnOutput:
    """Both stages.

    Attributes:
        objectness: (B, A) logits.
        rpn_deltas: (B, A, 4), relative to `anchors` (A, 4).
        proposals: B of (P, 4).
        logits: (sum P, 1 + K), index 0 for background.
        box_deltas: (sum P, K, 4), a box for each class.
        size: (H, W).
    """

    objectness: Tensor
    rpn_deltas: Tensor
    anchors: Tensor
    proposals: list[Tensor]
    logits: Tensor
    box_deltas: Tensor
    size: tuple[int, int]


class FasterRcnnHead(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.classes = classes
        self.propose = PredictionBranch(width, 1, len(_SCALES) * len(_RATIOS), 5)
        self.roi_align = MultiScaleRoIAlign(
            [str(index) for index in range(4)], _ROI_SIZE, sampling_ratio=2
        )
        layers: list[nn.Module] = [
            nn.Flatten(),
            nn.Linear(width * _ROI_SIZE**2, _HIDDEN),
            nn.ReLU(),
        ]
        for _ in range(depth - 1):
            layers += [nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()]
        self.mlp = nn.Sequential(*layers)
        self.predict = nn.Linear(_HIDDEN, 1 + 5 * classes)
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.bias)

    def forward(
        self, maps: list[Tensor], size: tuple[int, int], targets: list[ObjectTargets] | None = None
    ) -> FasterRcnnOutput:
        rpn_output = self.propose(maps).float()
        anchors = make_anchors(maps, size, _SCALES, _RATIOS)
        objectness, rpn_deltas = rpn_output[..., 0], rpn_output[..., 1:]
        level_sizes = [level.shape[-2] * level.shape[-1] * len(_RATIOS) for level in maps]
        with torch.no_grad():
            proposals = [
                _select_proposals(*each, anchors, level_sizes, size)
                for each in zip(objectness, rpn_deltas, strict=True)
            ]
            if targets is not None:
                proposals = [
                    _sample_proposals(each, target)
                    for each, target in zip(proposals, targets, strict=True)
                ]
        named_maps = {str(index): level.float() for index, level in enumerate(maps[:4])}
        predict = self.predict(
            self.mlp(self.roi_align(named_maps, proposals, [size] * len(proposals)))
        )
        logits = predict[:, : 1 + self.classes]
        box_deltas = predict[:, 1 + self.classes :].unflatten(1, (self.classes, 4))
        return FasterRcnnOutput(
            objectness, rpn_deltas, anchors, proposals, logits, box_deltas, size
        )


class FasterRcnn(Detector):
    min_stride: ClassVar[int] = 4
    max_stride: ClassVar[int] = 64
    default_losses: ClassVar[LossNames] = LossNames("cross_entropy", "smooth_l1")

    def network(self) -> nn.Module:
        return FasterRcnnHead(self.classes, self.width, self.depth)

    def loss(self, output: FasterRcnnOutput, targets: list[ObjectTargets]) -> dict[str, Tensor]:
        return {**self._proposal_loss(output, targets), **self._detection_loss(output, targets)}

    def dense_predictions(self, output: FasterRcnnOutput) -> tuple[Tensor, Tensor]:
        what = "a two-stage detector has a different number of proposals in each image"
        raise UsageError(what, where="task.head", hint="--set task.head=fcos or retinanet")

    def candidates(self, output: FasterRcnnOutput) -> list[Candidates]:
        counts = [len(each) for each in output.proposals]
        candidates = []
        split = (
            torch.split(output.logits.float(), counts),
            torch.split(output.box_deltas.float(), counts),
        )
        parts = zip(output.proposals, *split, strict=True)
        for proposals, logits, box_deltas in parts:
            scores = logits.softmax(1)[:, 1:]
            boxes = _BOX_CODER.decode(box_deltas.flatten(1), [proposals])  # (P, K, 4)
            candidates.append(top_candidates(boxes.flatten(0, 1), _one_class_per_box(scores)))
        return candidates

    def _proposal_loss(
        self, output: FasterRcnnOutput, targets: list[ObjectTargets]
    ) -> dict[str, Tensor]:
        """Objectness and boxes of the first stage, over a sample of the anchors."""
        objectness, boxes, count = output.objectness.sum() * 0, output.rpn_deltas.sum() * 0, 0
        for logits, rpn_deltas, target in zip(
            output.objectness, output.rpn_deltas, targets, strict=True
        ):
            owner = _match(output.anchors, target.boxes, 0.7, 0.3, True)
            inside, outside = _sample(owner, *_SAMPLED["anchors"])
            sampled = torch.cat([inside, outside])
            is_object = torch.cat(
                [torch.ones_like(logits[inside]), torch.zeros_like(logits[outside])]
            )
            objectness = objectness + functional.binary_cross_entropy_with_logits(
                logits[sampled], is_object, reduction="sum"
            )
            target_deltas = _PROPOSAL_CODER.encode_single(
                target.boxes[owner[inside]], output.anchors[inside]
            )
            boxes = boxes + functional.smooth_l1_loss(
                rpn_deltas[inside], target_deltas, reduction="sum", beta=1 / 9
            )
            count += len(sampled)
        return {"objectness": objectness / max(1, count), "proposal_box": boxes / max(1, count)}

    def _detection_loss(
        self, output: FasterRcnnOutput, targets: list[ObjectTargets]
    ) -> dict[str, Tensor]:
        """Classes of the proposals, and boxes of those that hold an object."""
        pairs = list(zip(assign_proposals(output.proposals, targets), targets, strict=True))
        classes = torch.cat(
            [
                torch.where(owner >= 0, _class_of(target.classes, owner) + 1, 0)
                for owner, target in pairs
            ]
        )
        target_boxes = torch.cat([target.boxes[owner[owner >= 0]] for owner, target in pairs])
        proposals, inside = torch.cat(output.proposals), classes > 0
        box_deltas = output.box_deltas[inside, classes[inside] - 1].float()
        if self.losses.boxes == "giou":
            boxes = giou_loss(
                _BOX_CODER.decode_single(box_deltas, proposals[inside]).flatten(1), target_boxes
            ).sum()
        else:
            target_deltas = _BOX_CODER.encode_single(target_boxes, proposals[inside])
            boxes = functional.smooth_l1_loss(
                box_deltas, target_deltas, reduction="sum", beta=1 / 9
            )
        losses = functional.cross_entropy(output.logits.float(), classes, reduction="none")
        if self.losses.classes == "focal":
            losses = losses * (1 - (-losses).exp()) ** 2
        return {"class": losses.mean(), "box": boxes / max(1, len(classes))}


def assign_proposals(proposals: list[Tensor], targets: list[ObjectTargets]) -> list[Tensor]:
    """Return the object of each proposal, (P,) for each image; negative for none."""
    return [
        _match(each, target.boxes, 0.5, 0.5, False)
        for each, target in zip(proposals, targets, strict=True)
    ]


def _one_class_per_box(scores: Tensor) -> Tensor:
    """(P, K) -> (P * K, K): each box counts for its own class only."""
    return torch.diag_embed(scores).flatten(0, 1)


def _class_of(classes: Tensor, owner: Tensor) -> Tensor:
    """The class of each owner; 0 where there is none."""
    return classes[owner.clamp(min=0)] if len(classes) else torch.zeros_like(owner)


def _select_proposals(
    logits: Tensor,
    rpn_deltas: Tensor,
    anchors: Tensor,
    level_sizes: list[int],
    size: tuple[int, int],
) -> Tensor:
    """The proposals (P, 4) of an image, after suppression within each level."""
    levels = torch.cat(
        [
            torch.full((count,), level, device=anchors.device)
            for level, count in enumerate(level_sizes)
        ]
    )
    best = logits.topk(min(_BEFORE_NMS, len(logits))).indices
    boxes: Tensor = clip_boxes_to_image(
        _PROPOSAL_CODER.decode_single(rpn_deltas[best], anchors[best]), size
    )
    wide = (boxes[:, 2:] - boxes[:, :2]).amin(1) > _MIN_SIDE
    boxes, best = boxes[wide], best[wide]
    kept = batched_nms(boxes, logits[best], levels[best], _NMS_THRESHOLD)
    return boxes[kept[:_PROPOSALS]]


def _sample_proposals(proposals: Tensor, target: ObjectTargets) -> Tensor:
    """A sample of the proposals and annotated boxes, at most a quarter of them objects."""
    proposals = torch.cat([proposals, target.boxes])
    return proposals[
        torch.cat(_sample(assign_proposals([proposals], [target])[0], *_SAMPLED["proposals"]))
    ]


def _sample(owner: Tensor, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Indices of objects and of background, `count` in all, at most `share` of them objects."""
    inside = (owner >= 0).nonzero()[:, 0]
    outside = (owner == tools.Matcher.BELOW_LOW_THRESHOLD).nonzero()[:, 0]
    inside = inside[torch.randperm(len(inside), device=owner.device)[: int(count * share)]]
    outside = outside[torch.randperm(len(outside), device=owner.device)[: count - len(inside)]]
    return inside, outside


def _match(candidates: Tensor, boxes: Tensor, high: float, low: float, keep_best: bool) -> Tensor:
    """(A,) int64: the object whose IoU with each candidate is `high` or more.

    Negative for background (below `low`) or in between.
    """
    if not len(boxes):
        return torch.full(
            (len(candidates),), tools.Matcher.BELOW_LOW_THRESHOLD, device=candidates.device
        )
    return tools.Matcher(high, low, allow_low_quality_matches=keep_best)(box_iou(boxes, candidates))  # type: ignore[no-any-return]
