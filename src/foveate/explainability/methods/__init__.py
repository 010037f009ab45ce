"""Explanation methods: which parts of an image are evidence for a prediction.

A method knows neither task nor data, only an image and a function that scores it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from foveate.modeling.backbones import Backbone
from foveate.registry import Registry


@dataclass(frozen=True)
class ExplainRequest:
    """What to explain.

    Attributes:
        image: (1, 3, S, S), normalized.
        score: (V, 3, S, S), variants of the image -> (V,), the score to explain; gradients flow.
        backbone: The network in `score`, in eval mode, for methods that read its layers.
        shared: What one method has computed for the others, by name.
    """

    image: Tensor
    score: Callable[[Tensor], Tensor]
    backbone: Backbone
    shared: dict[str, Any] = field(default_factory=dict)


class Explainer(ABC):
    """An explanation method.

    Attributes:
        summary: What the map shows, for reports.
    """

    summary: ClassVar[str]

    @abstractmethod
    def explain(self, request: ExplainRequest) -> Tensor:
        """Compute a map of the evidence.

        Args:
            request: What to explain.

        Returns:
            (h, w) float32 over the square that the network sees; higher is stronger evidence.

        Raises:
            UsageError: The method cannot read this backbone.
        """


DEFAULT_EXPLAINER = "hirescam"  # of reports and of the server
EXPLAINERS: Registry[Explainer] = Registry(
    "foveate.explainability.methods", Explainer, "explanation method", "explainers"
)
