"""Ridge regression on one-hot classes, its penalty chosen on left-out folds."""

from __future__ import annotations

from foveate.modeling.classifiers.few_shot import Fitter, best_penalty, ridge
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings import Choice
from foveate.modeling.tunings._few_shot import ShotTuning


class Ridge(ShotTuning):
    def fitter(self, known: LabeledFeatures) -> tuple[Fitter, list[Choice]]:
        penalty, tried = best_penalty(known, self.unit)
        why = (
            ", ".join(f"{each:.3g}: {error:.3f}" for each, error in tried.items())
            or "no fold can tell"
        )
        return ridge(penalty), [
            ("head.penalty", penalty, f"least squared error of left-out images ({why})")
        ]
