"""LP++ (Huang et al. 2024): a linear probe that begins at the class means and blends them in, without a rate to choose.

The paper blends in the embeddings of class names. Here the class means stand in their place, so that every backbone can take it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.modeling.classifiers.few_shot import Fitter, best_scale, centroids, lpplus
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings import Choice
from foveate.modeling.tunings._few_shot import ShotTuning


class LpPlus(ShotTuning):
    unit: ClassVar[bool] = True
    usual: ClassVar[float] = 1.0  # what it descends to are logits
    default_overrides: ClassVar[dict[str, Any]] = {"task.features": "pooled"}

    def fitter(self, known: LabeledFeatures) -> tuple[Fitter, list[Choice]]:
        alpha = best_scale(known, centroids, self.unit)
        return lpplus(alpha), [
            ("head.alpha", alpha, "the class means alone lose least with it on left-out images")
        ]
