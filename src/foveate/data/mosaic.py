"""Mosaic: four images in one square (Bochkovskiy et al. 2020, YOLOv4).

New neighbors, sizes and crops for the objects of few images. Each image fills one of the quarters
that meet at a random point. Randomness comes from torch's generator, which the caller seeds for
each image. Letters: h, w of an image as decoded; H, W of its upright original.
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

Decoded = tuple[np.ndarray, tuple[int, int], TargetTensors]
"""(pixels (h, w, C), (H, W), target): what a Transform takes."""

_MIN_QUARTER = 0.25  # the narrowest quarter, relative to the square's side


@dataclass(frozen=True)
class Mosaic:
    """How images are combined.

    Attributes:
        probability: How often an image is combined with three others.
        side: Side of the square, px.
        fitted: Whether images are scaled to fill their quarters; else quarters are cut out at full
            resolution.
    """

    probability: float
    side: int
    fitted: bool

    def is_drawn(self) -> bool:
        """Draw whether to combine the next image."""
        return float(torch.rand(())) < self.probability

    def combine(self, images: Sequence[Decoded]) -> Decoded:
        """Combine four images; objects that are mostly cut off are dropped."""
        margin = round(_MIN_QUARTER * self.side)
        y, x = torch.randint(margin, self.side - margin + 1, (2,)).tolist()
        pixels = images[0][0]
        square = np.empty((self.side, self.side, pixels.shape[2]), pixels.dtype)
        rows, columns = ((0, y), (y, self.side)), ((0, x), (x, self.side))
        quarters = [(row, column) for row in rows for column in columns]
        targets = []
        for image, ((top, bottom), (left, right)) in zip(images, quarters, strict=True):
            pixels, target = self._quarter(image, bottom - top, right - left)
            square[top:bottom, left:right] = pixels
            targets.append(shift_target(target, [left, top, self.side - right, self.side - bottom]))
        return square, (self.side, self.side), _merge(targets)

    def _quarter(self, image: Decoded, height: int, width: int) -> tuple[np.ndarray, TargetTensors]:
        """A random window of this size, of the image at the scale at which it fills the window."""
        pixels, _, target = image
        scale = max(height / pixels.shape[0], width / pixels.shape[1])
        scale = scale if self.fitted else max(1.0, scale)
        shape = [
            max(height, round(scale * pixels.shape[0])),
            max(width, round(scale * pixels.shape[1])),
        ]
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        resized = functional.resize(tensor, shape, antialias=True)
        y = int(torch.randint(shape[0] - height + 1, ()))
        x = int(torch.randint(shape[1] - width + 1, ()))
        window = functional.crop(resized, y, x, height, width).permute(1, 2, 0).numpy()
        return window, crop_target(resize_target(target, shape), x, y, (height, width))


def make_mosaic(spec: InputSpec, framing: Framing, recipe: AugmentRecipe) -> Mosaic | None:
    """Return the mosaic that the recipe asks for; None for none.

    Windows at full resolution are filled exactly; other squares are larger, and reduced afterwards.
    """
    if not recipe.mosaic:
        return None
    windows = framing == "windows"
    return Mosaic(recipe.mosaic, spec.size * (1 if windows else MAX_OVERSIZE), not windows)


def require_spatial_targets(recipe: AugmentRecipe, prediction_type: type) -> None:
    """Refuse mosaic for predictions that are not boxes or regions.

    Raises:
        UsageError: The recipe asks for mosaic, and targets have no positions.
    """
    if recipe.mosaic and prediction_type not in (Boxes, Regions):
        raise UsageError(
            "mosaic is only possible with boxes or masks",
            where="augment.mosaic",
            why="the targets of this task have no positions in the image",
            hint="use --set augment.mosaic=0, or augment.cutmix for classes",
        )


def _merge(targets: list[TargetTensors]) -> TargetTensors:
    """The objects of all images in order; masks of pixels each from its own quarter."""
    merged: TargetTensors = {}
    for name, first in targets[0].items():
        values = [target[name] for target in targets]
        # outside of its quarter a mask is IGNORE_INDEX, which is below every class
        value = torch.cat(values) if name in OBJECT_KEYS else torch.stack(values).amax(0)
        is_tv_tensor = isinstance(first, tv_tensors.TVTensor)
        merged[name] = tv_tensors.wrap(value, like=first) if is_tv_tensor else value
    return merged
