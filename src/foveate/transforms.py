"""Pixels and truth -> what the network sees. Evaluation is fixed; augmentation keeps boxes and masks true.

Letters: B, H, W as in types. Rectangles ('views') are (x0, y0, x1, y1) in pixels of the upright original.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from foveate.recipe import AugmentRecipe
from foveate.types import Batch, InputSpec, Target

Framing = Literal["crop", "whole"]
View = tuple[float, float, float, float]
Transform = Callable[[np.ndarray, tuple[int, int], Target], tuple[Tensor, View, Target]]
"""(pixels (h, w, 3) uint8, (H, W) of the original, target) -> image (3, size, size) float32, what it shows, target"""


def evaluation(spec: InputSpec, framing: Framing) -> Transform:
    """No chance in it: the central square, or the whole picture padded to the square; targets are left as they are.

    The central square is not cropped further, as ImageNet's evaluation does: what people photograph reaches the edges.
    """

    def transform(pixels: np.ndarray, size: tuple[int, int], target: Target) -> tuple[Tensor, View, Target]:
        image = _image(pixels)
        if framing == "whole":
            image, side, left, top = _padded(image, spec.size)
        else:
            image = functional.resize(image, [spec.size], functional.InterpolationMode.BICUBIC, antialias=True)
            image, side, left, top = _centred(image, spec.size)
        scale = max(size) / side if framing == "whole" else min(size) / side
        view = (-left * scale, -top * scale, (spec.size - left) * scale, (spec.size - top) * scale)
        return _normalised(image, spec), view, target

    return transform


def training(spec: InputSpec, framing: Framing, recipe: AugmentRecipe) -> Transform:
    """Augmented; draws from torch's generator, which the caller seeds for each image."""
    spatial = v2.Compose(_spatial(spec, framing, recipe))
    colours = _policy(recipe)
    erase = v2.RandomErasing(recipe.erase)

    def transform(pixels: np.ndarray, size: tuple[int, int], target: Target) -> tuple[Tensor, View, Target]:
        ratio = pixels.shape[0] / size[0]
        image, moved = spatial(_image(pixels), _scaled(target, ratio, pixels.shape[:2]))
        image = colours(image) if not _has_places(moved) else image
        view = (0.0, 0.0, float(spec.size), float(spec.size))
        return erase(_normalised(image, spec)), view, moved

    return transform


def mixed(batch: Batch, recipe: AugmentRecipe) -> Batch:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a batch whose targets are labels alone; drawn from torch's
    generator. Where both are asked for, a coin decides."""
    if len(batch) < 2 or not (recipe.mixup or recipe.cutmix) or any(set(target) != {"labels"} for target in batch.targets):
        return batch
    cut = bool(recipe.cutmix) and (not recipe.mixup or bool(torch.rand(()) < 0.5))
    alpha = recipe.cutmix if cut else recipe.mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(batch))
    images, share = _pasted(batch.images, order, share) if cut else (_blended(batch.images, order, share), share)
    labels = torch.stack([target["labels"] for target in batch.targets])
    labels = share * labels + (1 - share) * labels[order]
    return Batch(images, [{"labels": row} for row in labels], batch.views, batch.sizes, batch.indices)


def _blended(images: Tensor, order: Tensor, share: float) -> Tensor:
    return share * images + (1 - share) * images[order]


def _pasted(images: Tensor, order: Tensor, share: float) -> tuple[Tensor, float]:
    """A rectangle of the area 1 - share comes from another image; the share that is really left is given back."""
    height, width = images.shape[-2:]
    side = (1 - share) ** 0.5
    y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
    top, bottom = max(0, int(y - side * height / 2)), min(height, int(y + side * height / 2))
    left, right = max(0, int(x - side * width / 2)), min(width, int(x + side * width / 2))
    images = images.clone()
    images[:, :, top:bottom, left:right] = images[order][:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)


def _spatial(spec: InputSpec, framing: Framing, recipe: AugmentRecipe) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if recipe.rotate or recipe.scale:
        zoom = (1 - recipe.scale, 1 + recipe.scale)
        steps.append(v2.RandomAffine(recipe.rotate, scale=zoom, interpolation=v2.InterpolationMode.BILINEAR))
    if framing == "whole":
        steps += [v2.Resize(None, max_size=spec.size, antialias=True), _PadToSquare(spec.size)]
    elif recipe.crop < 1:
        steps.append(v2.RandomResizedCrop(spec.size, (recipe.crop, 1), interpolation=v2.InterpolationMode.BICUBIC, antialias=True))
    else:
        steps.append(v2.Resize(spec.size, v2.InterpolationMode.BICUBIC, antialias=True))
        steps.append(v2.CenterCrop(spec.size))
    return [*steps, v2.RandomHorizontalFlip(recipe.flip)]


class _PadToSquare(v2.Transform):  # type: ignore[misc]
    """Gray on the right and below, so that coordinates stay where they are."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return {"padding": [0, 0, self.size - width, self.size - height]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(functional.pad, inpt, padding=params["padding"], fill=0)


def _policy(recipe: AugmentRecipe) -> Callable[[Tensor], Tensor]:
    """The automatic policies know nothing of boxes and masks: they run on pictures whose truth has no place."""
    made: Callable[[Tensor], Tensor] = v2.Identity()
    if recipe.policy == "trivial":
        made = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)
    elif recipe.policy == "rand":
        made = v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR)
    return made


def _has_places(target: Target) -> bool:
    return any(isinstance(value, tv_tensors.BoundingBoxes | tv_tensors.Mask) for value in target.values())


def _scaled(target: Target, ratio: float, canvas: tuple[int, int]) -> Target:
    """Boxes of the original in the pixels of the decoded (perhaps smaller) picture; masks are resized to it."""
    moved: Target = {}
    for name, value in target.items():
        if isinstance(value, tv_tensors.BoundingBoxes):
            moved[name] = tv_tensors.BoundingBoxes(value * ratio, format="XYXY", canvas_size=canvas)
        elif isinstance(value, tv_tensors.Mask):
            moved[name] = functional.resize(value, list(canvas), functional.InterpolationMode.NEAREST)
        else:
            moved[name] = value
    return moved


def _image(pixels: np.ndarray) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))


def _normalised(image: Tensor, spec: InputSpec) -> Tensor:
    scaled = functional.to_dtype(image, torch.float32, scale=True)
    return cast(Tensor, functional.normalize(scaled, list(spec.mean), list(spec.std)).as_subclass(Tensor))


def _centred(image: Tensor, size: int) -> tuple[Tensor, int, int, int]:
    """The central square; the short side before cropping; minus the offsets of the square (a shift of coordinates)."""
    height, width = image.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return functional.crop(image, top, left, size, size), min(height, width), -left, -top


def _padded(image: Tensor, size: int) -> tuple[Tensor, int, int, int]:
    height, width = image.shape[-2:]
    scale = size / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    image = functional.resize(image, [height, width], functional.InterpolationMode.BICUBIC, antialias=True)
    return functional.pad(image, [0, 0, size - width, size - height]), size, 0, 0
