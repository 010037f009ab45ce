"""Fine-tuning methods: which parameters are trainable, and what is added.

A tuning changes a model that does not know about it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.messages import Message
from foveate.modeling.backbones import Backbone
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.classifiers.solution import Solution
from foveate.registry import Registry
from foveate.types import Decision


class TuningSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Adaptable(Protocol):
    """What a tuning may change: a model with a backbone and a head.

    Attributes:
        classes: The class names.
        multilabel: Whether an image may have several of them.
    """

    backbone: Backbone
    head: nn.Module

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def multilabel(self) -> bool: ...


class Tuning(ABC):
    """Base class of fine-tuning methods.

    Attributes:
        needs_steps: False if the head is fitted in closed form on features of the frozen backbone.
        layerwise: whether learning rates fall towards the input (training.layer_decay).
        trains_backbone: whether parameters of the backbone, or that are added to it, are trained.
        trains_norms: whether normalization layers of the backbone are trained, so that it matters
            where their statistics come from (training.batch_norm).
        unmergeable: why added parameters cannot be merged into the network; empty if they can.
        search_rank: Position in the search of `--tuning auto`, cheapest first; None: not part of
            it.
            Of several with the same whole part, the first that fits the backbone and the task is
            tried.
        knows_classes: whether it can predict a class without a training image.
        needs_images: whether it needs training images at all.
        default_overrides: values of dotted recipe fields that suit it better than the general
            defaults; fields that the task lacks are skipped.
    """

    needs_steps: ClassVar[bool] = True
    layerwise: ClassVar[bool] = True
    trains_backbone: ClassVar[bool] = True
    trains_norms: ClassVar[bool] = True
    unmergeable: ClassVar[str] = ""
    search_rank: ClassVar[float | None] = None
    knows_classes: ClassVar[bool] = False
    needs_images: ClassVar[bool] = True
    default_overrides: ClassVar[dict[str, Any]] = {}
    Settings: ClassVar[type[TuningSettings]] = TuningSettings

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @classmethod
    def resolve_settings(cls, settings: dict[str, Any], classes: Sequence[str]) -> list[Decision]:
        """Decide what the settings leave open, or read what they point to (a file).

        The decisions are printed and written into the recipe.
        """
        return []

    @abstractmethod
    def apply(self, model: Adaptable) -> None:
        """Freeze, unfreeze or inject parameters; called once, before training and before loading.

        A run saves the parameters that require gradients afterwards.

        Raises:
            UsageError: the tuning cannot be applied to this backbone.
        """

    def fit_head(self, model: Adaptable, features: LabeledFeatures) -> list[Decision]:
        """Fit the head in closed form on the features of the training images.

        Called before the first step, or instead of all steps.

        Returns:
            What was chosen on the way, such as the regularization strength.
        """
        set_linear_head(model.head, features.solution)
        strength, tried = features.solution.strength, features.solution.tried
        reason = reason_of_strength(strength, tried, features)
        return [Decision("head.penalty" if features.numeric else "head.C", strength, reason)]

    def prepare_for_tensors(self, model: Adaptable, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Called before the tensors of a run are loaded; may resize what depends on its data."""

    def merge(self, model: Adaptable) -> None:
        """Merge added parameters into the weights, so that the plain network remains.

        Raises:
            UsageError: they cannot be merged (`unmergeable`).
        """
        if self.unmergeable:
            name = type(self).__module__.rpartition(".")[2]
            what = f"the parameters that the tuning {name!r} adds cannot be merged into the network"
            raise UsageError(
                what,
                why=self.unmergeable,
                hint="use the run unmerged, or fit with a tuning that merges, such as lora",
            )

    # --- hooks during training

    def begin_epoch(self, model: Adaptable, epoch: int, epochs: int) -> None:  # noqa: B027
        """Called before each epoch; may freeze parameters that `apply` unfroze."""

    def add_gradients(self, model: Adaptable) -> None:  # noqa: B027
        """Called after each backward pass; may add the gradient of a penalty."""

    def after_step(self, model: Adaptable, step: int, steps: int) -> None:  # noqa: B027
        """Called after each optimizer step, 0 <= step < steps, before gradients are cleared."""

    def state(self) -> dict[str, Tensor]:
        """State beyond the parameters, saved in checkpoints for exact resume."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restore what `state` returned."""


def reason_of_strength(
    strength: float, tried: Mapping[float, float], features: LabeledFeatures
) -> Message:
    """Return why a regularization strength was chosen: its loss among those that were tried."""
    loss = tried[strength]
    if features.numeric:
        return _reason_of_penalty(strength, tried, features)
    if math.isnan(loss):
        text = "default: no choice by cross-validation, which needs two classes outside each fold"
        return Message("choice.no_usable_fold", text)
    reason = Message(
        "choice.log_loss",
        "log loss {loss} over {folds}, the lowest for {count} values from {least:g} to {most:g}",
        loss=f"{loss:.3f}",
        folds=folds_text(features),
        count=len(tried),
        least=min(tried),
        most=max(tried),
    )
    return with_end_of_range(reason, strength, tried)


def _reason_of_penalty(
    penalty: float, tried: Mapping[float, float], features: LabeledFeatures
) -> Message:
    if math.isnan(tried[penalty]):
        return Message("choice.one_fold", "default: too few groups of images to choose by")
    reason = Message(
        "choice.squared_error_of_numbers",
        "mean squared error {error} of standardized numbers over {folds}, the lowest for {count} "
        "values from {least:g} to {most:g}",
        error=f"{tried[penalty]:.3f}",
        folds=folds_text(features),
        count=len(tried),
        least=min(tried),
        most=max(tried),
    )
    return with_end_of_range(reason, penalty, tried)


def with_end_of_range(reason: Message, value: float, tried: Collection[float]) -> Message:
    """Return the reason for a value, which also says if it is the end of the range tried."""
    if value == max(tried):
        text = "{reason}, of which it is the largest"
        return Message("choice.largest_tried", text, reason=reason)
    if value == min(tried):
        text = "{reason}, of which it is the smallest"
        return Message("choice.smallest_tried", text, reason=reason)
    return reason


def folds_text(features: LabeledFeatures) -> Message:
    """Return "5 folds", and that they keep groups together where there are any."""
    count = len(set(features.folds))
    if features.grouped:
        text = "{count:fold|folds} that keep near-duplicates or groups together"
        return Message("choice.group_folds", text, count=count)
    return Message("choice.folds", "{count:fold|folds}", count=count)


def set_linear_head(head: Any, solution: Solution) -> None:
    """Copy the weights of `solution` into a linear head."""
    with torch.no_grad():
        head.mean.copy_(torch.from_numpy(solution.mean))
        head.std.copy_(torch.from_numpy(solution.scale))
        head.linear.weight.copy_(torch.from_numpy(solution.weight))
        head.linear.bias.copy_(torch.from_numpy(solution.bias))


TUNINGS: Registry[Tuning] = Registry("foveate.modeling.tunings", Tuning, "tuning")
