"""LP++ (Huang et al. 2024): a linear probe blended with class means, without a learning rate.

The paper blends in text embeddings of class names; class means replace them here, so that every
backbone supports it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.messages import Message
from foveate.modeling.classifiers.few_shot import Fitter, best_scale, centroids, lpplus
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings._few_shot import FewShotTuning
from foveate.types import Decision


class LpPlus(FewShotTuning):
    l2_normalize: ClassVar[bool] = True
    default_scale: ClassVar[float] = 1.0  # its scores are logits already
    default_overrides: ClassVar[dict[str, Any]] = {"task.features": "pooled"}

    def fitter(self, features: LabeledFeatures) -> tuple[Fitter, list[Decision]]:
        alpha = best_scale(features, centroids, self.l2_normalize)
        text = "lowest log loss of the class means alone on left-out images"
        return lpplus(alpha), [Decision("head.alpha", alpha, Message("choice.lpplus_alpha", text))]
