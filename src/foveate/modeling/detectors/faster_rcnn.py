"""Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017): likely places first, then a closer look at each."""

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
    Branch,
    Candidates,
    Detector,
    Terms,
    Truth,
    box_overlap_loss,
    surest,
)
from foveate.modeling.detectors._anchors import anchors_of

_SCALES, _RATIOS = (8.0,), (0.5, 1.0, 2.0)
_PLACES = 300  # proposals that are looked at closely
_BEFORE = 1000  # of each image, before suppression
_SUPPRESS = 0.7
_SAMPLED = {
    "anchors": (256, 0.5),
    "places": (128, 0.25),
}  # how many of an image teach, and how many of them are objects
_SIDE = 7  # cells along each side of a closer look
_HIDDEN = 512
_PLACE_CODER = tools.BoxCoder((1.0, 1.0, 1.0, 1.0))
_BOX_CODER = tools.BoxCoder((10.0, 10.0, 5.0, 5.0))
_REMAINS = 1e-3  # px: narrower proposals are dropped


@dataclass(frozen=True)
class Output:
    """`objectness` (B, A) logits and `moves` (B, A, 4) of `anchors` (A, 4); `places` B of (P, 4) proposals; `logits` (sum P,
    1 + K), 0 for background, and `shifts` (sum P, K, 4), a box for each class. `size`: (H, W)."""

    objectness: Tensor
    moves: Tensor
    anchors: Tensor
    places: list[Tensor]
    logits: Tensor
    shifts: Tensor
    size: tuple[int, int]


class Network(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.classes = classes
        self.propose = Branch(width, 1, len(_SCALES) * len(_RATIOS), 5)
        self.look = MultiScaleRoIAlign([str(place) for place in range(4)], _SIDE, sampling_ratio=2)
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(width * _SIDE**2, _HIDDEN), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()]
        self.think = nn.Sequential(*layers)
        self.answer = nn.Linear(_HIDDEN, 1 + 5 * classes)
        nn.init.normal_(self.answer.weight, std=0.01)
        nn.init.zeros_(self.answer.bias)

    def forward(
        self, maps: list[Tensor], size: tuple[int, int], truths: list[Truth] | None = None
    ) -> Output:
        proposed = self.propose(maps).float()
        anchors = anchors_of(maps, size, _SCALES, _RATIOS)
        objectness, moves = proposed[..., 0], proposed[..., 1:]
        steps = [level.shape[-2] * level.shape[-1] * len(_RATIOS) for level in maps]
        with torch.no_grad():
            places = [
                _proposals(*each, anchors, steps, size)
                for each in zip(objectness, moves, strict=True)
            ]
            if truths is not None:
                places = [
                    _sampled_places(each, truth) for each, truth in zip(places, truths, strict=True)
                ]
        named = {str(place): level.float() for place, level in enumerate(maps[:4])}
        answer = self.answer(self.think(self.look(named, places, [size] * len(places))))
        logits, shifts = (
            answer[:, : 1 + self.classes],
            answer[:, 1 + self.classes :].unflatten(1, (self.classes, 4)),
        )
        return Output(objectness, moves, anchors, places, logits, shifts, size)


