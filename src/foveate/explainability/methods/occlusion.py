"""Occlusion (Zeiler & Fergus 2014), by captum: how much the score drops if a square is covered.

It reads no layers, so it works with every network.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.errors import require_packages
from foveate.explainability.methods import Explainer, ExplainRequest

_CELLS = 14  # steps of the square along a side of the image
_COVERED = 3  # cells, side of the square that is covered
_BATCH_SIZE = 16


class Occlusion(Explainer):
    """Occlusion with squares that overlap, filled with the mean color."""

    summary: ClassVar[str] = "squares without which the score is lower"

    def explain(self, request: ExplainRequest) -> Tensor:
        require_packages("explain", "captum")
        from captum.attr import Occlusion as CaptumOcclusion

        side = request.image.shape[-1]
        cell = max(1, side // _CELLS)
        square = min(side, _COVERED * cell)
        with torch.no_grad():
            attribution: Tensor = CaptumOcclusion(request.score).attribute(
                request.image,
                (3, square, square),
                strides=(3, cell, cell),
                baselines=0,
                perturbations_per_eval=_BATCH_SIZE,
            )
        return attribution[0].mean(0).float().clamp(min=0)
