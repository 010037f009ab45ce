"""Statistics of the inputs of normalization layers, in a source and in a target domain."""

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
    """Mean and variance of the inputs of a normalization layer, by channel.

    Attributes:
        mean_sum: (C,) float64, sum over images of their means.
        square_sum: (C,) float64, sum over images of their mean squares.
        count: number of images.
    """

    mean_sum: Tensor
    square_sum: Tensor
    count: int = 0

    @classmethod
    def zeros(cls, like: Tensor) -> Moments:
        zeros = torch.zeros_like(like, dtype=torch.float64)
        return cls(zeros, zeros.clone())

    def add(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Add the statistics (C,) of a batch of `count` images."""
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
    """Return the layers that hold running statistics, by name: batch normalization, also frozen."""
    return {
        name: module
        for name, module in network.named_modules()
        if getattr(module, "running_mean", None) is not None
    }


@torch.no_grad()
def measure_moments(
    network: nn.Module, batches: Iterable[Batch], like: dict[str, Moments] | None = None
) -> dict[str, Moments]:
    """Measure the inputs of each layer that holds running statistics.

    Args:
        network: In eval mode.
        batches: Images.
        like: If given, each input is moved to these moments, batch by batch: so later layers get
            what they will get once all layers before them are aligned.
    """
    modules = norms_with_statistics(network)
    moments = {name: Moments.zeros(module.running_mean) for name, module in modules.items()}
    with ExitStack() as hooks:
        for name, module in modules.items():
            recorder = _Recorder(moments[name], None if like is None else like[name])
            hooks.enter_context(module.register_forward_pre_hook(recorder))
        for batch in batches:
            network(batch)
    return moments


@dataclass
class _Recorder:
    """A forward pre-hook of a normalization layer."""

    moments: Moments
    like: Moments | None

    def __call__(self, module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        images = inputs[0]
        axes = [axis for axis in range(images.dim()) if axis != 1]
        variance, mean = torch.var_mean(images.float(), dim=axes, correction=0)
        self.moments.add(mean, variance, len(images))
        if self.like is None:
            return None
        shape = (1, -1, *[1] * (images.dim() - 2))
        scale = ((self.like.variance + module.eps) / (variance + module.eps)).sqrt()
        shift = self.like.mean - mean * scale
        moved = images * scale.to(images).view(shape) + shift.to(images).view(shape)
        return (moved, *inputs[1:])


@torch.no_grad()
def align(
    network: nn.Module, source: dict[str, Moments], target: dict[str, Moments], share: float
) -> None:
    """Set running statistics that normalize target images as source images were.

    If the network has learned its statistics on the source images, they become those of the target
    images (AdaBN). If it has kept those of its pretraining, which are not those of the source, the
    difference between the two stays as it was: standard deviations are scaled by the ratio of
    target and source, and means move accordingly.

    On the way, means move along a line and standard deviations by equal factors: a contrast of a
    tenth of the source's would drown in a mean of the variances.

    Args:
        network: Changed in place.
        source: Moments of the source images, by layer.
        target: Moments of the target images.
        share: How much of the way to go, 0 to 1.
    """
    for name, module in norms_with_statistics(network).items():
        before, after = source[name], target[name]
        ratio = (after.variance + module.eps) / (before.variance + module.eps)
        mean = after.mean - (before.mean - module.running_mean) * ratio.sqrt()
        module.running_mean.lerp_(mean.to(module.running_mean), share)
        module.running_var.copy_((module.running_var + module.eps) * ratio**share - module.eps)
