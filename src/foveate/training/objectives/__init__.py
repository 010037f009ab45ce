"""Self-supervised objectives: tasks whose target is the image itself."""

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
    min_area: float = Field(
        0.2, gt=0, le=1, description="minimum area fraction of the views at the size of the network"
    )
    color: float = Field(
        0.5,
        ge=0,
        le=1,
        description="strength of random changes of brightness, contrast, saturation and hue",
    )


class Objective(Task):
    """A self-supervised objective.

    Its head holds what is thrown away afterwards: projectors, decoders, teachers.

    In a batch, `images` is the first global view of B images. Targets hold the others as
    'global_views' (V - 1, 3, S, S), and the smaller ones as 'local_views' (L, 3, s, s), if there
    are any.

    Attributes:
        num_global_views: V, views at the size of the network.
        overrides_from_scratch: settings that suit it when the backbone starts from random weights,
            beside `default_overrides`.
    """

    needs: frozenset[Provides] = frozenset({Provides.POOLED})
    num_global_views: ClassVar[int] = 2
    prediction_type: ClassVar[type[ImagePrediction]] = ImagePrediction
    default_overrides: ClassVar[dict[str, Any]] = {}
    overrides_from_scratch: ClassVar[dict[str, Any]] = {}
    Settings: ClassVar[type[TaskSettings]] = ObjectiveSettings

    @property
    def crops(self) -> Crops:
        """The views of an image; local ones only if a setting `local_views` says how many."""
        settings = self.settings
        return Crops(
            global_views=self.num_global_views,
            global_area=(settings.min_area, 1.0),
            local_views=getattr(settings, "local_views", 0),
            color=settings.color,
        )

    def encode(self, target: Any, size: tuple[int, int]) -> TargetTensors:
        return {}

    def decode(self, output: Any, batch: Batch) -> list[Any]:
        return []

    def reconstructions(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Return what the network saw, and what it reconstructed.

        Both are (B, 3, S, S), normalized as the images are; None if it reconstructs no images.
        """
        return None

    @abstractmethod
    def head(self, backbone: Backbone) -> nn.Module: ...

    @abstractmethod
    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> Any: ...

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]: ...


OBJECTIVES: Registry[Objective] = Registry("foveate.training.objectives", Objective, "objective")


def objective_task(recipe: Recipe) -> Model:
    """Build the model of a recipe whose task is an objective, as `build_model` for other tasks."""
    task = OBJECTIVES.create(recipe.task.name, recipe.task.settings, ())
    return assemble_model(recipe, task, None)
