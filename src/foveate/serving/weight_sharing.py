"""Runs of one backbone hold it once, whatever was added to it in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from foveate.inference.predictor import Predictor, load_predictor
from foveate.modeling.weights import weights_fingerprint
from foveate.run.folder import Run

Known = dict[tuple[str, str, tuple[int, ...]], Tensor]


def loaded(places: Sequence[Path], device: str) -> list[Predictor]:
    """The predictors of finished runs. Where several have one backbone, what was added to it (LoRA and its kin) stays beside its
    weights: folded in, it would make them weights of its own."""
    backbones = [Run.open(place).recipe().backbone.model_dump_json() for place in places]
    several, known, found = Counter(backbones), Known(), []
    for place, backbone in zip(places, backbones, strict=True):
        found.append(load_predictor(place, device, merge=several[backbone] == 1))
        if len(places) > 1:
            share(found[-1].model.backbone, known)
    return found


def share(network: nn.Module, known: Known) -> int:
    """Tensors that are equal, bit for bit, to one that is known take its memory from now on; the others are known afterwards. Gives
    the bytes that this saved. The network must not be trained any more: what changes in one would change in all."""
    saved = 0
    for tensor in (*network.parameters(), *network.buffers()):
        key = weights_fingerprint({"": tensor}), str(tensor.device), tensor.stride()
        first = known.setdefault(key, tensor.data)
        if first.data_ptr() != tensor.data_ptr():
            saved += tensor.nbytes
            tensor.data = first
    return saved
