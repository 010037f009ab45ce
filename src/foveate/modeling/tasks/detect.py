"""Object detection, and instance segmentation with detectors that predict masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from foveate.messages import Message, counted
from foveate.modeling.backbones import Backbone
from foveate.modeling.detectors import (
    DETECTORS,
    MAX_CANDIDATES,
    MIN_SCORE,
    Candidates,
    Detector,
    LossNames,
    ObjectTargets,
    PredictsMasks,
)
from foveate.modeling.pyramid import FeaturePyramid
from foveate.modeling.tasks import (
    DataFacts,
    ExplainableScore,
    FoundObject,
    SpatialSettings,
    SpatialTask,
    TaskSettings,
)
from foveate.predictions import Boxes
from foveate.types import Batch, Decision, Features, Provides, TargetTensors
from foveate.utils.rle import decode_rle, paste_mask

_EXPLAINED = 3  # boxes with the highest scores


class DetectSettings(SpatialSettings):
    """Settings of the task."""

    head: str = Field(
        "fcos",
        description="detector: fcos, retinanet, faster_rcnn or rtdetr; mask_rcnn, which predicts "
        "masks too; native: the backbone's own",
    )
    width: int = Field(
        128,
        ge=32,
        multiple_of=32,
        description="channels of the pyramid and the head; 256 in the papers",
    )
    depth: int = Field(
        2,
        ge=1,
        le=8,
        description="layers of each branch, or of the decoder of rtdetr; 4 to 6 in the papers",
    )
    class_loss: Literal["focal", "cross_entropy"] | None = Field(
        None, description="loss of the classes; default: that of the paper"
    )
    box_loss: Literal["giou", "smooth_l1"] | None = Field(
        None, description="loss of the boxes; default: that of the paper"
    )
    nms_iou: float = Field(
        0.6,
        gt=0,
        le=1,
        description="IoU from which only the better one of two boxes of a class is kept (NMS)",
    )
    max_boxes: int = Field(100, ge=1, description="maximum number of boxes per image or window")


class DetectionHead(nn.Module):
    """Features -> pyramid -> the network of the detector.

    Args:
        backbone: Supplies maps, or its own predictions.
        detector: The detector.
        targets: Returns the objects of a batch, which some detectors need in training.
    """

    def __init__(
        self,
        backbone: Backbone,
        detector: Detector,
        targets: Callable[[Batch], list[ObjectTargets]],
    ) -> None:
        super().__init__()
        self.pyramid = (
            FeaturePyramid(
                backbone.map_widths,
                backbone.map_strides,
                detector.min_stride,
                detector.max_stride,
                detector.width,
            )
            if detector.needs is Provides.MAPS
            else None
        )
        self.network = detector.network()
        self.targets = targets

    def forward(self, features: Features, batch: Batch) -> Any:
        targets = self.targets(batch) if self.training else None
        return self.from_features(features, batch.images, targets)

    def from_features(
        self, features: Features, images: Tensor, targets: list[ObjectTargets] | None = None
    ) -> Any:
        """Return the output of the network; of the images only the size matters."""
        size = (images.shape[-2], images.shape[-1])
        if self.pyramid is None:
            return self.network(features.native, size, targets)
        return self.network(self.pyramid(features.maps, size), size, targets)


class Detect(SpatialTask):
    """Object detection."""

    prediction_type: ClassVar[type[Boxes]] = Boxes
    question: ClassVar[Message] = Message(
        "task.detect.question", "Where are objects of these classes?"
    )
    Settings: ClassVar[type[TaskSettings]] = DetectSettings

    settings: DetectSettings

    @property
    def needs(self) -> frozenset[Provides]:  # type: ignore[override]
        return frozenset({self.detector.needs})

    def __init__(self, settings: Any, classes: tuple[str, ...]) -> None:
        super().__init__(settings, classes)
        losses = LossNames(settings.class_loss, settings.box_loss)
        self.detector = DETECTORS.get(settings.head)(
            len(classes), settings.width, settings.depth, losses
        )

    @classmethod
    def resolve_settings(
        cls,
        settings: dict[str, Any],
        targets: Sequence[Any],
        classes: tuple[str, ...],
        facts: DataFacts,
    ) -> list[Decision]:
        """Point out masks that the default head does not use.

        Raises:
            UsageError: The head needs masks, and images lack them.
        """
        head = settings.get("head", DetectSettings().head)
        without_masks = sum(bool(target.names) and target.masks is None for target in targets)
        no_objects = not any(target.names for target in targets)
        if issubclass(DETECTORS.get(head), PredictsMasks) and (without_masks or no_objects):
            raise UsageError(
                f"{head} needs a mask for each object",
                where="task.head",
                why=f"objects without one in {without_masks} of "
                f"{counted(len(targets), 'training image', 'training images')}",
                hint="--set task.head=faster_rcnn, which learns from boxes; "
                "in COCO files masks are the field segmentation",
            )
        if "head" not in settings and any(target.masks for target in targets):
            text = (
                "it predicts boxes; the data also has masks, which --set task.head=mask_rcnn uses"
            )
            return [Decision("head", head, Message("choice.box_head", text))]
        return []

    def head(self, backbone: Backbone) -> nn.Module:
        return DetectionHead(backbone, self.detector, targets_of)

    def encode(self, target: Boxes, size: tuple[int, int]) -> TargetTensors:
        """Return boxes (N, 4), classes (N,) int64 and crowd (N,) bool; boxes may leave the image.

        Also masks (N, H, W) where the data has them and the detector needs them.
        """
        known = [name in self.classes for name in target.names]
        indices = [self.classes.index(name) for name in target.names if name in self.classes]
        crowd = np.zeros(len(known), bool) if target.crowd is None else target.crowd
        corners = torch.from_numpy(target.xyxy.reshape(-1, 4)[known].astype(np.float32))
        tensors: TargetTensors = {
            "boxes": tv_tensors.BoundingBoxes(
                corners, format="XYXY", canvas_size=size, clamping_mode=None
            ),
            "classes": torch.tensor(indices, dtype=torch.int64),
            "crowd": torch.from_numpy(crowd[known]),
        }
        if isinstance(self.detector, PredictsMasks) and (target.masks or not target.names):
            tensors["masks"] = _stack_masks(target, known, size)
        return tensors

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return self.detector.loss(output, targets_of(batch))

    def loss_weights(self, output: Any, batch: Batch) -> dict[str, float]:
        return self.detector.loss_weights(output, targets_of(batch))

    def decode(self, output: Any, batch: Batch) -> list[Boxes]:
        """Return boxes in px of the upright originals, by descending score."""
        side, predictions = batch.images.shape[-1], []
        images = zip(self.detector.candidates(output), batch.views, batch.sizes, strict=True)
        for index, (candidates, view, size) in enumerate(images):
            kept = self._keep(candidates)[: self.settings.max_boxes]
            boxes, classes = candidates.boxes[kept], candidates.classes[kept]
            masks = (
                self.detector.masks(output, index, boxes, classes)
                if isinstance(self.detector, PredictsMasks)
                else None
            )
            best = Candidates(boxes, candidates.scores[kept], classes)
            predictions.append(self._to_original(best, masks, view, size, side))
        return predictions

    def export_outputs(
        self, backbone: Backbone, head: nn.Module, images: Tensor
    ) -> dict[str, Tensor]:
        """Return boxes (B, A, 4) in px of the input, and scores (B, A, K)."""
        assert isinstance(head, DetectionHead)
        output = head.from_features(backbone(images, self.needs), images)
        boxes, scores = self.detector.dense_predictions(output)
        return {"boxes": boxes, "scores": scores}

    def export_metadata(self) -> dict[str, Any]:
        return {
            "boxes": {
                "min_score": MIN_SCORE,
                "max_candidates": MAX_CANDIDATES,
                "nms": self.detector.needs_nms,
                "nms_iou": self.settings.nms_iou,
                "max_boxes": self.settings.max_boxes,
            }
        }

    def explainable_scores(self, output: Any, batch: Batch) -> list[ExplainableScore]:
        """Return the scores of the best boxes."""
        candidates = self.detector.candidates(output)[0]
        return [
            self._explainable_score(
                candidates.boxes[index].detach().float(),
                int(candidates.classes[index]),
                float(candidates.scores[index]),
            )
            for index in self._keep(candidates)[:_EXPLAINED].tolist()
        ]

    def _explainable_score(
        self, box: Tensor, class_index: int, confidence: float
    ) -> ExplainableScore:
        def score(output: Any) -> Tensor:
            """Score the best candidate, weighted by its IoU with the box (D-RISE)."""
            scores = []
            for each in self.detector.candidates(output):
                overlap = box_iou(each.boxes.detach(), box[None])[:, 0]
                weighted = each.scores * overlap * (each.classes == class_index)
                scores.append(weighted.max() if len(weighted) else each.scores.sum())
            return torch.stack(scores)

        found = FoundObject(tuple(box.tolist()), confidence)
        return ExplainableScore(self.classes[class_index], score, score, found)

    def _keep(self, candidates: Candidates) -> Tensor:
        """Indices of the candidates that are objects, by descending score."""
        if self.detector.needs_nms:
            return batched_nms(  # type: ignore[no-any-return]
                candidates.boxes, candidates.scores, candidates.classes, self.settings.nms_iou
            )
        return candidates.scores.argsort(descending=True, stable=True)

    def _to_original(
        self, candidates: Candidates, masks: Tensor | None, view: Tensor, size: Tensor, side: int
    ) -> Boxes:
        """Candidates, and their masks (N, M, M) in [0, 1], in px of the upright original."""
        scale = ((view[2:] - view[:2]) / side).repeat(2)
        corners = (candidates.boxes.float().cpu() * scale + view[:2].repeat(2)).numpy()
        height, width = size.tolist()
        encoded = None
        if masks is not None:
            pairs = zip(masks.float().cpu().numpy(), corners, strict=True)
            encoded = tuple(paste_mask(mask, box, (height, width)) for mask, box in pairs)
        return Boxes(
            np.clip(corners, 0, [width, height, width, height]).astype(np.float32),
            tuple(self.classes[index] for index in candidates.classes.tolist()),
            candidates.scores.float().cpu().numpy(),
            masks=encoded,
        )

    def merge_tiles(
        self, parts: Sequence[tuple[tuple[int, int], Boxes]], size: tuple[int, int]
    ) -> Boxes:
        return merge_box_tiles(parts, size, self.settings.nms_iou)


def targets_of(batch: Batch) -> list[ObjectTargets]:
    """Return the objects to learn from, which crowds are not."""
    targets = []
    for target in batch.targets:
        kept = ~target["crowd"]
        masks = target["masks"].as_subclass(Tensor)[kept] if "masks" in target else None
        boxes = target["boxes"].as_subclass(Tensor)[kept]
        targets.append(ObjectTargets(boxes, target["classes"][kept], masks))
    return targets


def _stack_masks(target: Boxes, known: list[bool], size: tuple[int, int]) -> ObjectMasks:
    """(N, H, W) uint8: the masks of the objects of known classes."""
    masks = [decode_rle(mask) for mask, keep in zip(target.masks or (), known, strict=True) if keep]
    if not masks:
        return ObjectMasks(torch.zeros(0, *size, dtype=torch.uint8))
    return ObjectMasks(torch.from_numpy(np.stack(masks).astype(np.uint8)))