class FasterRcnn(Detector):
    first: ClassVar[int] = 4
    last: ClassVar[int] = 64
    paper: ClassVar[Terms] = Terms("cross_entropy", "smooth_l1")

    def network(self) -> nn.Module:
        return Network(self.classes, self.width, self.depth)

    def loss(self, output: Output, truths: list[Truth]) -> dict[str, Tensor]:
        return {**self._place_loss(output, truths), **self._answer_loss(output, truths)}

    def places(self, output: Output) -> tuple[Tensor, Tensor]:
        what = "a detector that looks at likely places again looks at more of them in one picture than in another"
        raise UsageError(what, where="task.head", hint="--set task.head=fcos or retinanet")

    def candidates(self, output: Output) -> list[Candidates]:
        counts = [len(places) for places in output.places]
        found = []
        split = (
            torch.split(output.logits.float(), counts),
            torch.split(output.shifts.float(), counts),
        )
        parts = zip(output.places, *split, strict=True)
        for places, logits, shifts in parts:
            scores = logits.softmax(1)[:, 1:]
            boxes = _BOX_CODER.decode(shifts.flatten(1), [places])  # (P, K, 4)
            found.append(surest(boxes.flatten(0, 1), _own_class(scores)))
        return found

    def _place_loss(self, output: Output, truths: list[Truth]) -> dict[str, Tensor]:
        """Whether an anchor holds an object, and where; over a sample of the anchors."""
        objectness, boxes, count = output.objectness.sum() * 0, output.moves.sum() * 0, 0
        for logits, moves, truth in zip(output.objectness, output.moves, truths, strict=True):
            owner = _matched(output.anchors, truth.boxes, 0.7, 0.3, True)
            inside, outside = _sample(owner, *_SAMPLED["anchors"])
            both = torch.cat([inside, outside])
            wanted = torch.cat([torch.ones_like(logits[inside]), torch.zeros_like(logits[outside])])
            objectness = objectness + functional.binary_cross_entropy_with_logits(
                logits[both], wanted, reduction="sum"
            )
            goals = _PLACE_CODER.encode_single(truth.boxes[owner[inside]], output.anchors[inside])
            boxes = boxes + functional.smooth_l1_loss(
                moves[inside], goals, reduction="sum", beta=1 / 9
            )
            count += len(both)
        return {"place": objectness / max(1, count), "place_box": boxes / max(1, count)}

    def _answer_loss(self, output: Output, truths: list[Truth]) -> dict[str, Tensor]:
        """The class of each proposal, and the box of those that hold an object."""
        pairs = list(zip(owners(output.places, truths), truths, strict=True))
        classes = torch.cat(
            [torch.where(owner >= 0, _at(truth.classes, owner) + 1, 0) for owner, truth in pairs]
        )
        wanted = torch.cat([truth.boxes[owner[owner >= 0]] for owner, truth in pairs])
        places, inside = torch.cat(output.places), classes > 0
        shifts = output.shifts[inside, classes[inside] - 1].float()
        if self.terms.boxes == "giou":
            boxes = box_overlap_loss(
                _BOX_CODER.decode_single(shifts, places[inside]).flatten(1), wanted
            ).sum()
        else:
            goals = _BOX_CODER.encode_single(wanted, places[inside])
            boxes = functional.smooth_l1_loss(shifts, goals, reduction="sum", beta=1 / 9)
        losses = functional.cross_entropy(output.logits.float(), classes, reduction="none")
        if self.terms.classes == "focal":
            losses = losses * (1 - (-losses).exp()) ** 2
        return {"class": losses.mean(), "box": boxes / max(1, len(classes))}


def owners(places: list[Tensor], truths: list[Truth]) -> list[Tensor]:
    """The object in each proposal (P,) of each image; below 0 for none."""
    return [
        _matched(each, truth.boxes, 0.5, 0.5, False)
        for each, truth in zip(places, truths, strict=True)
    ]


def _own_class(scores: Tensor) -> Tensor:
    """(P, K) -> (P * K, K): each box stands for its own class alone."""
    return torch.diag_embed(scores).flatten(0, 1)


def _at(classes: Tensor, owner: Tensor) -> Tensor:
    """The class of each owner; 0 where there is none."""
    return classes[owner.clamp(min=0)] if len(classes) else torch.zeros_like(owner)


def _proposals(
    logits: Tensor, moves: Tensor, anchors: Tensor, steps: list[int], size: tuple[int, int]
) -> Tensor:
    """(P, 4): the likeliest places of an image, near-copies within a level suppressed."""
    levels = torch.cat(
        [torch.full((count,), level, device=anchors.device) for level, count in enumerate(steps)]
    )
    best = logits.topk(min(_BEFORE, len(logits))).indices
    boxes: Tensor = clip_boxes_to_image(
        _PLACE_CODER.decode_single(moves[best], anchors[best]), size
    )
    wide = (boxes[:, 2:] - boxes[:, :2]).amin(1) > _REMAINS
    boxes, best = boxes[wide], best[wide]
    kept = batched_nms(boxes, logits[best], levels[best], _SUPPRESS)
    return boxes[kept[:_PLACES]]


def _sampled_places(places: Tensor, truth: Truth) -> Tensor:
    """Some of the proposals and the true boxes, a quarter objects at the most."""
    places = torch.cat([places, truth.boxes])
    return places[torch.cat(_sample(owners([places], [truth])[0], *_SAMPLED["places"]))]


def _sample(owner: Tensor, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Indices of `count` places: at most `share` of them with an object, the rest without."""
    inside, outside = (
        (owner >= 0).nonzero()[:, 0],
        (owner == tools.Matcher.BELOW_LOW_THRESHOLD).nonzero()[:, 0],
    )
    inside = inside[torch.randperm(len(inside), device=owner.device)[: int(count * share)]]
    outside = outside[torch.randperm(len(outside), device=owner.device)[: count - len(inside)]]
    return inside, outside


def _matched(places: Tensor, boxes: Tensor, high: float, low: float, best_too: bool) -> Tensor:
    """(A,) int64: the object that each place overlaps by `high` or more; below 0: none, or in between."""
    if not len(boxes):
        return torch.full((len(places),), tools.Matcher.BELOW_LOW_THRESHOLD, device=places.device)
    return tools.Matcher(high, low, allow_low_quality_matches=best_too)(box_iou(boxes, places))  # type: ignore[no-any-return]
