"""Nearest class mean (Snell et al. 2017) on centered features of length 1 (SimpleShot, Wang et al.
2019)."""

from __future__ import annotations

from typing import Any, ClassVar

from foveate.modeling.classifiers.few_shot import Fitter, centroids
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings._few_shot import FewShotTuning
from foveate.types import Decision


class Centroid(FewShotTuning):
    l2_normalize: ClassVar[bool] = True
    default_overrides: ClassVar[dict[str, Any]] = {"task.features": "pooled"}

    def fitter(self, features: LabeledFeatures) -> tuple[Fitter, list[Decision]]:
        return centroids, []
