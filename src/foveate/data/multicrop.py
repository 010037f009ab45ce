"""Pictures cut and distorted at random, several times each: what objectives without labels compare."""

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

_GREY, _BLUR = 0.2, 0.3  # chances
_BLUR_FROM = 64  # px: a smaller view has nothing to blur


@dataclass(frozen=True)
class Crops:
    """The views of an image in a step. `wide`: how many at the network's size, of a share of the area within `wide_area`; `narrow`:
    how many of a smaller side, within `narrow_area`. `colours`: strength of random colours, 0 to 1."""

    wide: int = 2
    wide_area: tuple[float, float] = (0.2, 1.0)
    narrow: int = 0
    narrow_area: tuple[float, float] = (0.05, 0.32)
    colours: float = 0.5


def views(spec: InputSpec, crops: Crops, narrow_side: int) -> Transform:
    """The first wide view is the image, all others stand in the target; drawn from torch's generator, which the caller seeds.

    `narrow_side`: of the smaller views, px.
    """
    wide = _one(spec.size, crops.wide_area, crops.colours)
    narrow = _one(narrow_side, crops.narrow_area, crops.colours)

    def transform(
        pixels: np.ndarray, size: tuple[int, int], target: TargetTensors
    ) -> tuple[Tensor, View, TargetTensors]:
        image = as_image(pixels)
        first, *others = (wide(image) for _ in range(crops.wide))
        found: TargetTensors = {"wide": torch.stack(others)} if others else {}
        if crops.narrow:
            found["narrow"] = torch.stack([narrow(image) for _ in range(crops.narrow)])
        return first, (0.0, 0.0, float(spec.size), float(spec.size)), found

    return DeferredNormalize(transform, spec)


def _one(side: int, area: tuple[float, float], colours: float) -> Callable[[Any], Tensor]:
    """SimCLR's distortions (Chen et al. 2020, appendix A), `colours` times as strong."""
    steps: list[Any] = [
        v2.RandomResizedCrop(
            side, area, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
        ),
        v2.RandomHorizontalFlip(),
    ]
    if colours:
        jitter = v2.ColorJitter(0.8 * colours, 0.8 * colours, 0.8 * colours, 0.2 * colours)
        steps += [v2.RandomApply([jitter], 0.8), v2.RandomGrayscale(_GREY)]
        if side >= _BLUR_FROM:
            steps.append(v2.RandomApply([v2.GaussianBlur(2 * (side // 20) + 1, (0.1, 2.0))], _BLUR))
    chain = v2.Compose(steps)
    return lambda image: chain(image).as_subclass(Tensor)
