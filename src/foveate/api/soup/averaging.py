"""Averages of weights: the line from the start of a training to its end, or from one training to another.

Networks that were tuned from one beginning lie so close together that the average of their weights is a network as well, often a
better one than each (Wortsman et al. 2022, "Model soups" and "Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from foveate.errors import WeightsError
from foveate.modeling.model import Model
from foveate.types import Batch
from foveate.utils.device import ComputeMode

Tensors = dict[str, Tensor]


def between(start: Tensors, end: Tensors, share: float) -> Tensors:
    """(1 - share) * start + share * end, a tensor at a time: floating-point buffers as well as weights. At 0 and at 1 the two
    themselves, bit for bit. Counters, which have no average, are those of the end."""
    if share in (0, 1):
        return end if share else start
    return {
        name: torch.lerp(start[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in end.items()
    }


def same(one: Tensors, other: Tensors) -> bool:
    return one is other or all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def refuse_strangers(found: Tensors, own: Tensors, where: object) -> None:
    """Raises WeightsError when the tensors at `where` are not those of the network: others by name, or of another shape."""
    odd = sorted(found.keys() ^ own.keys()) or [
        name for name in own if found[name].shape != own[name].shape
    ]
    if odd:
        why = f"{len(odd)} of {len(own)} tensors do not fit, first {odd[0]!r}"
        raise WeightsError(
            "the weights of this run cannot be averaged with the others", where=where, why=why
        )


@torch.no_grad()
def measured_statistics(
    model: Model, batches: Iterable[Batch], device: torch.device, way: ComputeMode
) -> Tensors:
    """The statistics of batch normalisation as the weights in the model make them, in one pass over the `batches`, by name.

    Each is the mean over the batches (SWA, Izmailov et al. 2018, section 3.2). Only what learnt its statistics in training does so
    here: those that were kept from pretraining are part of the fixed network. All else is in eval mode, as for an answer.
    """
    model.train()
    learning: dict[str, Any] = {
        name: module for name, module in model.named_modules() if _learns(module)
    }
    model.eval()
    momenta = {name: module.momentum for name, module in learning.items()}
    for module in learning.values():
        module.reset_running_stats()
        module.momentum = None  # a plain mean over the batches
        module.train()
    for batch in batches if learning else ():
        with way.autocast(device):
            model(batch.to(device, memory_format=way.memory_format))
    found = {}
    for name, module in learning.items():
        module.momentum = momenta[name]
        module.eval()
        found[f"{name}.running_mean"], found[f"{name}.running_var"] = (
            module.running_mean,
            module.running_var,
        )
    return {name: tensor.cpu().clone() for name, tensor in found.items()}


def _learns(module: torch.nn.Module) -> bool:
    return module.training and getattr(module, "running_mean", None) is not None
