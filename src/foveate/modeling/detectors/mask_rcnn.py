"""Mask R-CNN (He et al. 2017): Faster R-CNN that looks at each box again, and says which of its cells the object fills."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import MultiScaleRoIAlign, roi_align

from foveate.modeling.detectors import Draws, Truth, faster_rcnn, tower

_SIDE = 14  # cells along each side of the second look
_CELLS = 2 * _SIDE  # along each side of a mask
_TAUGHT = (
    32  # proposals of an image that teach masks; training samples no more, validation has up to 300
)


@dataclass(frozen=True)
class Output(faster_rcnn.Output):
    """`draw`: B of (N, 4) boxes -> (sum N, K, M, M) logits, a mask for each class.

    It goes along because the boxes worth drawing are known only after suppression, which is no part of the network: masks of
    all candidates would cost ten times as much, masks of the surest would miss objects wherever many boxes lie on one. An
    export is therefore two graphs, the network's and this one, joined by the pyramid.
    """

    draw: Callable[[list[Tensor]], Tensor]


class Draw(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.look = MultiScaleRoIAlign([str(place) for place in range(4)], _SIDE, sampling_ratio=2)
        self.tower = tower(width, depth)
        self.grow = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.answer = nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor], size: tuple[int, int], boxes: list[Tensor]) -> Tensor:
        named = {str(place): level.float() for place, level in enumerate(maps)}
        seen = self.tower(self.look(named, boxes, [size] * len(boxes)))
        return self.answer(functional.relu(self.grow(seen)))  # type: ignore[no-any-return]


class Network(faster_rcnn.Network):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__(classes, width, depth)
        self.draw = Draw(
            classes, width, 2 * depth
        )  # the paper: two layers for boxes, four for masks

    def forward(
        self, maps: list[Tensor], size: tuple[int, int], truths: list[Truth] | None = None
    ) -> Output:
        return Output(
            **vars(super().forward(maps, size, truths)), draw=partial(self.draw, maps[:4], size)
        )


class MaskRcnn(faster_rcnn.FasterRcnn, Draws):
    def network(self) -> nn.Module:
        return Network(self.classes, self.width, self.depth)

    def loss(self, output: faster_rcnn.Output, truths: list[Truth]) -> dict[str, Tensor]:
        """As for boxes; and how the masks differ from the true ones, where these are known."""
        found = super().loss(output, truths)
        if isinstance(output, Output) and all(truth.masks is not None for truth in truths):
            found["mask"] = _mask_loss(output, truths)
        return found

    def masks(self, output: Output, image: int, boxes: Tensor, classes: Tensor) -> Tensor:
        asked = [boxes if place == image else boxes[:0] for place in range(len(output.places))]
        return output.draw(asked)[
            torch.arange(len(classes), device=classes.device), classes
        ].sigmoid()


def _mask_loss(output: Output, truths: list[Truth]) -> Tensor:
    """Cross entropy of the cells, over the proposals that hold an object, each with the mask of the object's class."""
    places, wanted, classes = [], [], []
    for each, truth, owner in zip(
        output.places, truths, faster_rcnn.owners(output.places, truths), strict=True
    ):
        masks = torch.zeros(0, 1, 1, device=each.device) if truth.masks is None else truth.masks
        inside = (owner >= 0).nonzero()[:, 0]
        inside = inside[(masks > 0).flatten(1).any(1)[owner[inside]]][
            :_TAUGHT
        ]  # reduced pictures lose the masks of small objects
        places.append(each[inside])
        wanted.append(_cells(masks, owner[inside], each[inside]))
        classes.append(truth.classes[owner[inside]])
    logits, owned = output.draw(places).float(), torch.cat(classes)
    own = logits[torch.arange(len(owned), device=owned.device), owned]
    loss = functional.binary_cross_entropy_with_logits(own, torch.cat(wanted), reduction="sum")
    return loss / max(1, own.numel())


def _cells(masks: Tensor, owner: Tensor, places: Tensor) -> Tensor:
    """(P, M, M): the share of each cell of P boxes that the mask of its object fills."""
    if not len(owner):
        return torch.zeros(0, _CELLS, _CELLS, device=places.device)
    rows = torch.cat([owner[:, None].to(places.dtype), places], 1)
    return roi_align(masks[:, None].float(), rows, _CELLS, aligned=True)[:, 0]  # type: ignore[no-any-return]
