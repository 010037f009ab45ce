"""Mask R-CNN (He et al. 2017): Faster R-CNN with a branch that predicts a mask for each box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import MultiScaleRoIAlign, roi_align

from foveate.modeling.detectors import ObjectTargets, PredictsMasks, conv_tower, faster_rcnn

_ROI_SIZE = 14  # cells along each side of a region of interest
_MASK_SIZE = 2 * _ROI_SIZE  # along each side of a mask
_MAX_MASK_PROPOSALS = 32  # of an image; training samples no more, validation has up to 300


@dataclass(frozen=True)
class MaskRcnnOutput(faster_rcnn.FasterRcnnOutput):
    """Output of Faster R-CNN, and a function that predicts masks.

    The function is part of the output because the boxes worth a mask are known only after
    suppression, which is not part of the network: masks of all candidates would cost ten times as
    much, masks of the top candidates would miss objects wherever many boxes lie on one. An export
    is therefore two graphs, the network's and this one, joined by the pyramid.

    Attributes:
        predict_masks: B of (N, 4) boxes -> (sum N, K, M, M) logits, a mask for each class.
    """

    predict_masks: Callable[[list[Tensor]], Tensor]


class MaskHead(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.roi_align = MultiScaleRoIAlign(
            [str(index) for index in range(4)], _ROI_SIZE, sampling_ratio=2
        )
        self.tower = conv_tower(width, depth)
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.predict = nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor], size: tuple[int, int], boxes: list[Tensor]) -> Tensor:
        named_maps = {str(index): level.float() for index, level in enumerate(maps)}
        features = self.tower(self.roi_align(named_maps, boxes, [size] * len(boxes)))
        return self.predict(functional.relu(self.upsample(features)))  # type: ignore[no-any-return]


class MaskRcnnHead(faster_rcnn.FasterRcnnHead):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__(classes, width, depth)
        # the paper: 2 layers for boxes, 4 for masks
        self.mask_head = MaskHead(classes, width, 2 * depth)

    def forward(
        self, maps: list[Tensor], size: tuple[int, int], targets: list[ObjectTargets] | None = None
    ) -> MaskRcnnOutput:
        return MaskRcnnOutput(
            **vars(super().forward(maps, size, targets)),
            predict_masks=partial(self.mask_head, maps[:4], size),
        )


class MaskRcnn(faster_rcnn.FasterRcnn, PredictsMasks):
    def network(self) -> nn.Module:
        return MaskRcnnHead(self.classes, self.width, self.depth)

    def loss(
        self, output: faster_rcnn.FasterRcnnOutput, targets: list[ObjectTargets]
    ) -> dict[str, Tensor]:
        """Return the losses of Faster R-CNN, and that of the masks where all images have them."""
        losses = super().loss(output, targets)
        if isinstance(output, MaskRcnnOutput) and all(
            target.masks is not None for target in targets
        ):
            losses["mask"] = _mask_loss(output, targets)
        return losses

    def masks(self, output: MaskRcnnOutput, image: int, boxes: Tensor, classes: Tensor) -> Tensor:
        boxes_by_image = [
            boxes if index == image else boxes[:0] for index in range(len(output.proposals))
        ]
        return output.predict_masks(boxes_by_image)[
            torch.arange(len(classes), device=classes.device), classes
        ].sigmoid()


def _mask_loss(output: MaskRcnnOutput, targets: list[ObjectTargets]) -> Tensor:
    """Cross entropy of the mask of the object's class, over the proposals that hold an object."""
    proposals, mask_targets, classes = [], [], []
    for each, target, owner in zip(
        output.proposals,
        targets,
        faster_rcnn.assign_proposals(output.proposals, targets),
        strict=True,
    ):
        masks = torch.zeros(0, 1, 1, device=each.device) if target.masks is None else target.masks
        inside = (owner >= 0).nonzero()[:, 0]
        has_mask = (masks > 0).flatten(1).any(1)  # reduced images lose the masks of small objects
        inside = inside[has_mask[owner[inside]]][:_MAX_MASK_PROPOSALS]
        proposals.append(each[inside])
        mask_targets.append(_mask_targets(masks, owner[inside], each[inside]))
        classes.append(target.classes[owner[inside]])
    logits, owner_classes = output.predict_masks(proposals).float(), torch.cat(classes)
    own = logits[torch.arange(len(owner_classes), device=owner_classes.device), owner_classes]
    loss = functional.binary_cross_entropy_with_logits(
        own, torch.cat(mask_targets), reduction="sum"
    )
    return loss / max(1, own.numel())


def _mask_targets(masks: Tensor, owner: Tensor, proposals: Tensor) -> Tensor:
    """(P, M, M): the share of each cell of the P boxes that the mask of its object covers."""
    if not len(owner):
        return torch.zeros(0, _MASK_SIZE, _MASK_SIZE, device=proposals.device)
    rows = torch.cat([owner[:, None].to(proposals.dtype), proposals], 1)
    return roi_align(masks[:, None].float(), rows, _MASK_SIZE, aligned=True)[:, 0]  # type: ignore[no-any-return]
