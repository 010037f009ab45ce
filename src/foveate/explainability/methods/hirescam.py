"""HiResCAM (Draelos & Carin 2020): each place of the maps by as much as the score depends on it there, of several depths."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from foveate.explainability.methods import Explainer, ExplainRequest
from foveate.explainability.methods._layers import DEPTHS, Layer, deepest


class HiResCAM(Explainer):
    """Grad-CAM takes the mean of the gradient over all places first, which says nothing where a head reads the greatest value or a
    grid; heads on maps of several depths are seen at each, and the mean is taken of what they say."""

    summary: ClassVar[str] = (
        "places on which the answer depends, at several depths, with their sign"
    )

    def explain(self, asked: ExplainRequest) -> Tensor:
        maps = [_map(layer) for layer in deepest(asked, DEPTHS)]
        size = maps[-1].shape[-2:]
        wide = [
            functional.interpolate(each[None, None], size, mode="bilinear", align_corners=False)[
                0, 0
            ]
            for each in maps
        ]
        return torch.stack(wide).mean(0)


def _map(layer: Layer) -> Tensor:
    """In [0, 1]."""
    found = (layer.gradient * layer.output).sum(0).clamp(min=0)
    return found / found.max().clamp(min=1e-12)
