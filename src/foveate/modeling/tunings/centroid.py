"""The nearest class mean: prototypes (Snell et al. 2017) of centred features of length 1 (SimpleShot, Wang et al. 2019)."""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.modeling.classifiers.few_shot import Fitter, centroids
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings import Choice
from foveate.modeling.tunings._few_shot import ShotTuning


class Centroid(ShotTuning):
    unit: ClassVar[bool] = True
    default_overrides: ClassVar[dict[str, Any]] = {"task.features": "pooled"}

    def fitter(self, known: LabeledFeatures) -> tuple[Fitter, list[Choice]]:
        return centroids, []
