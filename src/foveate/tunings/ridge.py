"""Ridge regression on one-hot classes, its penalty chosen on left-out folds."""

from __future__ import annotations

from foveate.linear import Known
from foveate.shots import Fitter, best_penalty, ridge
from foveate.tunings import Choice
from foveate.tunings._shots import ShotTuning


class Ridge(ShotTuning):
    def fitter(self, known: Known) -> tuple[Fitter, list[Choice]]:
        penalty, tried = best_penalty(known, self.unit)
        why = ", ".join(f"{each:.3g}: {error:.3f}" for each, error in tried.items()) or "no fold can tell"
        return ridge(penalty), [("head.penalty", penalty, f"least squared error of left-out images ({why})")]
