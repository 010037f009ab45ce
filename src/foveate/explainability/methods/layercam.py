"""Layer-CAM (Jiang et al. 2021): each place of the maps as much as the score depends on it, of several depths."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from foveate.explainability.methods import Explainer, ExplainRequest
from foveate.explainability.methods._layers import DEPTHS, Layer, deepest

_SHARP = 2.0  # equation 8: finer maps are stretched by tanh


class LayerCAM(Explainer):
    summary: ClassVar[str] = "places on which the answer depends, at several depths"

    def explain(self, asked: ExplainRequest) -> Tensor:
        maps = [_map(layer) for layer in deepest(asked, DEPTHS)]
        size = maps[-1].shape[-2:]
        wide = [
            functional.interpolate(each[None, None], size, mode="bilinear", align_corners=False)[
                0, 0
            ]
            for each in maps
        ]
        first = wide[0] / wide[0].max().clamp(min=1e-12)
        others = [torch.tanh(_SHARP * each / each.max().clamp(min=1e-12)) for each in wide[1:]]
        return torch.stack([first, *others]).amax(0)


def _map(layer: Layer) -> Tensor:
    return (layer.gradient.clamp(min=0) * layer.output).sum(0).clamp(min=0)
