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
        output: (V, 3, S, S), variants of the image -> the output of the network.
        score_of: That output -> (V,), the score to explain; gradients flow.
        backbone: The network in `output`, in eval mode, for methods that read its layers.
        of_image: What has been computed of the image already, by name; shared by all scores.
        of_score: What has been computed of the score already, by name; shared by all methods.
    """

    image: Tensor
    output: Callable[[Tensor], Any]
    score_of: Callable[[Any], Tensor]
    backbone: Backbone
    of_image: dict[str, Any] = field(default_factory=dict)
    of_score: dict[str, Any] = field(default_factory=dict)

    def score(self, images: Tensor) -> Tensor:
        """Return the scores (V,) of variants (V, 3, S, S) of the image."""
        return self.score_of(self.output(images))


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
