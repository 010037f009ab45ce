"""Linear interpolation of weights, between the start and the end of a training or between runs.

Networks fine-tuned from the same initialization are so close that the average of their weights is a
good network as well, often better than each (Wortsman et al. 2022, "Model soups" and "Robust
fine-tuning of zero-shot models").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from foveate.errors import WeightsError
from foveate.modeling.model import Model
from foveate.types import Batch
from foveate.utils.device import ComputeMode, to_device

Tensors = dict[str, Tensor]


def interpolate(start: Tensors, end: Tensors, share: float) -> Tensors:
    """Interpolate (1 - share) * start + share * end, for weights and floating-point buffers.

    At 0 and 1 the tensors are bit-identical to `start` and `end`. Integer counters are those of
    `end`.
    """
    if share in (0, 1):
        return end if share else start
    return {
        name: torch.lerp(start[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in end.items()
    }


def equal_tensors(one: Tensors, other: Tensors) -> bool:
    return one is other or all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def check_same_tensors(tensors: Tensors, expected: Tensors, where: object) -> None:
    """Check that `tensors` have the names and shapes of `expected`.

    Raises:
        WeightsError: They differ.
    """
    differing = sorted(tensors.keys() ^ expected.keys()) or [
        name for name in expected if tensors[name].shape != expected[name].shape
    ]
    if differing:
        count = f"{len(differing)} of {len(expected)}"
        why = f"tensors that do not fit: {count}, the first of them {differing[0]!r}"
        raise WeightsError(
            "the weights of this run cannot be averaged with the others", where=where, why=why
        )


@torch.no_grad()
def recompute_batch_statistics(
    model: Model, batches: Iterable[Batch], device: torch.device, mode: ComputeMode
) -> Tensors:
    """Recompute batch-normalization statistics for the model's current weights, by name.

    One pass; each statistic is the mean over the batches (SWA, Izmailov et al. 2018, section 3.2).
    Only layers that learned their statistics in training are updated; those kept from pretraining
    are part of the frozen network. Everything else is in eval mode.
    """
    model.train()
    learning: dict[str, Any] = {
        name: module for name, module in model.named_modules() if _learns_statistics(module)
    }
    model.eval()
    momenta = {name: module.momentum for name, module in learning.items()}
    for module in learning.values():
        module.reset_running_stats()
        module.momentum = None  # a plain mean over the batches
        module.train()
    for batch in batches if learning else ():
        with mode.autocast(device):
            model(to_device(batch, device, mode))
    statistics = {}
    for name, module in learning.items():
        module.momentum = momenta[name]
        module.eval()
        statistics[f"{name}.running_mean"] = module.running_mean
        statistics[f"{name}.running_var"] = module.running_var
    return {name: tensor.cpu().clone() for name, tensor in statistics.items()}


def _learns_statistics(module: torch.nn.Module) -> bool:
    return module.training and getattr(module, "running_mean", None) is not None
