"""Grad-CAM (Selvaraju et al. 2017): the channels of the deepest maps, weighted by their gradients.

The weight of a channel is the mean of its gradient over all positions.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from foveate.explainability.methods import Explainer, ExplainRequest
from foveate.explainability.methods._layers import spatial_layers


class GradCAM(Explainer):
    """Grad-CAM of the last layer."""

    summary: ClassVar[str] = "where the channels that the prediction depends on are active"

    def explain(self, request: ExplainRequest) -> Tensor:
        last = spatial_layers(request)[-1]
        weights = last.gradient.mean((1, 2), keepdim=True)
        return (weights * last.output).sum(0).clamp(min=0)
