"""Grad-CAM (Selvaraju et al. 2017): the channels of the deepest maps, each as much as the score depends on it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from foveate.explainability.methods import Explainer, ExplainRequest
from foveate.explainability.methods._layers import layers


class GradCAM(Explainer):
    summary: ClassVar[str] = "where channels lie on which the answer depends"

    def explain(self, asked: ExplainRequest) -> Tensor:
        last = layers(asked)[-1]
        weights = last.gradient.mean((1, 2), keepdim=True)
        return (weights * last.output).sum(0).clamp(min=0)
