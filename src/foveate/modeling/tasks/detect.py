"""Where the objects are, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.ops import batched_nms, box_iou

from foveate.data.transforms import ObjectMasks
from foveate.errors import UsageError
from foveate.images.preprocessing import merge_box_tiles
from foveate.modeling.backbones import Backbone
from foveate.modeling.detectors import (
    DETECTORS,
    LEAST,
    MOST,
    Candidates,
    Detector,
    Draws,
    Terms,
    Truth,
)
from foveate.modeling.pyramid import FeaturePyramid
from foveate.modeling.tasks import (
    DataFacts,
    ExplainableScore,
    Settled,
    SpatialSettings,
    SpatialTask,
    TaskSettings,
)
from foveate.predictions import Boxes
from foveate.types import Batch, Features, Provides, TargetTensors
from foveate.utils.rle import decoded, stretched

_ASKED = 3  # boxes that are explained


class DetectSettings(SpatialSettings):
    head: str = Field(
        "fcos",
        description="fcos, retinanet, faster_rcnn, rtdetr; mask_rcnn draws too; native: the backbone finds",
    )
    width: int = Field(
        128,
        ge=32,
        multiple_of=32,
        description="channels of the pyramid and the head; the papers take 256",
    )
    depth: int = Field(
        2,
        ge=1,
        le=8,
        description="layers of each branch, or of rtdetr's decoder; the papers take 4 to 6",
    )
    class_loss: Literal["focal", "cross_entropy"] | None = Field(
        None, description="loss of the classes; default: the paper's"
    )
    box_loss: Literal["giou", "smooth_l1"] | None = Field(
        None, description="loss of the boxes; default: the paper's"
    )
    nms_iou: float = Field(
        0.6,
        gt=0,
        le=1,
        description="overlap from which the surer of two boxes of a class stays alone (NMS)",
    )
    max_boxes: int = Field(100, ge=1, description="boxes an image, or a window, at the most")


class DetectionHead(nn.Module):
    """Features -> pyramid -> the detector's network."""

    def __init__(self, backbone: Backbone, detector: Detector, truths: Any) -> None:
        super().__init__()
        shape = detector.first, detector.last, detector.width
        reads_maps = detector.needs is Provides.MAPS
        self.pyramid = (
            FeaturePyramid(backbone.map_widths, backbone.map_strides, *shape)
            if reads_maps
            else None
        )
        self.network = detector.network()
        self.truths = truths

    def forward(self, features: Features, batch: Batch) -> Any:
        return self.from_features(features, batch.images, self.truths(batch) if self.training else None)

    def from_features(self, features: Features, images: Tensor, truths: list[Truth] | None = None) -> Any:
        size = (images.shape[-2], images.shape[-1])
        found = features.native if self.pyramid is None else self.pyramid(features.maps, size)
        return self.network(found, size, truths)


