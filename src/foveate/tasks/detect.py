"""Where the objects are, and what they are."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.ops import batched_nms

from foveate.backbones import Backbone
from foveate.detectors import DETECTORS, Candidates, Detector, Terms, Truth
from foveate.pyramid import FeaturePyramid
from foveate.tasks import Task, TaskSettings
from foveate.types import Batch, Boxes, Features, Provides, Target


class DetectSettings(TaskSettings):
    head: str = Field("fcos", description="how objects are found: fcos, retinanet, faster_rcnn")
    width: int = Field(128, ge=32, multiple_of=32, description="channels of the pyramid and the head; the papers take 256")
    depth: int = Field(2, ge=1, le=8, description="layers of each branch of the head; the papers of fcos and retinanet take 4")
    class_loss: Literal["focal", "cross_entropy"] | None = Field(None, description="loss of the classes; default: the paper's")
    box_loss: Literal["giou", "smooth_l1"] | None = Field(None, description="loss of the boxes; default: the paper's")
    suppress: float = Field(0.6, gt=0, le=1, description="overlap from which the surer of two boxes of a class stays alone (NMS)")
    most: int = Field(100, ge=1, description="boxes an image at the most")


class DetectionHead(nn.Module):
    """Features -> pyramid -> the detector's network."""

    def __init__(self, backbone: Backbone, detector: Detector, truths: Any) -> None:
        super().__init__()
        shape = detector.first, detector.last, detector.width
        self.pyramid = FeaturePyramid(backbone.map_widths, backbone.map_strides, *shape)
        self.network = detector.network()
        self.truths = truths

    def forward(self, features: Features, batch: Batch) -> Any:
        size = (batch.images.shape[-2], batch.images.shape[-1])
        maps = self.pyramid(features.maps, size)
        return self.network(maps, size, self.truths(batch) if self.training else None)


class Detect(Task):
    needs: frozenset[Provides] = frozenset({Provides.MAPS})
    answer: ClassVar[type[Boxes]] = Boxes
    framing: ClassVar[Literal["crop", "whole"]] = "whole"
    Settings: ClassVar[type[TaskSettings]] = DetectSettings
    suggests: ClassVar[dict[str, Any]] = {
        "tuning": "full",
        "backbone.size": 512,
        "augment.policy": "none",
        "augment.color": 0.3,
        "augment.crop": 0.4,
        "training.batch_size": 8,
        "training.epochs": 40,
        "training.patience": 0,
    }

    settings: DetectSettings

    def __init__(self, settings: Any, classes: tuple[str, ...]) -> None:
        super().__init__(settings, classes)
        terms = Terms(settings.class_loss, settings.box_loss)
        self.detector = DETECTORS.load(settings.head)(len(classes), settings.width, settings.depth, terms)

    def head(self, backbone: Backbone) -> nn.Module:
        return DetectionHead(backbone, self.detector, truths_of)

    def encode(self, truth: Boxes, size: tuple[int, int]) -> Target:
        """boxes (N, 4) that may be moved out of the picture; classes (N,) int64; crowd (N,) bool."""
        known = [name in self.classes for name in truth.names]
        crowd = np.zeros(len(known), bool) if truth.crowd is None else truth.crowd
        corners = torch.from_numpy(truth.xyxy.reshape(-1, 4)[known].astype(np.float32))
        return {
            "boxes": tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size, clamping_mode=None),
            "classes": torch.tensor([self.classes.index(name) for name in truth.names if name in self.classes], dtype=torch.int64),
            "crowd": torch.from_numpy(crowd[known]),
        }

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return self.detector.loss(output, truths_of(batch))

    def decode(self, output: Any, batch: Batch) -> list[Boxes]:
        """Boxes in pixels of the upright originals, the surest first."""
        found = self.detector.candidates(output)
        parts = zip(found, batch.views, batch.sizes, strict=True)
        return [self._boxes(each, view, size, batch.images.shape[-1]) for each, view, size in parts]

    def _boxes(self, found: Candidates, view: Tensor, size: Tensor, side: int) -> Boxes:
        kept = batched_nms(found.boxes, found.scores, found.classes, self.settings.suppress)[: self.settings.most]
        scale = ((view[2:] - view[:2]) / side).repeat(2)
        corners = (found.boxes[kept] * scale + view[:2].repeat(2)).float().cpu().numpy()
        height, width = size.tolist()
        corners = np.clip(corners, 0, [width, height, width, height]).astype(np.float32)
        names = tuple(self.classes[place] for place in found.classes[kept].tolist())
        return Boxes(corners, names, found.scores[kept].float().cpu().numpy())


def truths_of(batch: Batch) -> list[Truth]:
    """The objects to be found; those in crowds teach nothing."""
    return [
        Truth(target["boxes"].as_subclass(Tensor)[~target["crowd"]], target["classes"][~target["crowd"]])
        for target in batch.targets
    ]

