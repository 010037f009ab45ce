"""Ridge regression on one-hot targets, with the penalty chosen on left-out folds."""

from __future__ import annotations

from typing import ClassVar

from foveate.messages import Message
from foveate.modeling.classifiers.few_shot import Fitter, best_penalty, ridge
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings import Adaptable, Tuning, with_end_of_range
from foveate.modeling.tunings._few_shot import FewShotTuning
from foveate.types import Decision


class Ridge(FewShotTuning):
    learns_numbers: ClassVar[bool] = True

    def fit_head(self, model: Adaptable, features: LabeledFeatures) -> list[Decision]:
        if features.numeric:  # a probe of numbers is a ridge regression already
            return Tuning.fit_head(self, model, features)
        return super().fit_head(model, features)

    def fitter(self, features: LabeledFeatures) -> tuple[Fitter, list[Decision]]:
        penalty, tried = best_penalty(features, self.l2_normalize)
        reason = Message("choice.no_fold", "default; too few images to choose by")
        if tried:
            reason = Message(
                "choice.squared_error",
                "squared error {error} on left-out images, the lowest for {count} values from "
                "{least:.3g} to {most:.3g}",
                error=f"{tried[penalty]:.3f}",
                count=len(tried),
                least=min(tried),
                most=max(tried),
            )
            reason = with_end_of_range(reason, penalty, tried)
        return ridge(penalty), [Decision("head.penalty", penalty, reason)]
