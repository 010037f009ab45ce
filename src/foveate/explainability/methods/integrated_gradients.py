"""Integrated gradients (Sundararajan et al. 2017), by captum: the score's change along the way from the mean colour to the picture,
shared out to the pixels."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from foveate.errors import need
from foveate.explainability.methods import Explainer, ExplainRequest

_STEPS, _AT_ONCE = 32, 8
_CELL = 8  # px, whose pixels are added up: single ones are noise to the eye


class IntegratedGradients(Explainer):
    summary: ClassVar[str] = "pixels that change the answer on the way from a blank picture"

    def explain(self, asked: ExplainRequest) -> Tensor:
        need("explain", "captum")
        from captum.attr import IntegratedGradients as Captum

        found = Captum(asked.score).attribute(
            asked.image, baselines=0, n_steps=_STEPS, internal_batch_size=_AT_ONCE
        )
        summed = found.detach().sum(1, keepdim=True).float()
        return functional.avg_pool2d(summed, _CELL, ceil_mode=True)[0, 0].clamp(min=0)
