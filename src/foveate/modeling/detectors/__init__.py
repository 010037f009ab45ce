"""Detection heads on a feature pyramid; thresholds and suppression come after the network.

Letters: B images, A anchors or points, K classes, N objects or candidates, P proposals. Boxes are
x0, y0, x1, y1 in pixels of the network's square.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from foveate.modeling.pyramid import group_norm
from foveate.registry import Registry
from foveate.types import Provides


@dataclass(frozen=True)
class ObjectTargets:
    """The annotated objects of one image.

    Attributes:
        boxes: (N, 4) float32.
        classes: (N,) int64.
        masks: (N, H, W) uint8 of the network's square; None where only boxes are annotated.
    """

    boxes: Tensor
    classes: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class Candidates:
    """Detections of one image before non-maximum suppression.

    Attributes:
        boxes: (N, 4).
        scores: (N,) in [0, 1].
        classes: (N,) int64.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


@dataclass(frozen=True)
class LossNames:
    """The losses of a detector by name; None: that of its paper.

    Attributes:
        classes: "focal" or "cross_entropy".
        boxes: "giou" or "smooth_l1".
    """

    classes: str | None = None
    boxes: str | None = None


class Detector(ABC):
    """Base class of detectors: the network, its loss, and its candidates.

    Attributes:
        needs: MAPS for the pyramid, or NATIVE: the network is then called with the detections of
            the backbone instead of maps.
        min_stride, max_stride: the range of strides of the pyramid levels that it reads.
        needs_nms: whether several candidates may be one object, so that non-maximum suppression
            follows.
        default_losses: the losses of its paper; those that `losses` names replace them.
        width: channels of the pyramid and of its own layers.
        depth: convolutions in each of its branches.
    """

    needs: ClassVar[Provides] = Provides.MAPS
    min_stride: ClassVar[int] = 8
    max_stride: ClassVar[int] = 128
    needs_nms: ClassVar[bool] = True
    default_losses: ClassVar[LossNames]

    def __init__(self, classes: int, width: int, depth: int, losses: LossNames) -> None:
        self.classes, self.width, self.depth = classes, width, depth
        self.losses = LossNames(
            losses.classes or self.default_losses.classes, losses.boxes or self.default_losses.boxes
        )

    @abstractmethod
    def network(self) -> nn.Module:
        """Build the module, called as network(maps, size, targets).

        maps: [(B, width, h, w)]; size: (H, W); targets: None or B ObjectTargets, around which
        training may sample. It returns what `loss` and `candidates` read.
        """

    @abstractmethod
    def loss(self, output: Any, targets: list[ObjectTargets]) -> dict[str, Tensor]:
        """Named scalars; their sum is minimized."""

    def loss_weights(self, output: Any, targets: list[ObjectTargets]) -> dict[str, float]:
        """Return what each loss is divided by, where that is not the number of images.

        Args:
            output: Of which only what does not depend on the images may be read.
            targets: The objects of B images.
        """
        return {}

    @abstractmethod
    def dense_predictions(self, output: Any) -> tuple[Tensor, Tensor]:
        """Return all boxes (B, A, 4) and scores (B, A, K) in [0, 1], before any is dropped.

        Raises:
            UsageError: images have different numbers of boxes; such a detector overrides
                `candidates`.
        """

    def candidates(self, output: Any) -> list[Candidates]:
        """Return the candidates of each of the B images."""
        return [top_candidates(*each) for each in zip(*self.dense_predictions(output), strict=True)]


class PredictsMasks(ABC):
    """Mixin of detectors that also predict a mask for each box, and learn it from masks."""

    @abstractmethod
    def masks(self, output: Any, image: int, boxes: Tensor, classes: Tensor) -> Tensor:
        """Masks (N, M, M) in [0, 1] for the N boxes that suppression left in one of the B images.

        Each value is the probability that the object covers one of the M x M cells of its box.
        """


MIN_SCORE, MAX_CANDIDATES = 0.01, 1000  # of a candidate; per image
# The logit of 0.01: nearly all anchors hold no object, so training starts there (Lin et al.
# 2017).
PRIOR_LOGIT = -4.6

DETECTORS: Registry[Detector] = Registry("foveate.modeling.detectors", Detector, "detector")


def conv_tower(width: int, depth: int) -> nn.Sequential:
    """Return `depth` convolutions with group normalization: (B, width, h, w) -> the same shape."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            group_norm(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class PredictionBranch(nn.Module):
    """(B, width, h, w) of each level -> (B, A, values), by `depth` shared convolutions.

    Attributes:
        per_cell: Anchors at each cell of a map.
    """

    def __init__(
        self, width: int, depth: int, per_cell: int, values: int, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.values = values
        self.tower = conv_tower(width, depth)
        self.output = nn.Conv2d(width, per_cell * values, 3, padding=1)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.constant_(self.output.bias, bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> Tensor:
        outputs = (self.output(self.tower(level)) for level in maps)
        return torch.cat(
            [
                each.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.values))
                for each in outputs
            ],
            1,
        )


def class_loss(kind: str | None, logits: Tensor, targets: Tensor) -> Tensor:
    """Summed loss of (..., K) logits against (..., K) targets in {0, 1}.

    focal: Lin et al. 2017, alpha 0.25 and gamma 2; otherwise binary cross entropy.
    """
    if kind == "focal":
        return sigmoid_focal_loss(logits, targets, reduction="sum")  # type: ignore[no-any-return]
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - GIoU (N,) of boxes (N, 4) and their targets (N, 4) (Rezatofighi et al. 2019)."""
    return generalized_box_iou_loss(boxes, targets)  # type: ignore[no-any-return]


def top_candidates(boxes: Tensor, scores: Tensor) -> Candidates:
    """Return the MAX_CANDIDATES best above MIN_SCORE, from (A, 4) boxes and (A, K) scores.

    A box may be a candidate for several classes.
    """
    indices, classes = (scores > MIN_SCORE).nonzero(as_tuple=True)
    values, order = scores[indices, classes].sort(descending=True, stable=True)
    order = order[:MAX_CANDIDATES]
    return Candidates(boxes[indices[order]], values[:MAX_CANDIDATES], classes[order])
