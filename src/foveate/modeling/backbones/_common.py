"""What several backbone families share: descriptions and errors."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from foveate.errors import UsageError
from foveate.types import Provides

RANDOM = "random, as requested with --weights none"  # origin of weights
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def parameter_count(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def feature_names(provides: Collection[Provides]) -> tuple[str, ...]:
    """Return what a backbone provides as `ModelInfo` lists it."""
    return tuple(sorted(feature.value for feature in provides))


def no_drop_path_error(name: str) -> UsageError:
    """Return the error of networks without stochastic depth."""
    return UsageError(
        f"the backbone {name!r} has no stochastic depth", hint="--set training.drop_path=0"
    )


def no_offline_error(name: str, hint: str) -> UsageError:
    """Return the error of backbones whose weights are in no offline package."""
    return UsageError(
        f"no offline package contains weights of {name!r}", where="backbone.weights", hint=hint
    )


def check_size(size: int, step: int) -> None:
    """Refuse an input size that is not a multiple of `step`, both in px.

    Raises:
        UsageError: It is not.
    """
    if size % step:
        raise UsageError(
            f"the input size of this backbone must be a multiple of {step} px, got {size}",
            where="backbone.size",
            hint=f"--size {max(1, size // step) * step}",
        )
