"""Integrated gradients (Sundararajan et al. 2017), by captum.

The change of the score along the path from the mean color to the image, attributed to its pixels.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from foveate.errors import require_packages
from foveate.explainability.methods import Explainer, ExplainRequest

_STEPS = 32  # of the path
_BATCH_SIZE = 8
_CELL = (
    8  # px: the gradients of single pixels look like noise, so squares of this side are averaged
)


class IntegratedGradients(Explainer):
    """Integrated gradients, averaged over small squares."""

    summary: ClassVar[str] = "pixels that change the prediction, on the way from a blank image"

    def explain(self, request: ExplainRequest) -> Tensor:
        require_packages("explain", "captum")
        from captum.attr import IntegratedGradients as CaptumIntegratedGradients

        attribution = CaptumIntegratedGradients(request.score).attribute(
            request.image, baselines=0, n_steps=_STEPS, internal_batch_size=_BATCH_SIZE
        )
        pixels = attribution.detach().sum(1, keepdim=True).float()
        return functional.avg_pool2d(pixels, _CELL, ceil_mode=True)[0, 0].clamp(min=0)
