"""Base class of tunings whose head is computed in closed form from a few images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from foveate.errors import UsageError
from foveate.messages import Message
from foveate.modeling.classifiers.few_shot import DEFAULT_SCALE, Fitter, solve_few_shot
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.tunings import Adaptable, Tuning, set_linear_head
from foveate.types import Decision

_HINT = "--tuning probe supports several classes per image"


class FewShotTuning(Tuning):
    """Base of tunings whose head is computed in closed form.

    Attributes:
        l2_normalize: Scale features to length 1.
        learns_numbers: Whether it fits numbers as well as classes.
        default_scale: Factor from scores to logits, if there are too few images to choose one.
    """

    needs_steps: ClassVar[bool] = False
    l2_normalize: ClassVar[bool] = False
    default_scale: ClassVar[float] = DEFAULT_SCALE
    learns_numbers: ClassVar[bool] = False

    def apply(self, model: Adaptable) -> None:
        head: Any = model.head
        if not hasattr(head, "linear"):
            hint = "--tuning head trains the head; full, last and lora also train the backbone"
            raise UsageError(
                "the head of this task has no closed-form solution", where="tuning", hint=hint
            )
        if not (model.classes or self.learns_numbers):
            hint = "--tuning probe fits the head to numbers in closed form"
            raise UsageError("this tuning learns classes only", where="tuning", hint=hint)
        model.backbone.requires_grad_(False)
        head.requires_grad_(True)
        head.l2_normalize = self.l2_normalize

    @abstractmethod
    def fitter(self, features: LabeledFeatures) -> tuple[Fitter, list[Decision]]:
        """Return the classifier, and the decisions made for it."""

    def fit_head(self, model: Adaptable, features: LabeledFeatures) -> list[Decision]:
        require_single_label(features)
        fit, choices = self.fitter(features)
        solution, scale = solve_few_shot(features, fit, self.l2_normalize, self.default_scale)
        set_linear_head(model.head, solution)
        text = "lowest log loss on left-out images; {default} where there are too few to choose by"
        reason = Message("choice.head_scale", text, default=f"{self.default_scale:g}")
        return [*choices, Decision("head.scale", scale, reason)]


def require_single_label(features: LabeledFeatures) -> None:
    if features.multilabel:
        raise UsageError("this tuning supports one class per image", where="tuning", hint=_HINT)
