"""Occlusion (Zeiler & Fergus 2014), by captum: how much of the score is lost when a square is covered. No layer is looked into:
every network will do."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.errors import need
from foveate.explainability.methods import Explainer, ExplainRequest

_CELLS, _WIDE, _AT_ONCE = (
    14,
    3,
    16,
)  # cells along a side, cells that are covered along each, pictures at once


class Occlusion(Explainer):
    summary: ClassVar[str] = "squares without which the answer is weaker"

    def explain(self, asked: ExplainRequest) -> Tensor:
        need("explain", "captum")
        from captum.attr import Occlusion as Captum

        cell = max(1, asked.image.shape[-1] // _CELLS)
        square = min(asked.image.shape[-1], _WIDE * cell)
        with torch.no_grad():
            found: Tensor = Captum(asked.score).attribute(
                asked.image,
                (3, square, square),
                strides=(3, cell, cell),
                baselines=0,
                perturbations_per_eval=_AT_ONCE,
            )
        return found[0].mean(0).float().clamp(min=0)