class Detect(SpatialTask):
    prediction_type: ClassVar[type[Boxes]] = Boxes
    question: ClassVar[str] = "Where are things of these classes, and which are they?"
    Settings: ClassVar[type[TaskSettings]] = DetectSettings

    settings: DetectSettings

    @property
    def needs(self) -> frozenset[Provides]:  # type: ignore[override]
        return frozenset({self.detector.needs})

    def __init__(self, settings: Any, classes: tuple[str, ...]) -> None:
        super().__init__(settings, classes)
        terms = Terms(settings.class_loss, settings.box_loss)
        self.detector = DETECTORS.get(settings.head)(
            len(classes), settings.width, settings.depth, terms
        )

    @classmethod
    def resolve_settings(
        cls, settings: dict[str, Any], truths: Sequence[Any], classes: tuple[str, ...], facts: DataFacts
    ) -> list[Settled]:
        head = settings.get("head", DetectSettings().head)
        bare = sum(bool(truth.names) and truth.masks is None for truth in truths)
        if issubclass(DETECTORS.get(head), Draws) and (
            bare or not any(truth.names for truth in truths)
        ):
            why = f"{bare} of {len(truths)} training images have objects without a mask"
            hint = "--set task.head=faster_rcnn learns boxes; COCO files hold masks as segmentation"
            raise UsageError(
                f"{head} learns from a mask for each object", where="task.head", why=why, hint=hint
            )
        if "head" not in settings and any(truth.masks for truth in truths):
            return [
                (
                    "head",
                    head,
                    "it learns boxes; the data has masks too, which --set task.head=mask_rcnn learns",
                )
            ]
        return []

    def head(self, backbone: Backbone) -> nn.Module:
        return DetectionHead(backbone, self.detector, targets_of)

    def encode(self, truth: Boxes, size: tuple[int, int]) -> TargetTensors:
        """boxes (N, 4) that may be moved out of the picture; classes (N,) int64; crowd (N,) bool; masks (N, H, W) where they are
        known, and learnt."""
        known = [name in self.classes for name in truth.names]
        crowd = np.zeros(len(known), bool) if truth.crowd is None else truth.crowd
        corners = torch.from_numpy(truth.xyxy.reshape(-1, 4)[known].astype(np.float32))
        learnt = isinstance(self.detector, Draws) and (truth.masks or not truth.names)
        masks = {"masks": _masks(truth, known, size)} if learnt else {}
        return masks | {
            "boxes": tv_tensors.BoundingBoxes(
                corners, format="XYXY", canvas_size=size, clamping_mode=None
            ),
            "classes": torch.tensor(
                [self.classes.index(name) for name in truth.names if name in self.classes],
                dtype=torch.int64,
            ),
            "crowd": torch.from_numpy(crowd[known]),
        }

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return self.detector.loss(output, targets_of(batch))

    def decode(self, output: Any, batch: Batch) -> list[Boxes]:
        """Boxes in pixels of the upright originals, the surest first."""
        found = self.detector.candidates(output)
        side, answers = batch.images.shape[-1], []
        for image, (each, view, size) in enumerate(
            zip(found, batch.views, batch.sizes, strict=True)
        ):
            kept = self._kept(each)[: self.settings.max_boxes]
            each = Candidates(each.boxes[kept], each.scores[kept], each.classes[kept])
            cells = (
                self.detector.masks(output, image, each.boxes, each.classes)
                if isinstance(self.detector, Draws)
                else None
            )
            answers.append(self._boxes(each, cells, view, size, side))
        return answers

    def export_outputs(self, backbone: Backbone, head: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """boxes (B, A, 4) in pixels of the square, and scores (B, A, K)."""
        assert isinstance(head, DetectionHead)
        boxes, scores = self.detector.places(head.from_features(backbone(images, self.needs), images))
        return {"boxes": boxes, "scores": scores}

    def export_metadata(self) -> dict[str, Any]:
        asked = self.settings
        chosen = {
            "suppress": asked.nms_iou,
            "alone": not self.detector.suppresses,
            "most": asked.max_boxes,
        }
        return {"objects": {"least": LEAST, "candidates": MOST, **chosen}}

    def explainable_scores(self, output: Any, batch: Batch) -> list[ExplainableScore]:
        """Why there is each of the surest boxes."""
        found = self.detector.candidates(output)[0]
        kept = self._kept(found)[:_ASKED].tolist()
        return [
            self._question(found.boxes[place].detach(), int(found.classes[place])) for place in kept
        ]

    def _question(self, box: Tensor, place: int) -> ExplainableScore:
        def chance(output: Any) -> Tensor:
            """The surest of the candidates, each as far as it lies on the box and is of its class (as D-RISE has it)."""
            scores = []
            for each in self.detector.candidates(output):
                near = box_iou(each.boxes.detach(), box[None])[:, 0] * (each.classes == place)
                scores.append((each.scores * near).max() if len(near) else each.scores.sum())
            return torch.stack(scores)

        return ExplainableScore(self.classes[place], chance, chance)

    def _kept(self, found: Candidates) -> Tensor:
        """Places of the candidates that are objects, the surest first."""
        if self.detector.suppresses:
            return batched_nms(found.boxes, found.scores, found.classes, self.settings.nms_iou)  # type: ignore[no-any-return]
        return found.scores.argsort(descending=True, stable=True)

    def _boxes(
        self, found: Candidates, cells: Tensor | None, view: Tensor, size: Tensor, side: int
    ) -> Boxes:
        """`cells`: (N, M, M) in [0, 1], the masks of the boxes."""
        scale = ((view[2:] - view[:2]) / side).repeat(2)
        corners = (found.boxes.float().cpu() * scale + view[:2].repeat(2)).numpy()
        height, width = size.tolist()
        inside = np.clip(corners, 0, [width, height, width, height]).astype(np.float32)
        names = tuple(self.classes[place] for place in found.classes.tolist())
        drawn = [] if cells is None else zip(cells.float().cpu().numpy(), corners, strict=True)
        masks = tuple(stretched(each, box, (height, width)) for each, box in drawn)
        return Boxes(
            inside,
            names,
            found.scores.float().cpu().numpy(),
            masks=None if cells is None else masks,
        )

    def merge_tiles(self, parts: Sequence[tuple[tuple[int, int], Boxes]], size: tuple[int, int]) -> Boxes:
        return merge_box_tiles(parts, size, self.settings.nms_iou)


def targets_of(batch: Batch) -> list[Truth]:
    """The objects to be found; those in crowds teach nothing."""
    found = []
    for target in batch.targets:
        masks = target["masks"].as_subclass(Tensor)[~target["crowd"]] if "masks" in target else None
        found.append(
            Truth(
                target["boxes"].as_subclass(Tensor)[~target["crowd"]],
                target["classes"][~target["crowd"]],
                masks,
            )
        )
    return found


def _masks(truth: Boxes, known: list[bool], size: tuple[int, int]) -> ObjectMasks:
    """(N, H, W) uint8."""
    inside = [
        decoded(mask) for mask, wanted in zip(truth.masks or (), known, strict=True) if wanted
    ]
    return ObjectMasks(
        torch.from_numpy(np.stack(inside).astype(np.uint8))
        if inside
        else torch.zeros(0, *size, dtype=torch.uint8)
    )
