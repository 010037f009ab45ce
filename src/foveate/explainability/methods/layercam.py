"""Layer-CAM (Jiang et al. 2021): activations times positive gradients, at each position.

The maps of several depths are combined by their maximum.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.explainability.methods import Explainer, ExplainRequest
from foveate.explainability.methods._layers import (
    DEPTHS,
    Layer,
    deepest_layers,
    resize_to_finest,
)

_GAMMA = 2.0  # equation 8: the finer maps are scaled by tanh


class LayerCAM(Explainer):
    """Layer-CAM of several depths."""

    summary: ClassVar[str] = "positions that the prediction depends on, at several depths"

    def explain(self, request: ExplainRequest) -> Tensor:
        maps = [_map(layer) for layer in deepest_layers(request, DEPTHS)]
        first, *others = (map_ / map_.max().clamp(min=1e-12) for map_ in resize_to_finest(maps))
        return torch.stack([first, *(torch.tanh(_GAMMA * map_) for map_ in others)]).amax(0)


def _map(layer: Layer) -> Tensor:
    return (layer.gradient.clamp(min=0) * layer.output).sum(0).clamp(min=0)
