"""Pixels and truth -> what the network sees. Evaluation is fixed; augmentation keeps boxes and masks true.

Letters: B, H, W as in types. Rectangles ('views') are (x0, y0, x1, y1) in pixels of the upright original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from foveate.images.codec import with_long_side
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
"""(pixels (h, w, 3) uint8, (H, W) of the original, target) -> image (3, size, size), what it shows, target"""


@dataclass(frozen=True)
class DeferredNormalize:
    """A Transform whose images, and views in the targets, are bytes still; `spec` makes them what the network wants to see, later
    and elsewhere (Batch.to): they are a quarter of the way there."""

    work: Transform
    spec: InputSpec

    def __call__(
        self, pixels: np.ndarray, size: tuple[int, int], target: TargetTensors
    ) -> tuple[Tensor, View, TargetTensors]:
        return self.work(pixels, size, target)


class ObjectMasks(tv_tensors.Mask):  # type: ignore[misc]
    """(N, H, W) uint8, 1 where an object is. A kind of its own, because nothing lies beyond the picture's edge: 0, not IGNORED."""


_FILL = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE_INDEX, ObjectMasks: 0}
_VISIBLE = 1 / 3  # of an object's area that a window must show for it to count


def evaluation_transform(spec: InputSpec, framing: Framing) -> Transform:
    """No chance in it: the central square, or the whole picture padded to the square; the target goes along.

    The central square is not cropped further, as ImageNet's evaluation does: what people photograph reaches the edges.
    """

    def transform(
        pixels: np.ndarray, size: tuple[int, int], target: TargetTensors
    ) -> tuple[Tensor, View, TargetTensors]:
        image, moved = (
            as_image(to_square(pixels, spec.size, framing)),
            _scaled(target, pixels.shape[:2], size),
        )
        moved = _laid(
            moved,
            place_on_square((pixels.shape[0], pixels.shape[1]), spec.size, framing),
            spec.size,
            framing,
        )
        return image.as_subclass(Tensor), view_of(size, spec.size, framing), moved

    return DeferredNormalize(transform, spec)


def training_transform(spec: InputSpec, framing: Framing, recipe: AugmentRecipe) -> Transform:
    """Augmented; draws from torch's generator, which the caller seeds for each image."""
    spatial = v2.Compose(_spatial(spec, framing, recipe))
    policy = _policy(recipe)
    colours: Callable[[Tensor], Tensor] = (
        v2.ColorJitter(*[recipe.color] * 3) if recipe.color else v2.Identity()
    )
    erase = v2.RandomErasing(recipe.erase) if recipe.erase else None

    def transform(
        pixels: np.ndarray, size: tuple[int, int], target: TargetTensors
    ) -> tuple[Tensor, View, TargetTensors]:
        image, moved = spatial(as_image(pixels), _scaled(target, pixels.shape[:2], size))
        image = colours(image) if _has_places(moved) else policy(colours(image))
        view = (0.0, 0.0, float(spec.size), float(spec.size))
        image = image.as_subclass(Tensor)
        return erase(spec.normalize(image)) if erase else image, view, moved

    return (
        transform if erase else DeferredNormalize(transform, spec)
    )  # what is erased has the mean colour, which is no byte


def mix_batch(batch: Batch, recipe: AugmentRecipe) -> Batch:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a batch whose targets are labels alone; drawn from torch's
    generator. Where both are asked for, a coin decides."""
    if (
        len(batch) < 2
        or not (recipe.mixup or recipe.cutmix)
        or any(set(target) != {"labels"} for target in batch.targets)
    ):
        return batch
    batch = batch.normalized()
    cut = bool(recipe.cutmix) and (not recipe.mixup or bool(torch.rand(()) < 0.5))
    alpha = recipe.cutmix if cut else recipe.mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(batch))
    images, share = (
        _pasted(batch.images, order, share)
        if cut
        else (_blended(batch.images, order, share), share)
    )
    labels = torch.stack([target["labels"] for target in batch.targets])
    labels = share * labels + (1 - share) * labels[order]
    return Batch(
        images, [{"labels": row} for row in labels], batch.views, batch.sizes, batch.indices
    )


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


def _spatial(spec: InputSpec, framing: Framing, recipe: AugmentRecipe) -> list[Callable[..., Any]]:
    steps: list[Callable[..., Any]] = []
    if recipe.rotate or recipe.scale:
        zoom = (1 - recipe.scale, 1 + recipe.scale)
        steps.append(
            v2.RandomAffine(
                recipe.rotate, scale=zoom, interpolation=v2.InterpolationMode.BILINEAR, fill=_FILL
            )
        )
    if framing == "windows":
        steps += [v2.RandomCrop(spec.size, pad_if_needed=True, fill=_FILL), _drop_unseen]
    elif framing == "whole":
        steps += [_Window(recipe.crop), _Fit(spec.size), _drop_unseen, _PadToSquare(spec.size)]
    elif recipe.crop < 1:
        steps.append(
            v2.RandomResizedCrop(
                spec.size,
                (recipe.crop, 1),
                interpolation=v2.InterpolationMode.BICUBIC,
                antialias=True,
            )
        )
    else:
        steps.append(v2.Resize(spec.size, v2.InterpolationMode.BICUBIC, antialias=True))
        steps.append(v2.CenterCrop(spec.size))
    flips = (v2.RandomHorizontalFlip, recipe.flip), (v2.RandomVerticalFlip, recipe.flip_vertical)
    return [*steps, *(flip(chance) for flip, chance in flips if chance)]


class _Window(v2.Transform):  # type: ignore[misc]
    """A rectangle of the picture's own shape, of at least `least` of its area, anywhere in it."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        side = float(torch.empty(()).uniform_(self.least, 1)) ** 0.5
        inner = max(1, round(side * height)), max(1, round(side * width))
        corner = (
            int(torch.randint(whole - part + 1, ()))
            for whole, part in zip((height, width), inner, strict=True)
        )
        return dict(zip(("top", "left", "height", "width"), (*corner, *inner), strict=True))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(functional.crop, inpt, **params)


