"""Equal weights of several runs in the same memory, such as those of a common backbone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from foveate.inference.predictor import Predictor, load_predictor
from foveate.modeling.weights import weights_fingerprint
from foveate.run.folder import Run

SharedTensors = dict[tuple[str, str, tuple[int, ...]], Tensor]
"""(fingerprint, device, strides) -> the data that equal tensors share"""


def load_predictors(runs: Sequence[Path], device: str) -> list[Predictor]:
    """Load finished runs; those with the same backbone hold its weights once.

    Adapters (LoRA and similar) of such runs are not merged: merged weights would differ.
    """
    backbones = [Run.open(run).recipe().backbone.model_dump_json() for run in runs]
    counts, shared, predictors = Counter(backbones), SharedTensors(), list[Predictor]()
    for run, backbone in zip(runs, backbones, strict=True):
        predictors.append(load_predictor(run, device, merge=counts[backbone] == 1))
        if len(runs) > 1:
            share_equal_tensors(predictors[-1].model.backbone, shared)
    return predictors


def share_equal_tensors(network: nn.Module, shared: SharedTensors) -> int:
    """Let tensors of a network use the memory of known tensors that are equal, bit for bit.

    The network must not be trained afterwards: what changes in one would change in all.

    Args:
        network: The network.
        shared: The known tensors; the others of the network are added.

    Returns:
        The number of bytes saved.
    """
    saved = 0
    for tensor in (*network.parameters(), *network.buffers()):
        key = weights_fingerprint({"": tensor}), str(tensor.device), tensor.stride()
        first = shared.setdefault(key, tensor.data)
        if first.data_ptr() != tensor.data_ptr():
            saved += tensor.nbytes
            tensor.data = first
    return saved
