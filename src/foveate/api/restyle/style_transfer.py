"""One picture in the manner of another (Gatys et al. 2016): pixels are moved until a network's
features say so.

Letters: C channels of a map, h, w its sides. The style is what the correlations of channels over a
picture say, wherever in it; the content is the deeper features, place by place.
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
_RATE = 0.02  # of pixels in [0, 1], a step at first; it falls to nothing along a cosine
_DEPTHS = (
    3  # maps that are compared, from the finest on: the deeper ones know things rather than manners
)
_SHIFT = 8  # px by which the picture is moved before each look: strides leave a grid in it else
_SMOOTH = 0.05  # weight of differences between neighbours
_TINY = 1e-12


@dataclass(frozen=True)
class Restyled:
    """`image`: (3, H, W) in [0, 1].

    `style`: the style's loss, at the content picture and at the end; `content`: at the end.
    """

    image: Tensor
    style: tuple[float, float]
    content: float


def correlations(maps: Sequence[Tensor]) -> list[Tensor]:
    """[(1, C, h, w)] -> [(C, C)]: means over places of products of channels (Gram matrices)."""
    flat = [each[0].flatten(1) for each in maps]
    return [each @ each.T / each.shape[1] for each in flat]


def style_loss(maps: Sequence[Tensor], style: Sequence[Tensor]) -> Tensor:
    """The mean over maps of the squared difference of correlations, each as a share of the style's
    own square.
    """
    pairs = zip(correlations(maps), style, strict=True)
    return torch.stack(
        [
            (mine - theirs).square().sum() / theirs.square().sum().clamp(min=_TINY)
            for mine, theirs in pairs
        ]
    ).mean()


def restyled(
    backbone: Backbone,
    content: Tensor,
    style: Tensor,
    *,
    steps: int,
    weight: float,
    advance: Callable[[str], None] = lambda text: None,
) -> Restyled:
    """(3, H, W) and (3, H', W') in [0, 1]; the picture begins as the content in the style's
    colours. `weight`: of the style against the content.
    """
    backbone.requires_grad_(False)
    spec, shape = backbone.input, (1, 3, 1, 1)
    mean, deviation = (
        torch.tensor(values, device=content.device).view(shape) for values in (spec.mean, spec.std)
    )

    def seen(image: Tensor) -> list[Tensor]:
        features: Features = backbone((image[None] - mean) / deviation, _MAPS)
        return features.maps[:_DEPTHS]

    with torch.no_grad():
        first, wanted = seen(content), correlations(seen(style))
    middle = len(first) - 1
    power = first[middle].square().mean().clamp(min=_TINY)
    image = _recoloured(content, style).requires_grad_()
    optimizer = torch.optim.Adam([image], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    source = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        shift = torch.randint(_SHIFT, (2,), generator=source).tolist()
        maps = seen(image.roll(shift, (1, 2)))
        with torch.no_grad():
            there = seen(content.roll(shift, (1, 2)))[middle]
        losses = [style_loss(maps, wanted), functional.mse_loss(maps[middle], there) / power]
        loss = weight * losses[0] + losses[1] + _SMOOTH * _roughness(image)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(0, 1)
        advance(f"style {float(losses[0].detach()):.3f}")
    with torch.no_grad():
        begun, ended = style_loss(first, wanted), seen(image)
        content_loss = functional.mse_loss(ended[middle], first[middle]) / power
        return Restyled(
            image.detach(), (float(begun), float(style_loss(ended, wanted))), float(content_loss)
        )


def _recoloured(content: Tensor, style: Tensor) -> Tensor:
    """The content with the mean and deviation of each of the style's colours: from there the way is
    shorter.
    """
    (deviation, mean), (wanted, middle) = (
        torch.std_mean(each, dim=(1, 2), keepdim=True) for each in (content, style)
    )
    return ((content - mean) / deviation.clamp(min=1e-3) * wanted + middle).clamp(0, 1)


def _roughness(image: Tensor) -> Tensor:
    return (image[:, 1:] - image[:, :-1]).abs().mean() + (
        image[:, :, 1:] - image[:, :, :-1]
    ).abs().mean()
