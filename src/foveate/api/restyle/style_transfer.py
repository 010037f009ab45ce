"""Neural style transfer (Gatys et al. 2016): optimize pixels to match features of a network.

The style of an image is given by the correlations of channels over the whole image, the content by
the deeper features at each location.

Letters: C channels of a feature map, h, w its sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from foveate.modeling.backbones import Backbone
from foveate.types import Features, Provides

_MAPS = frozenset({Provides.MAPS})
_LEARNING_RATE = 0.02  # of pixels in [0, 1], at first; it decays to 0 along a cosine
# finest maps that are compared: the deeper ones represent objects rather than style
_COMPARED_MAPS = 3
_MAX_SHIFT = 8  # px of the random shift before each step; without it, strides leave a grid
_SMOOTHNESS_WEIGHT = 0.05  # of the differences between neighboring pixels
_EPSILON = 1e-12


@dataclass(frozen=True)
class StyleTransferResult:
    """The optimized image.

    Attributes:
        image: (3, H, W) in [0, 1].
        style_losses: Style loss of the content image, and at the end.
        content_loss: Content loss at the end.
    """

    image: Tensor
    style_losses: tuple[float, float]
    content_loss: float


def gram_matrices(maps: Sequence[Tensor]) -> list[Tensor]:
    """[(1, C, h, w)] -> [(C, C)]: means over locations of products of channels."""
    flat = [each[0].flatten(1) for each in maps]
    return [each @ each.T / each.shape[1] for each in flat]


def style_loss(maps: Sequence[Tensor], style: Sequence[Tensor]) -> Tensor:
    """Return the mean over maps of the squared difference of Gram matrices.

    Args:
        maps: Feature maps of the image, [(1, C, h, w)].
        style: Gram matrices of the style, [(C, C)]; each difference is relative to their square.
    """
    losses = [
        (own - target).square().sum() / target.square().sum().clamp(min=_EPSILON)
        for own, target in zip(gram_matrices(maps), style, strict=True)
    ]
    return torch.stack(losses).mean()


def transfer_style(
    backbone: Backbone,
    content: Tensor,
    style: Tensor,
    *,
    steps: int,
    weight: float,
    advance: Callable[[str], None] = lambda text: None,
) -> StyleTransferResult:
    """Optimize an image that starts as the content in the colors of the style.

    Args:
        backbone: Has feature maps.
        content: (3, H, W) in [0, 1].
        style: (3, H', W') in [0, 1].
        steps: Optimization steps.
        weight: Weight of the style loss, relative to the content loss.
        advance: Called after each step with a text for the progress bar.
    """
    backbone.requires_grad_(False)
    spec, shape = backbone.input, (1, 3, 1, 1)
    mean, std = (
        torch.tensor(values, device=content.device).view(shape) for values in (spec.mean, spec.std)
    )

    def maps_of(image: Tensor) -> list[Tensor]:
        features: Features = backbone((image[None] - mean) / std, _MAPS)
        return features.maps[:_COMPARED_MAPS]

    with torch.no_grad():
        content_maps, style_grams = maps_of(content), gram_matrices(maps_of(style))
    deepest = len(content_maps) - 1
    power = content_maps[deepest].square().mean().clamp(min=_EPSILON)
    image = _match_colors(content, style).requires_grad_()
    optimizer = torch.optim.Adam([image], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        shift = torch.randint(_MAX_SHIFT, (2,), generator=generator).tolist()
        maps = maps_of(image.roll(shift, (1, 2)))
        with torch.no_grad():
            target = maps_of(content.roll(shift, (1, 2)))[deepest]
        own_style_loss = style_loss(maps, style_grams)
        content_loss = functional.mse_loss(maps[deepest], target) / power
        loss = weight * own_style_loss + content_loss + _SMOOTHNESS_WEIGHT * _roughness(image)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(0, 1)
        advance(f"style {float(own_style_loss.detach()):.3f}")
    with torch.no_grad():
        maps = maps_of(image)
        before, after = style_loss(content_maps, style_grams), style_loss(maps, style_grams)
        content_loss = functional.mse_loss(maps[deepest], content_maps[deepest]) / power
    return StyleTransferResult(image.detach(), (float(before), float(after)), float(content_loss))


def _match_colors(content: Tensor, style: Tensor) -> Tensor:
    """Give the content the mean and deviation of each color of the style; fewer steps are needed
    from there.
    """
    (std, mean), (style_std, style_mean) = (
        torch.std_mean(each, dim=(1, 2), keepdim=True) for each in (content, style)
    )
    return ((content - mean) / std.clamp(min=1e-3) * style_std + style_mean).clamp(0, 1)


def _roughness(image: Tensor) -> Tensor:
    """Mean absolute difference of neighboring pixels (total variation)."""
    vertical = (image[:, 1:] - image[:, :-1]).abs().mean()
    return vertical + (image[:, :, 1:] - image[:, :, :-1]).abs().mean()
