"""Ridge regression on one-hot targets, with the penalty chosen on left-out folds."""

from __future__ import annotations

from foveate.messages import Message
from foveate.modeling.classifiers.few_shot import Fitter, best_penalty, ridge
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings._few_shot import FewShotTuning
from foveate.types import Decision


class Ridge(FewShotTuning):
    def fitter(self, features: LabeledFeatures) -> tuple[Fitter, list[Decision]]:
        penalty, tried = best_penalty(features, self.l2_normalize)
        errors = ", ".join(f"{each:.3g}: {error:.3f}" for each, error in tried.items())
        text = "lowest squared error on left-out images ({tried})"
        reason = Message("choice.lowest_squared_error", text, tried=errors)
        if not tried:
            reason = Message("choice.no_fold", "default; too few images to choose by")
        return ridge(penalty), [Decision("head.penalty", penalty, reason)]
