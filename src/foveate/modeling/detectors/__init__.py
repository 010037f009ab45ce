"""Ways to find objects on a feature pyramid. What the network computes is free of thresholds and suppression.

Letters: B images, A places (anchors or points), K classes, N objects or candidates. Boxes are x0, y0, x1, y1 in pixels of the
network's square.
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
class Truth:
    """The objects of an image. `boxes` (N, 4) float32, `classes` (N,) int64, `masks` (N, H, W) uint8 of the network's square, or
    None where only boxes are known."""

    boxes: Tensor
    classes: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class Candidates:
    """What may be an object, before suppression. `boxes` (N, 4), `scores` (N,) in [0, 1], `classes` (N,) int64."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Terms:
    """How a detector learns. `classes`: "focal" or "cross_entropy"; `boxes`: "giou" or "smooth_l1"; None: as in its paper."""

    classes: str | None = None
    boxes: str | None = None


class Detector(ABC):
    """`first`, `last`: the strides between which it reads the pyramid. `paper`: the losses of its paper; `terms` replace them.

    `suppresses`: whether several candidates may be one object, so that the surest has to be chosen afterwards.
    `width`: channels of the pyramid and of its own layers; `depth`: convolutions in each of its branches.
    `needs`: MAPS for the pyramid, or NATIVE: then its network is called with what the backbone found instead of maps.
    """

    needs: ClassVar[Provides] = Provides.MAPS
    first: ClassVar[int] = 8
    last: ClassVar[int] = 128
    suppresses: ClassVar[bool] = True
    paper: ClassVar[Terms]

    def __init__(self, classes: int, width: int, depth: int, terms: Terms) -> None:
        self.classes, self.width, self.depth = classes, width, depth
        self.terms = Terms(terms.classes or self.paper.classes, terms.boxes or self.paper.boxes)

    @abstractmethod
    def network(self) -> nn.Module:
        """A module called as network(maps, size, truths): maps [(B, width, h, w)], size (H, W), truths None or B of Truth
        (training may sample around them) -> what `loss` and `candidates` read."""

    @abstractmethod
    def loss(self, output: Any, truths: list[Truth]) -> dict[str, Tensor]:
        """Named scalars; their sum is minimised."""

    @abstractmethod
    def places(self, output: Any) -> tuple[Tensor, Tensor]:
        """boxes (B, A, 4) and scores (B, A, K) in [0, 1] of all places, before any is dropped. Raises UsageError where images have
        different numbers of them: such a detector has `candidates` of its own."""

    def candidates(self, output: Any) -> list[Candidates]:
        """For each of B images."""
        return [surest(*each) for each in zip(*self.places(output), strict=True)]


class Draws(ABC):
    """What a detector also is when it says which pixels are an object's, and learns that from masks."""

    @abstractmethod
    def masks(self, output: Any, image: int, boxes: Tensor, classes: Tensor) -> Tensor:
        """(N, M, M) in [0, 1] for N boxes (N, 4), those that suppression left in one of B images: how surely the object is in each
        of the M x M cells that a box is divided into."""


LEAST, MOST = 0.01, 1000  # score of a candidate, and candidates of an image
PRIOR = -4.6  # the logit of 0.01, where a network starts whose places nearly all see no object (RetinaNet, Lin et al. 2017)

DETECTORS: Registry[Detector] = Registry("foveate.modeling.detectors", Detector, "detector")


def tower(width: int, depth: int) -> nn.Sequential:
    """(B, width, h, w) -> the same shape: `depth` convolutions."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            group_norm(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class Branch(nn.Module):
    """(B, width, h, w) of each level -> (B, A, values): `depth` convolutions, shared by the levels, then `each` * values
    numbers a step."""

    def __init__(self, width: int, depth: int, each: int, values: int, bias: float = 0.0) -> None:
        super().__init__()
        self.values = values
        self.tower = tower(width, depth)
        self.last = nn.Conv2d(width, each * values, 3, padding=1)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.constant_(self.last.bias, bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> Tensor:
        found = (self.last(self.tower(level)) for level in maps)
        return torch.cat(
            [each.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.values)) for each in found],
            1,
        )


def class_loss(kind: str | None, logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum over (..., K) logits against (..., K) truths in {0, 1}; focal: Lin et al. 2017, alpha 0.25 and gamma 2."""
    if kind == "focal":
        return sigmoid_focal_loss(logits, wanted, reduction="sum")  # type: ignore[no-any-return]
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")


def box_overlap_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """(N, 4) and (N, 4) boxes -> (N,): 1 - GIoU (Rezatofighi et al. 2019)."""
    return generalized_box_iou_loss(found, wanted)  # type: ignore[no-any-return]


def surest(boxes: Tensor, scores: Tensor) -> Candidates:
    """Candidates from (A, 4) boxes and (A, K) scores: a box may be one of several classes; the MOST surest above LEAST."""
    places, classes = (scores > LEAST).nonzero(as_tuple=True)
    values, order = scores[places, classes].sort(descending=True, stable=True)
    order = order[:MOST]
    return Candidates(boxes[places[order]], values[:MOST], classes[order])
