"""From pixels and targets to the input of a network.

Evaluation is deterministic. Augmentation moves boxes and masks along with the image.

Letters: B, H, W as in types; h, w of an image as decoded. Views are rectangles (x0, y0, x1, y1) in
pixels of the upright original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from foveate.images.codec import with_long_side
from foveate.images.pixels import as_network_input, as_rgb
from foveate.images.preprocessing import (
    Framing,
    View,
    center_crop_window,
    place_on_square,
    to_square,
    view_of,
)
from foveate.predictions import IGNORE_INDEX
from foveate.recipe import AugmentRecipe
from foveate.types import OBJECT_KEYS, Batch, InputSpec, TargetTensors

Transform = Callable[
    [np.ndarray, tuple[int, int], TargetTensors], tuple[Tensor, View, TargetTensors]
]
"""(decoded pixels (h, w, C), (H, W) of the original, target) -> (image (C, S, S), view, target)"""

ImageStep = Callable[[Tensor], Tensor]
"""tv_tensors.Image of any (C, h, w) -> the same type."""


@dataclass(frozen=True)
class DeferredNormalize:
    """A Transform whose images, and views in the targets, are not normalized yet.

    `Batch.to` normalizes them on the device: bytes are a quarter of the transfer.

    Attributes:
        transform: The transform.
        spec: The normalization that is still to be applied.
    """

    transform: Transform
    spec: InputSpec

    def __call__(
        self, pixels: np.ndarray, size: tuple[int, int], target: TargetTensors
    ) -> tuple[Tensor, View, TargetTensors]:
        return self.transform(pixels, size, target)


class ObjectMasks(tv_tensors.Mask):  # type: ignore[misc]
    """(N, H, W) uint8, 1 inside an object.

    A type of its own because beyond the border of the image they are 0, not IGNORE_INDEX.
    """


_FILL = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE_INDEX, ObjectMasks: 0}
_OF_COLORS = ("Brightness", "Color", "Contrast", "Sharpness", "AutoContrast", "Equalize")
"""Steps of the policies that are defined for colors or gray only."""
_MIN_VISIBLE = 1 / 3  # share of an object's area inside the image, below which it is dropped


def evaluation_transform(spec: InputSpec, framing: Framing) -> Transform:
    """Build the deterministic transform of evaluation.

    The image becomes its central square, or the whole image is padded to a square; the target goes
    along. The central square is not cropped further, as for ImageNet: objects reach the edges of
    users' images.

    Args:
        spec: Input of the network.
        framing: How an image is fitted to its square.
    """

    def transform(
        pixels: np.ndarray, size: tuple[int, int], target: TargetTensors
    ) -> tuple[Tensor, View, TargetTensors]:
        height, width = pixels.shape[:2]
        image = as_image(to_square(pixels, spec.size, framing)).as_subclass(Tensor)
        shape = place_on_square((height, width), spec.size, framing)
        target = _to_decoded(target, (height, width), size)
        target = _place_target(target, shape, spec.size, framing)
        return image, view_of(size, spec.size, framing), target

    return DeferredNormalize(transform, spec)


def training_transform(spec: InputSpec, framing: Framing, recipe: AugmentRecipe) -> Transform:
    """Build the random transform of training; it draws from torch's generator.

    Args:
        spec: Input of the network.
        framing: How an image is fitted to its square.
        recipe: The augmentations.
    """
    spatial = v2.Compose(_spatial_steps(spec, framing, recipe))
    jitter, policy = _jitter(recipe, spec.channels), _policy(recipe, spec.channels)
    erase = v2.RandomErasing(recipe.erase) if recipe.erase else None

    def transform(
        pixels: np.ndarray, size: tuple[int, int], target: TargetTensors
    ) -> tuple[Tensor, View, TargetTensors]:
        image, target = spatial(as_image(pixels), _to_decoded(target, pixels.shape[:2], size))
        if image.is_floating_point():  # bicubic interpolation exceeds black and white
            image = tv_tensors.wrap(image.clamp(0, 255), like=image)
        image = jitter(image) if _is_spatial(target) else policy(jitter(image))
        image = image.as_subclass(Tensor)
        view = (0.0, 0.0, float(spec.size), float(spec.size))
        return erase(spec.normalize(image)) if erase else image, view, target

    # what is erased becomes the mean color, 0 after normalization, which no byte is
    return transform if erase else DeferredNormalize(transform, spec)


def mix_batch(batch: Batch, recipe: AugmentRecipe) -> Batch:
    """Apply mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), if the recipe asks for it.

    If it asks for both, one of them is drawn. Batches with other targets than labels, and single
    images, are returned as they are. Draws from torch's generator; neighbors in the batch, which
    is shuffled, are mixed.
    """
    requested = bool(recipe.mixup or recipe.cutmix)
    only_labels = all(set(target) == {"labels"} for target in batch.targets)
    if len(batch) < 2 or not requested or not only_labels:
        return batch
    batch = batch.normalized()  # the mean of two bytes may not be a byte
    use_cutmix = bool(recipe.cutmix) and (not recipe.mixup or bool(torch.rand(()) < 0.5))
    mix = v2.CutMix(alpha=recipe.cutmix) if use_cutmix else v2.MixUp(alpha=recipe.mixup)
    images, labels = mix(batch.images, torch.stack([target["labels"] for target in batch.targets]))
    return replace(batch, images=images, targets=[{"labels": row} for row in labels])


# --- steps of training


def _spatial_steps(
    spec: InputSpec, framing: Framing, recipe: AugmentRecipe
) -> list[Callable[..., Any]]:
    steps: list[Callable[..., Any]] = []
    if recipe.rotate or recipe.scale:
        scale = (1 - recipe.scale, 1 + recipe.scale)
        bilinear = v2.InterpolationMode.BILINEAR
        steps.append(
            v2.RandomAffine(recipe.rotate, scale=scale, interpolation=bilinear, fill=_FILL)
        )
    bicubic = v2.InterpolationMode.BICUBIC
    if framing == "windows":
        steps += [v2.RandomCrop(spec.size, pad_if_needed=True, fill=_FILL), _drop_cropped]
    elif framing == "whole":
        crop, fit = _CropKeepingRatio(recipe.crop), _ResizeLongSide(spec.size)
        # before padding: afterwards what was cropped would seem to be in the padding
        steps += [crop, fit, _drop_cropped, _PadToSquare(spec.size)]
    elif recipe.crop < 1:
        area = (recipe.crop, 1)
        steps.append(v2.RandomResizedCrop(spec.size, area, interpolation=bicubic, antialias=True))
    else:
        steps += [v2.Resize(spec.size, bicubic, antialias=True), v2.CenterCrop(spec.size)]
    flips = (v2.RandomHorizontalFlip, recipe.flip), (v2.RandomVerticalFlip, recipe.flip_vertical)
    return [*steps, *(flip(probability) for flip, probability in flips if probability)]


class _CropKeepingRatio(v2.Transform):  # type: ignore[misc]
    """Crops a random rectangle of the image's aspect ratio, of at least `min_area` of its area."""

    def __init__(self, min_area: float) -> None:
        super().__init__()
        self.min_area = min_area

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        side = float(torch.empty(()).uniform_(self.min_area, 1)) ** 0.5
        inner_height, inner_width = max(1, round(side * height)), max(1, round(side * width))
        return {
            "top": int(torch.randint(height - inner_height + 1, ())),
            "left": int(torch.randint(width - inner_width + 1, ())),
            "height": inner_height,
            "width": inner_width,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(functional.crop, inpt, **params)


class _ResizeLongSide(v2.Transform):  # type: ignore[misc]
    """Resizes the long side to `side` px."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return {"size": list(with_long_side((height, width), self.side))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return _resize(inpt, params["size"]) if isinstance(inpt, tv_tensors.TVTensor) else inpt


class _PadToSquare(v2.Transform):  # type: ignore[misc]
    """Pads right and below, with black or IGNORE_INDEX, so that coordinates do not change."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return {"padding": [0, 0, self.size - width, self.size - height]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        fill = _FILL[_fill_type(inpt)]
        return self._call_kernel(functional.pad, inpt, padding=params["padding"], fill=fill)


def _drop_cropped(image: Tensor, target: TargetTensors) -> tuple[Tensor, TargetTensors]:
    return image, _keep_visible(target)


def _policy(recipe: AugmentRecipe, channels: int) -> ImageStep:
    """The automatic policy; such policies cannot move boxes and masks along."""
    if recipe.policy not in ("trivial", "rand"):
        return v2.Identity()  # type: ignore[no-any-return]
    kind = v2.TrivialAugmentWide if recipe.policy == "trivial" else v2.RandAugment
    policy = kind(interpolation=v2.InterpolationMode.BILINEAR)
    if channels != 3:
        steps = policy._AUGMENTATION_SPACE
        policy._AUGMENTATION_SPACE = {
            name: step for name, step in steps.items() if name not in _OF_COLORS
        }
    return _on_unit_scale(policy)


def _jitter(recipe: AugmentRecipe, channels: int) -> ImageStep:
    """Random brightness and contrast; of colors saturation, too."""
    if not recipe.color:
        return v2.Identity()  # type: ignore[no-any-return]
    if channels == 3:
        return _on_unit_scale(v2.ColorJitter(*[recipe.color] * 3))

    def jitter(image: Tensor) -> Tensor:
        brightness, contrast = (1 + recipe.color * (2 * torch.rand(2) - 1)).tolist()
        pixels = image.float() * brightness
        mean = pixels.mean((-2, -1), keepdim=True)
        pixels = (mean + contrast * (pixels - mean)).clamp(0, 255)
        pixels = pixels if image.is_floating_point() else pixels.round().to(image.dtype)
        return tv_tensors.wrap(pixels, like=image)  # type: ignore[no-any-return]

    return jitter


def _on_unit_scale(step: ImageStep) -> ImageStep:
    """A step of torchvision, whose float images reach to 1, for those that reach to 255."""

    def on_unit_scale(image: Tensor) -> Tensor:
        if not image.is_floating_point():
            return step(image)
        scaled = step(tv_tensors.wrap(image / 255, like=image))
        return tv_tensors.wrap(scaled * 255, like=image)  # type: ignore[no-any-return]

    return on_unit_scale


# --- targets


_SPATIAL = (tv_tensors.BoundingBoxes, tv_tensors.Mask)


def crop_target(target: TargetTensors, x: int, y: int, size: tuple[int, ...]) -> TargetTensors:
    """Crop boxes and masks like an image; objects that are mostly outside are dropped.

    Args:
        target: The target of the image.
        x: Left edge of the crop.
        y: Upper edge of the crop.
        size: (height, width) of the crop.
    """
    cropped = _map_spatial(target, lambda value: functional.crop(value, y, x, size[0], size[1]))
    return _keep_visible(cropped)


def shift_target(target: TargetTensors, edges: list[int]) -> TargetTensors:
    """Pad boxes and masks like an image. `edges`: left, top, right and bottom padding, px."""
    return _map_spatial(
        target, lambda value: functional.pad(value, edges, fill=_FILL[_fill_type(value)])
    )


def resize_target(target: TargetTensors, size: list[int]) -> TargetTensors:
    """Resize boxes and masks like an image. `size`: (height, width)."""
    return _map_spatial(target, lambda value: _resize(value, size))


def _to_decoded(
    target: TargetTensors, decoded: tuple[int, ...], size: tuple[int, int]
) -> TargetTensors:
    """Resize the target of an original of `size` (height, width) to the decoded image."""
    return resize_target(target, [decoded[0], decoded[1]]) if decoded[:2] != size else target


def _place_target(
    target: TargetTensors, shape: tuple[int, int], square: int, framing: Framing
) -> TargetTensors:
    """Move a target along with an image that has this (height, width) on the network's square."""
    target = resize_target(target, list(shape))
    if framing != "crop":
        return shift_target(target, [0, 0, square - shape[1], square - shape[0]])
    top, left = center_crop_window(*shape, square)
    return _map_spatial(target, lambda value: functional.crop(value, top, left, square, square))


def _resize(value: Any, size: list[int]) -> Any:
    """Resize an image (bilinear), boxes or a mask to (height, width).

    torchvision's NEAREST is half a pixel off to the upper left for masks; NEAREST_EXACT is not.
    """
    if not isinstance(value, tv_tensors.Mask):
        return functional.resize(value, size, functional.InterpolationMode.BILINEAR, antialias=True)
    mask = value.as_subclass(Tensor)[None]
    resized = functional.resize(mask, size, functional.InterpolationMode.NEAREST_EXACT)
    return tv_tensors.wrap(resized[0], like=value)


def _map_spatial(target: TargetTensors, function: Callable[[Any], Any]) -> TargetTensors:
    """Apply a function to boxes and masks."""
    return {
        name: function(value) if isinstance(value, _SPATIAL) else value
        for name, value in target.items()
    }


def _is_spatial(target: TargetTensors) -> bool:
    return any(isinstance(value, _SPATIAL) for value in target.values())


def _keep_visible(target: TargetTensors) -> TargetTensors:
    """Drop objects of which less than a third is inside the image; clip the others."""
    if "boxes" not in target:
        return target
    boxes = target["boxes"]
    inside = functional.clamp_bounding_boxes(boxes, clamping_mode="hard")
    kept = (_areas(inside) >= _MIN_VISIBLE * _areas(boxes)) & (_areas(inside) > 0)
    return {
        name: _select(value, kept) if name in OBJECT_KEYS else value
        for name, value in {**target, "boxes": inside}.items()
    }


def _select(value: Tensor, kept: Tensor) -> Tensor:
    """Some rows, of the same type: plain tensors would not be moved by the next step."""
    rows = value[kept]
    return tv_tensors.wrap(rows, like=value) if isinstance(value, tv_tensors.TVTensor) else rows


def _areas(boxes: Tensor) -> Tensor:
    """(N, 4) corners -> (N,)."""
    corners = boxes.as_subclass(Tensor)
    return (corners[:, 2:] - corners[:, :2]).clamp(min=0).prod(1)


def _fill_type(value: Any) -> Any:
    """The key of _FILL for a value."""
    for kind in (ObjectMasks, tv_tensors.Mask):
        if isinstance(value, kind):
            return kind
    return tv_tensors.Image


# --- images


def as_image(pixels: np.ndarray) -> tv_tensors.Image:
    """Turn decoded (h, w, C) pixels into a (C, h, w) image, uint8 or float32 up to 255."""
    return tv_tensors.Image(torch.from_numpy(as_network_input(pixels)).permute(2, 0, 1))


def as_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> list[np.ndarray]:
    """Undo the normalization: (B, C, S, S) -> B arrays (S, S, 3) uint8, as `as_rgb`."""
    shape = (1, -1, 1, 1)
    scaled = images.float().cpu() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    pixels = (255 * scaled).round().clamp(0, 255).to(torch.uint8)
    return [as_rgb(image) for image in pixels.permute(0, 2, 3, 1).contiguous().numpy()]
