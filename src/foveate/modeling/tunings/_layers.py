"""Which layers of a backbone a tuning can take hold of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from foveate.errors import UsageError
from foveate.modeling.backbones import Backbone


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def is_plain(module: nn.Module) -> bool:
    """A linear layer or an ungrouped convolution."""
    return is_linear(module) or (_convolves(module) and bool(module.groups == 1))


def is_any(module: nn.Module) -> bool:
    """A linear layer or a convolution, depthwise ones too."""
    return is_linear(module) or _convolves(module)


def _convolves(module: nn.Module) -> bool:
    """One that pads or standardises its weights in a way of its own (TensorFlow's "same", NFNets) is left alone: an update beside
    it would see other pixels, or merge into something else."""
    return isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward


def is_norm(module: nn.Module) -> bool:
    """A normalisation with a scale of its own."""
    return "norm" in type(module).__name__.lower() and isinstance(
        getattr(module, "weight", None), nn.Parameter
    )


def called(
    backbone: Backbone, fits: Callable[[nn.Module], bool], lacks: str, hint: str = "--tuning full"
) -> list[str]:
    """Names of the fitting modules that a forward pass calls; raises UsageError, which says what the backbone `lacks`.

    Some networks read a layer's weight without calling the layer (the fused attention of BEiT and EVA): what is put in the place of
    such a layer would train nothing, and change the answers only when it is merged.
    """
    names = {module: name for name, module in backbone.named_modules() if fits(module)}
    seen: set[nn.Module] = set()

    def note(module: nn.Module, *_: Any) -> None:
        seen.add(module)

    hooks = [module.register_forward_hook(note) for module in names]
    side, was_training = backbone.input.size, backbone.training
    with torch.inference_mode():
        backbone.eval().probe(torch.zeros(1, 3, side, side))
    backbone.train(was_training)
    for hook in hooks:
        hook.remove()
    found = [name for module, name in names.items() if module in seen]
    if not found:
        raise UsageError(f"this backbone has no {lacks}", where="tuning", hint=hint)
    return found
