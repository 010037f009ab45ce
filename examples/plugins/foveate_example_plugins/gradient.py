"""The gradient of the score with respect to the pixels (Simonyan et al. 2014)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.explainability.methods import Explainer, ExplainRequest


class Gradient(Explainer):
    summary: ClassVar[str] = "pixels whose change would change the score most"

    def explain(self, asked: ExplainRequest) -> Tensor:
        """(S, S): the largest absolute gradient of the three color channels."""
        image = asked.image.detach().clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(asked.score(image).sum(), image)
        return gradient.abs().amax(1)[0]
