"""Which weights move, and how. A tuning changes a model that does not know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.modeling.backbones import Backbone
from foveate.modeling.classifiers.logistic import LabeledFeatures, Solution
from foveate.registry import Registry

Choice = tuple[str, Any, str]
"""What was chosen for the user: a field, its value, the reason."""


class TuningSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Adaptable(Protocol):
    """What a tuning may touch: a module with these two parts. `classes`: the names that it answers with. `multilabel`: whether
    several of them may hold for one image."""

    backbone: Backbone
    head: nn.Module

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def multilabel(self) -> bool: ...


class Tuning(ABC):
    """One way to adapt.

    `needs_steps`: False when the head is solved on features of the frozen backbone and nothing else moves.
    `layerwise`: whether learning rates fall towards the input (training.layer_decay).
    `unmergeable`: why what it adds cannot be folded into the network; empty where it can, with the same answers.
    `rung`: its place on the ladder of `--tuning auto`, the cheapest first. The whole part counts rungs, of several on one the
    first that fits the backbone and the task is taken. None: not on the ladder.
    `knows_classes`: whether it can answer with a class of which it saw no image. `needs_images`: whether it has to see any.
    `suggests`: values of the recipe's dotted fields that suit it better than the general defaults; fields that the
    task lacks are skipped.
    """

    needs_steps: ClassVar[bool] = True
    layerwise: ClassVar[bool] = True
    unmergeable: ClassVar[str] = ""
    ladder_rank: ClassVar[float | None] = None
    knows_classes: ClassVar[bool] = False
    needs_images: ClassVar[bool] = True
    default_overrides: ClassVar[dict[str, Any]] = {}
    Settings: ClassVar[type[TuningSettings]] = TuningSettings

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @classmethod
    def resolve_settings(cls, settings: dict[str, Any], classes: Sequence[str]) -> list[Choice]:
        """What the settings left open, or only pointed to (a file); said to the user and written into the recipe."""
        return []

    @abstractmethod
    def apply(self, model: Adaptable) -> None:
        """Freezes, unfreezes or injects; called once on a fresh model, before training as before loading.

        What has a gradient afterwards is what a run saves. Raises UsageError for a backbone that it cannot be applied to.
        """

    def fit_head(self, model: Adaptable, known: LabeledFeatures) -> list[Choice]:
        """Puts into the head what follows from the training images without a step; gives what was chosen on the way. Asked where
        the head can describe features: before any step, or in the place of all."""
        into_head(model.head, known.solution)
        tried = ", ".join(f"{c:g}: {loss:.3f}" for c, loss in known.solution.tried.items())
        return [
            (
                "head.C",
                known.solution.strength,
                f"least log loss over {len(set(known.folds))} folds by group ({tried})",
            )
        ]

    def prepare_for_tensors(self, model: Adaptable, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Before a run's tensors are put in: may shape what is as large as the run had training images."""

    def merge(self, model: Adaptable) -> None:
        """Folds added parameters into the weights, so that the network is the plain one again."""
        if self.unmergeable:
            what = f"what the tuning {type(self).__module__.rpartition('.')[2]!r} adds cannot be folded into the network"
            raise UsageError(
                what,
                why=self.unmergeable,
                hint="use it as it is, or fit with a tuning that merges, such as lora",
            )

    # --- what some need while they train

    def begin_epoch(self, model: Adaptable, epoch: int, epochs: int) -> None:  # noqa: B027
        """Before each epoch: may hold weights still that `apply` let move."""

    def add_gradients(self, model: Adaptable) -> None:  # noqa: B027
        """After each backward pass: may add the gradient of a penalty of its own."""

    def after_step(self, model: Adaptable, step: int, steps: int) -> None:  # noqa: B027
        """After each step of the optimiser, 0 <= step < steps; gradients are still there."""

    def state(self) -> dict[str, Tensor]:
        """What it remembers from step to step; saved in checkpoints, so that a resumed run is the same run."""
        return {}

    def load_state(self, memory: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Takes back what `memory` gave."""


def into_head(head: Any, solution: Solution) -> None:
    """A linear head with the weights of a solution."""
    with torch.no_grad():
        head.mean.copy_(torch.from_numpy(solution.middle))
        head.std.copy_(torch.from_numpy(solution.scale))
        head.linear.weight.copy_(torch.from_numpy(solution.weight))
        head.linear.bias.copy_(torch.from_numpy(solution.bias))


TUNINGS: Registry[Tuning] = Registry("foveate.modeling.tunings", Tuning, "tuning")