class _Fit(v2.Transform):  # type: ignore[misc]
    """The long side at `side` px."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return {"size": list(with_long_side((height, width), self.side))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return _stretched(inpt, params["size"]) if isinstance(inpt, tv_tensors.TVTensor) else inpt


class _PadToSquare(v2.Transform):  # type: ignore[misc]
    """Black, or a class that nobody cares about, on the right and below, so that coordinates stay where they are."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return {"padding": [0, 0, self.size - width, self.size - height]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(
            functional.pad, inpt, padding=params["padding"], fill=_FILL[_kind(inpt)]
        )


def _policy(recipe: AugmentRecipe) -> Callable[[Tensor], Tensor]:
    """The automatic policies know nothing of boxes and masks: they run on pictures whose truth has no place."""
    made: Callable[[Tensor], Tensor] = v2.Identity()
    if recipe.policy == "trivial":
        made = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)
    elif recipe.policy == "rand":
        made = v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR)
    return made


def _has_places(target: TargetTensors) -> bool:
    return any(
        isinstance(value, tv_tensors.BoundingBoxes | tv_tensors.Mask) for value in target.values()
    )


def _scaled(
    target: TargetTensors, decoded: tuple[int, ...], size: tuple[int, int]
) -> TargetTensors:
    """The target of an original of `size` (height, width) in the pixels of the `decoded`, perhaps smaller picture."""
    return resize_target(target, [decoded[0], decoded[1]]) if decoded[:2] != size else target


def crop_target(target: TargetTensors, x: int, y: int, size: tuple[int, ...]) -> TargetTensors:
    """The target of a window of `size` (height, width) whose upper left corner is at (x, y)."""
    return _seen(_each(target, lambda value: functional.crop(value, y, x, size[0], size[1])))


def shift_target(target: TargetTensors, edges: list[int]) -> TargetTensors:
    """Boxes and masks along with a picture that gains so many pixels on its left, top, right and bottom edge."""
    return _each(target, lambda value: functional.pad(value, edges, fill=_FILL[_kind(value)]))


def resize_target(target: TargetTensors, size: list[int]) -> TargetTensors:
    """Boxes and masks along with a picture that becomes `size` (height, width)."""
    return _each(target, lambda value: _stretched(value, size))


def _stretched(value: Any, size: list[int]) -> Any:
    """A picture (bilinear), boxes or a mask at another (height, width). The library's nearest neighbour for masks is half a
    pixel off to the upper left; the exact one is not."""
    if not isinstance(value, tv_tensors.Mask):
        return functional.resize(value, size, functional.InterpolationMode.BILINEAR, antialias=True)
    moved = functional.resize(
        value.as_subclass(Tensor)[None], size, functional.InterpolationMode.NEAREST_EXACT
    )
    return tv_tensors.wrap(moved[0], like=value)


def _each(target: TargetTensors, moved: Callable[[Any], Any]) -> TargetTensors:
    places = (tv_tensors.BoundingBoxes, tv_tensors.Mask)
    return {
        name: moved(value) if isinstance(value, places) else value for name, value in target.items()
    }


def _seen(target: TargetTensors) -> TargetTensors:
    """Without the objects of which less than a third is left in the picture; the others end at its edge."""
    if "boxes" not in target:
        return target
    boxes = target["boxes"]
    inside = functional.clamp_bounding_boxes(boxes, clamping_mode="hard")
    kept = (_areas(inside) >= _VISIBLE * _areas(boxes)) & (_areas(inside) > 0)
    return {
        name: _rows(value, kept) if name in OBJECT_KEYS else value
        for name, value in {**target, "boxes": inside}.items()
    }


def _rows(value: Tensor, kept: Tensor) -> Tensor:
    """Some rows; boxes stay boxes, or the next step would not move them."""
    return (
        tv_tensors.wrap(value[kept], like=value)
        if isinstance(value, tv_tensors.TVTensor)
        else value[kept]
    )


def _drop_unseen(image: Tensor, target: TargetTensors) -> tuple[Tensor, TargetTensors]:
    """Before the picture is padded: afterwards what was cut off would seem to lie in the padding."""
    return image, _seen(target)


def _areas(boxes: Tensor) -> Tensor:
    """(N, 4) corners -> (N,)."""
    sides = boxes.as_subclass(Tensor)[:, 2:] - boxes.as_subclass(Tensor)[:, :2]
    return sides.clamp(min=0).prod(1)


def _kind(value: Any) -> Any:
    return next(
        (kind for kind in (ObjectMasks, tv_tensors.Mask) if isinstance(value, kind)),
        tv_tensors.Image,
    )


def as_image(pixels: np.ndarray) -> tv_tensors.Image:
    """(h, w, 3) -> (3, h, w)."""
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))


def _laid(
    target: TargetTensors, shape: tuple[int, int], square: int, framing: Framing
) -> TargetTensors:
    """The target along with a picture that is laid on the network's square at this (height, width)."""
    target = resize_target(target, list(shape))
    if framing != "crop":
        return shift_target(target, [0, 0, square - shape[1], square - shape[0]])
    window = *center_crop_window(*shape, square), square, square
    return _each(target, lambda value: functional.crop(value, *window))


def as_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> list[np.ndarray]:
    """(B, 3, S, S) normalised -> B times (S, S, 3) uint8."""
    shape = (1, 3, 1, 1)
    scaled = images.float().cpu() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    return list(
        (255 * scaled)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .contiguous()
        .numpy()
    )
