"""Four pictures in one square (Bochkovskiy et al. 2020): new neighbours, sizes and cuts for the objects of few images.

Each picture fills one of the quarters that meet at a random point. Chance is drawn from torch's generator, which the caller
seeds for each image. Letters: h, w of a picture as it was decoded, H, W of its upright original.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from foveate.data.transforms import crop_target, resize_target, shift_target
from foveate.errors import UsageError
from foveate.images.preprocessing import MAX_OVERSIZE, Framing
from foveate.predictions import Boxes, Regions
from foveate.recipe import AugmentRecipe
from foveate.types import OBJECT_KEYS, InputSpec, TargetTensors

Shown = tuple[np.ndarray, tuple[int, int], TargetTensors]
"""(pixels (h, w, 3) uint8, (H, W), target): what a Transform takes"""

_LEAST = 0.25  # of the square's side: the narrowest quarter


@dataclass(frozen=True)
class Mosaic:
    """`chance`: how often a picture is shown with three others. `side`: of the square, px. `fitted`: whether as much of each
    picture is shown as fills its quarter; else quarters are cut out at full resolution."""

    probability: float
    side: int
    fitted: bool

    def is_drawn(self) -> bool:
        return float(torch.rand(())) < self.probability

    def combine(self, pictures: Sequence[Shown]) -> Shown:
        """Four pictures -> one. Objects of which less than a third is left are dropped, as at any edge."""
        least = round(_LEAST * self.side)
        y, x = torch.randint(least, self.side - least + 1, (2,)).tolist()
        square = np.empty((self.side, self.side, 3), np.uint8)
        targets = []
        quarters = [
            (top, left) for top in ((0, y), (y, self.side)) for left in ((0, x), (x, self.side))
        ]
        for shown, ((top, bottom), (left, right)) in zip(pictures, quarters, strict=True):
            pixels, target = self._quarter(shown, bottom - top, right - left)
            square[top:bottom, left:right] = pixels
            targets.append(shift_target(target, [left, top, self.side - right, self.side - bottom]))
        return square, (self.side, self.side), _together(targets)

    def _quarter(self, shown: Shown, height: int, width: int) -> tuple[np.ndarray, TargetTensors]:
        """A window of this size, anywhere in the picture at the scale at which it fills the window."""
        pixels, _, target = shown
        scale = max(height / pixels.shape[0], width / pixels.shape[1])
        scale = scale if self.fitted else max(1.0, scale)
        shape = [
            max(height, round(scale * pixels.shape[0])),
            max(width, round(scale * pixels.shape[1])),
        ]
        image = functional.resize(torch.from_numpy(pixels).permute(2, 0, 1), shape, antialias=True)
        y, x = (
            int(torch.randint(whole - part + 1, ()))
            for whole, part in zip(shape, (height, width), strict=True)
        )
        window = functional.crop(image, y, x, height, width).permute(1, 2, 0).numpy()
        return window, crop_target(resize_target(target, shape), x, y, (height, width))


def make_mosaic(spec: InputSpec, framing: Framing, recipe: AugmentRecipe) -> Mosaic | None:
    """What the recipe asks for; None for none. Windows at full resolution are filled exactly, other squares shrink afterwards."""
    if not recipe.mosaic:
        return None
    return Mosaic(
        recipe.mosaic,
        spec.size * (1 if framing == "windows" else MAX_OVERSIZE),
        framing != "windows",
    )


def require_spatial_targets(recipe: AugmentRecipe, answer: type) -> None:
    """Only answers with places can be joined: raises UsageError for others."""
    if recipe.mosaic and answer not in (Boxes, Regions):
        what = "mosaic joins four pictures whose truths have places, boxes or masks; the truths of this task have none"
        raise UsageError(
            what,
            where="augment.mosaic",
            hint="--set augment.mosaic=0, or augment.cutmix for classes",
        )


def _together(targets: list[TargetTensors]) -> TargetTensors:
    """The objects of all, in their order; a class for every pixel, each from the quarter that it lies in."""
    joined: TargetTensors = {}
    for name, first in targets[0].items():
        values = [target[name] for target in targets]
        # beyond its quarter a mask is IGNORED, which is below every class
        value = torch.cat(values) if name in OBJECT_KEYS else torch.stack(values).amax(0)
        joined[name] = (
            tv_tensors.wrap(value, like=first) if isinstance(first, tv_tensors.TVTensor) else value
        )
    return joined
