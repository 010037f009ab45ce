"""What tunings share whose head comes from a formula."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from foveate.errors import UsageError
from foveate.modeling.classifiers.few_shot import USUAL, Fitter, solved
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings import Adaptable, Choice, Tuning, into_head

_ONE = "--tuning probe takes several classes an image"


class ShotTuning(Tuning):
    """`unit`: whether features are brought to length 1. `usual`: what turns scores into logits where no fold can tell."""

    needs_steps: ClassVar[bool] = False
    unit: ClassVar[bool] = False
    usual: ClassVar[float] = USUAL

    def apply(self, model: Adaptable) -> None:
        head: Any = model.head
        if not hasattr(head, "linear"):
            hint = "--tuning head trains it; full, last and lora the backbone too"
            raise UsageError(
                "this task's head cannot be solved in closed form", where="tuning", hint=hint
            )
        model.backbone.requires_grad_(False)
        head.requires_grad_(True)
        head.l2_normalize = self.unit

    @abstractmethod
    def fitter(self, known: LabeledFeatures) -> tuple[Fitter, list[Choice]]:
        """The formula, and what was chosen for it."""

    def fit_head(self, model: Adaptable, known: LabeledFeatures) -> list[Choice]:
        refuse_several(known)
        fit, choices = self.fitter(known)
        solution, scale = solved(known, fit, self.unit, self.usual)
        into_head(model.head, solution)
        return [
            *choices,
            (
                "head.scale",
                scale,
                f"least log loss of left-out images; {self.usual:g} where none can be left out",
            ),
        ]


def refuse_several(known: LabeledFeatures) -> None:
    if known.multilabel:
        raise UsageError("this tuning takes one class an image", where="tuning", hint=_ONE)
