"""What is asked of an image: a head, a loss, and the way from the network's output to an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.modeling.backbones import Backbone
from foveate.predictions import ImagePrediction, Prediction
from foveate.registry import Registry
from foveate.types import Batch, Provides, TargetTensors

Settled = tuple[str, Any, str]
"""A setting that was chosen for the user: its field, its value, the reason."""


@dataclass(frozen=True)
class DataFacts:
    """`multilabel`: the data gives several labels an image. `solved`: the tuning solves the head in closed form."""

    multilabel: bool
    closed_form: bool


@dataclass(frozen=True)
class ExplainableScore:
    """Something about one picture's answer that can be explained. `name`: in words. `score`: the output for V variants of the
    picture -> (V,), through which gradients flow; `chance`: the same in [0, 1], for curves."""

    name: str
    score: Callable[[Any], Tensor]
    probability: Callable[[Any], Tensor]


@dataclass(frozen=True)
class ExportStep:
    """A graph beside the first one. `module`: the tensors of `example`, in their order -> a tensor called `output`. `free`: the
    axes, by the inputs' names, that may have any length."""

    module: nn.Module
    example: dict[str, Tensor]
    dynamic_axes: dict[str, tuple[int, ...]]
    output: str


class TaskSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Task(ABC):
    """One kind of question.

    `needs`: what the head reads from the backbone; settings may change it. `answer`: the type of its predictions, and of its truths
    where `truths` names no others.
    `asks`: the question, for reports.
    `framing`: what the network sees of a picture: the central square, the whole (padded to the square), or windows at full
    resolution, one after the other; settings may change it.
    `suggests`: values of the recipe's dotted fields that suit it better than the general defaults; taken where the user stated
    none.
    """

    needs: frozenset[Provides]
    prediction_type: ClassVar[type[Prediction]]
    target_types: ClassVar[tuple[type, ...]] = ()
    question: ClassVar[str] = "What is there to see?"
    framing: Literal["crop", "whole", "windows"] = "crop"
    default_overrides: ClassVar[dict[str, Any]] = {"tuning": "full"}
    Settings: ClassVar[type[TaskSettings]] = TaskSettings

    def __init__(self, settings: Any, classes: tuple[str, ...]) -> None:
        self.settings, self.classes = settings, classes

    @classmethod
    def resolve_settings(
        cls, settings: dict[str, Any], truths: Sequence[Any], classes: tuple[str, ...], facts: DataFacts
    ) -> list[Settled]:
        """What the settings left open, read off the training truths; said to the user and written into the recipe."""
        return []

    @abstractmethod
    def head(self, backbone: Backbone) -> nn.Module:
        """A module called as head(features, batch) -> output; batch.targets may be read while training (teacher forcing)."""

    def prepare(self, backbone: Backbone, head: nn.Module) -> None:  # noqa: B027
        """Once, when the tuning has changed what it changes: may copy the backbone into the head."""

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> Any:
        """The output that `loss` and `decode` read. A task that looks at several views of an image asks the backbone more often."""
        return head(backbone(batch.images, self.needs), batch)

    def after_step(self, backbone: Backbone, head: nn.Module, step: int, steps: int) -> None:  # noqa: B027
        """After each step of the optimiser, 0 <= step < steps: may move what follows the weights, such as a teacher."""

    @abstractmethod
    def encode(self, truth: Any, size: tuple[int, int]) -> TargetTensors:
        """A truth as tensors that augmentation can move along with the picture; `size`: (H, W) of the upright original."""

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Named scalars; their sum is minimised."""

    @abstractmethod
    def decode(self, output: Any, batch: Batch) -> list[Any]:
        """B answers of the type `answer`, in the coordinates of the upright originals."""

    def explainable_scores(self, output: Any, batch: Batch) -> list[ExplainableScore]:
        """What can be asked about the answer to one picture, the most important question first; of most tasks nothing."""
        return []

    def export_outputs(self, backbone: Backbone, head: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """What a file for another runtime answers to normalised images (B, 3, S, S), by name: the task's file in foveate.readers
        makes answers of it. Raises UsageError for what cannot leave the house."""
        what = f"answers of the type {self.prediction_type.__name__.lower()} cannot be exported"
        raise UsageError(
            what, where="task", hint="a run that classifies, detects, segments or writes"
        )

    def export_steps(self, head: nn.Module, outputs: dict[str, Tensor]) -> dict[str, ExportStep]:
        """The graphs that its reader needs besides, by name; `outputs`: of `portable` for two or more pictures."""
        return {}

    def export_metadata(self) -> dict[str, Any]:
        """What its reader needs to know, JSON-able."""
        return {}

    def sample_images(self, backbone: Backbone, head: nn.Module) -> list[tuple[str, ImagePrediction]]:
        """Pictures of its own making, and what they are to show, for reports; most tasks make none. The model is in eval mode."""
        return []


class SpatialSettings(TaskSettings):
    framing: Literal["whole", "windows"] = Field(
        "whole",
        description="whole: pictures are scaled to the network's square; windows: squares at full resolution, for large pictures",
    )


class SpatialTask(Task):
    """A task whose answers lie somewhere in the picture: it reads maps, and can look at large pictures through windows."""

    needs: frozenset[Provides] = frozenset({Provides.MAPS})
    default_overrides: ClassVar[dict[str, Any]] = {
        "tuning": "full",
        "backbone.size": 512,
        "augment.policy": "none",
        "augment.color": 0.3,
        "augment.crop": 0.4,
        "training.batch_size": 8,
        "training.epochs": 40,
        "training.patience": 0,
    }
    Settings: ClassVar[type[TaskSettings]] = SpatialSettings

    def __init__(self, settings: Any, classes: tuple[str, ...]) -> None:
        super().__init__(settings, classes)
        self.framing = settings.view

    @abstractmethod
    def merge_tiles(self, parts: Sequence[tuple[tuple[int, int], Any]], size: tuple[int, int]) -> Any:
        """The answer to a picture of `size` (H, W) from those to its windows, each with the (x, y) of its upper left corner."""


TASKS: Registry[Task] = Registry("foveate.modeling.tasks", Task, "task")
