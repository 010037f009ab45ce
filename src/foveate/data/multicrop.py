"""Multi-crop views: random crops and distortions of an image, several each (SwAV, DINO)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from foveate.data.transforms import DeferredNormalize, Transform, as_image
from foveate.images.preprocessing import View
from foveate.types import InputSpec, TargetTensors

_GRAYSCALE, _BLUR = 0.2, 0.3  # probabilities
_MIN_SIZE_TO_BLUR = 64  # px: a smaller view has nothing to blur


@dataclass(frozen=True)
class Crops:
    """The views of an image in one step.

    Attributes:
        global_views: number of views at the size of the network.
        global_area: range of their share of the image's area.
        local_views: number of smaller views.
        local_area: range of their share of the image's area.
        color: strength of random color distortions, 0 to 1.
    """

    global_views: int = 2
    global_area: tuple[float, float] = (0.2, 1.0)
    local_views: int = 0
    local_area: tuple[float, float] = (0.05, 0.32)
    color: float = 0.5


def multicrop_transform(spec: InputSpec, crops: Crops, local_size: int) -> Transform:
    """Build a transform that draws views from torch's generator, which the caller seeds.

    The first global view is the image; the others, and the local ones, are in the target.

    Args:
        spec: Input of the network.
        crops: Which views.
        local_size: Side of the local views, px.
    """
    global_view = _view(spec.size, crops.global_area, crops.color)
    local_view = _view(local_size, crops.local_area, crops.color)

    def transform(
        pixels: np.ndarray, size: tuple[int, int], target: TargetTensors
    ) -> tuple[Tensor, View, TargetTensors]:
        image = as_image(pixels)
        first, *others = (global_view(image) for _ in range(crops.global_views))
        views: TargetTensors = {"global_views": torch.stack(others)} if others else {}
        if crops.local_views:
            views["local_views"] = torch.stack(
                [local_view(image) for _ in range(crops.local_views)]
            )
        return first, (0.0, 0.0, float(spec.size), float(spec.size)), views

    return DeferredNormalize(transform, spec)


def _view(size: int, area: tuple[float, float], color: float) -> Callable[[Any], Tensor]:
    """Return SimCLR's distortions (Chen et al. 2020, appendix A), with `color` as strength."""
    steps: list[Any] = [
        v2.RandomResizedCrop(
            size, area, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
        ),
        v2.RandomHorizontalFlip(),
    ]
    if color:
        jitter = v2.ColorJitter(0.8 * color, 0.8 * color, 0.8 * color, 0.2 * color)
        steps += [v2.RandomApply([jitter], 0.8), v2.RandomGrayscale(_GRAYSCALE)]
        if size >= _MIN_SIZE_TO_BLUR:
            blur = v2.GaussianBlur(2 * (size // 20) + 1, (0.1, 2.0))
            steps.append(v2.RandomApply([blur], _BLUR))
    chain = v2.Compose(steps)
    return lambda image: chain(image).as_subclass(Tensor)
