"""What can be learnt from pictures that nobody has labelled: tasks whose truth is the image itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from foveate.data.multicrop import Crops
from foveate.modeling.backbones import Backbone
from foveate.modeling.model import Model, assemble_model
from foveate.modeling.tasks import Task, TaskSettings
from foveate.predictions import ImagePrediction
from foveate.recipe import Recipe
from foveate.registry import Registry
from foveate.types import Batch, Provides, TargetTensors


class ObjectiveSettings(TaskSettings):
    area: float = Field(
        0.2, gt=0, le=1, description="smallest share of the image's area that a view shows"
    )
    color: float = Field(
        0.5,
        ge=0,
        le=1,
        description="strength of the random colours of views: light, contrast, hue, grey",
    )


class Objective(Task):
    """One way to learn. Its head holds what is thrown away afterwards: projectors, decoders, teachers.

    A batch brings the first wide view of B images as `images`; targets hold 'wide' (V - 1, 3, S, S), the other ones, and 'narrow'
    (L, 3, s, s), where there are any.
    """

    needs: frozenset[Provides] = frozenset({Provides.POOLED})
    num_global_views: ClassVar[int] = 2  # views at the network's size
    prediction_type: ClassVar[type[ImagePrediction]] = ImagePrediction
    default_overrides: ClassVar[dict[str, Any]] = {}
    overrides_from_scratch: ClassVar[dict[str, Any]] = {}  # beside these, from random weights
    Settings: ClassVar[type[TaskSettings]] = ObjectiveSettings

    @property
    def crops(self) -> Crops:
        """What its views show; smaller ones where a setting `narrow` says how many."""
        own = self.settings
        return Crops(self.num_global_views, (own.area, 1.0), getattr(own, "narrow", 0), colours=own.colours)

    def encode(self, truth: Any, size: tuple[int, int]) -> TargetTensors:
        return {}

    def decode(self, output: Any, batch: Batch) -> list[Any]:
        return []

    def reconstructions(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """What the network saw and made of it, (B, 3, S, S) each, normalised as the images are; None where it paints nothing."""
        return None

    @abstractmethod
    def head(self, backbone: Backbone) -> nn.Module: ...

    @abstractmethod
    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> Any: ...

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]: ...


OBJECTIVES: Registry[Objective] = Registry("foveate.training.objectives", Objective, "objective")


def objective_task(recipe: Recipe) -> Model:
    """As `build`, for a recipe whose task is an objective: learning from images alone."""
    return assemble_model(recipe, OBJECTIVES.create(recipe.task.name, recipe.task.settings, ()), None)
