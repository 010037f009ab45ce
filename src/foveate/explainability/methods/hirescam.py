"""HiResCAM (Draelos & Carin 2020): activation times gradient at each position, at several depths.

Grad-CAM first averages the gradient over all positions, which is meaningless where a head reads the
maximum or a grid. Heads may read maps of several depths; the maps of these are averaged.
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


class HiResCAM(Explainer):
    """The mean of HiResCAM at several depths."""

    summary: ClassVar[str] = "positions that support the prediction, at several depths"

    def explain(self, request: ExplainRequest) -> Tensor:
        maps = [_normalized_map(layer) for layer in deepest_layers(request, DEPTHS)]
        return torch.stack(resize_to_finest(maps)).mean(0)


def _normalized_map(layer: Layer) -> Tensor:
    """Return HiResCAM of one layer, scaled to [0, 1]."""
    map_ = (layer.gradient * layer.output).sum(0).clamp(min=0)
    return map_ / map_.max().clamp(min=1e-12)
