"""Which layers of a backbone a tuning can attach to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from foveate.errors import UsageError
from foveate.modeling.backbones import Backbone


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def is_linear_or_conv(module: nn.Module) -> bool:
    """Whether it is a linear layer or an ungrouped convolution."""
    return is_linear(module) or (_is_standard_conv(module) and bool(module.groups == 1))


def is_linear_or_any_conv(module: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution, depthwise ones included."""
    return is_linear(module) or _is_standard_conv(module)


def _is_standard_conv(module: nn.Module) -> bool:
    """Whether it is a plain Conv2d.

    Layers that pad or standardize weights in their own way (TensorFlow's "same", NFNets) are left
    alone: an update beside them would see other pixels, or merge into something else.
    """
    return isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward


def is_norm(module: nn.Module) -> bool:
    """Whether it is a normalization layer with a learned scale."""
    return "norm" in type(module).__name__.lower() and isinstance(
        getattr(module, "weight", None), nn.Parameter
    )


def active_layers(
    backbone: Backbone, fits: Callable[[nn.Module], bool], kind: str, hint: str = "--tuning full"
) -> list[str]:
    """Return the names of the modules that fit and that a forward pass calls.

    Some networks read the weight of a layer without calling the layer (the fused attention of BEiT
    and EVA): an adapter on such a layer would train nothing, and change predictions only once
    merged.

    Args:
        backbone: The network; it is run once on an empty image.
        fits: Which modules are wanted.
        kind: What they are, for the message ("linear layer").
        hint: What to try when there are none.

    Raises:
        UsageError: The backbone has no such layer.
    """
    names = {module: name for name, module in backbone.named_modules() if fits(module)}
    called_modules: set[nn.Module] = set()

    def record(module: nn.Module, *_: Any) -> None:
        called_modules.add(module)

    hooks = [module.register_forward_hook(record) for module in names]
    spec, was_training = backbone.input, backbone.training
    with torch.inference_mode():
        backbone.eval().probe(torch.zeros(1, spec.channels, spec.size, spec.size))
    backbone.train(was_training)
    for hook in hooks:
        hook.remove()
    active = [name for module, name in names.items() if module in called_modules]
    if not active:
        raise UsageError(f"this backbone has no {kind}", where="tuning", hint=hint)
    return active
