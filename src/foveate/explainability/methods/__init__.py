"""Which parts of a picture speak for an answer. An explainer knows neither task nor data, but a picture and a number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from foveate.modeling.backbones import Backbone
from foveate.registry import Registry


@dataclass(frozen=True)
class ExplainRequest:
    """`image`: (1, 3, S, S) normalised. `score`: (V, 3, S, S), variants of the picture -> (V,) how much they speak for the answer;
    gradients may flow. `backbone`: the network inside it, in eval mode, for those that look at its layers."""

    image: Tensor
    score: Callable[[Tensor], Tensor]
    backbone: Backbone


class Explainer(ABC):
    """`summary`: what the map says, for reports. `asks`: whether the map depends on what was asked."""

    summary: ClassVar[str]
    asks: ClassVar[bool] = True

    @abstractmethod
    def explain(self, asked: ExplainRequest) -> Tensor:
        """(h, w) float32 over the network's square, the greater the more a place speaks for the answer. Raises UsageError for a
        backbone that it cannot look into."""


USUAL = "hirescam"  # in reports
EXPLAINERS: Registry[Explainer] = Registry(
    "foveate.explainability.methods", Explainer, "explainer", "explainers"
)
