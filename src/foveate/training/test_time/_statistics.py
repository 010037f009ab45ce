"""What arrives at the normalisations of a network at home and away, and statistics under which the one looks like the other."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.types import Batch


@dataclass
class Moments:
    """Of the inputs of one normalisation, a channel each, over places and `count` images: sums of mean and mean square by image."""

    mean_sum: Tensor
    square_sum: Tensor
    count: int = 0

    @classmethod
    def none(cls, like: Tensor) -> Moments:
        return cls(
            torch.zeros_like(like, dtype=torch.float64), torch.zeros_like(like, dtype=torch.float64)
        )

    def add(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.mean_sum += count * mean.double()
        self.square_sum += count * (variance + mean**2).double()
        self.count += count

    @property
    def mean(self) -> Tensor:
        return self.mean_sum / self.count

    @property
    def variance(self) -> Tensor:
        return (self.square_sum / self.count - self.mean**2).clamp(min=0)


def norms_with_statistics(network: nn.Module) -> dict[str, Any]:
    """The normalisations that hold statistics of earlier images, by name: batch normalisation, frozen or not."""
    return {
        name: module
        for name, module in network.named_modules()
        if getattr(module, "running_mean", None) is not None
    }


@torch.no_grad()
def measure_moments(
    network: nn.Module, batches: Iterable[Batch], like: dict[str, Moments] | None = None
) -> dict[str, Moments]:
    """The moments of what arrives at each normalisation with statistics. With `like` what arrives is moved to those moments a batch
    at a time before it goes on, so that the layers behind see what they will see when all before them are mended."""
    modules = norms_with_statistics(network)
    found = {name: Moments.none(module.running_mean) for name, module in modules.items()}
    with ExitStack() as hooks:
        for name, module in modules.items():
            watch = _Watch(found[name], None if like is None else like[name])
            hooks.enter_context(module.register_forward_pre_hook(watch))
        for batch in batches:
            network(batch)
    return found


@dataclass
class _Watch:
    """A hook before a normalisation."""

    moments: Moments
    like: Moments | None

    def __call__(self, module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        images = inputs[0]
        variance, mean = torch.var_mean(
            images.float(), dim=[axis for axis in range(images.dim()) if axis != 1], correction=0
        )
        self.moments.add(mean, variance, len(images))
        if self.like is None:
            return None
        wide = (1, -1, *[1] * (images.dim() - 2))
        scale = ((self.like.variance + module.eps) / (variance + module.eps)).sqrt()
        shift = self.like.mean - mean * scale
        return (images * scale.to(images).view(wide) + shift.to(images).view(wide), *inputs[1:])


@torch.no_grad()
def align(
    network: nn.Module, home: dict[str, Moments], away: dict[str, Moments], share: float
) -> None:
    """Puts statistics into the network under which the images `away` are normalised as those at `home` were: the deviation times
    the ratio of the two, the mean moved accordingly. `share`: how much of the way, 0 to 1.

    On the way, means move along a line and deviations by equal factors: contrast that is a tenth of that at home would drown in a
    mean of the variances.

    Where the network has learnt its statistics at home, they become those of the images away (AdaBN). Where it has kept those of
    its pretraining, which are not those of home, the difference between the two stays as it was.
    """
    for name, module in norms_with_statistics(network).items():
        here, there = home[name], away[name]
        ratio = (there.variance + module.eps) / (here.variance + module.eps)
        mean = there.mean - (here.mean - module.running_mean) * ratio.sqrt()
        module.running_mean.lerp_(mean.to(module.running_mean), share)
        module.running_var.copy_((module.running_var + module.eps) * ratio**share - module.eps)
