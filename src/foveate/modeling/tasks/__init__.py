"""Tasks: what is predicted for an image, with head, loss and decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.images.preprocessing import Framing
from foveate.messages import Message
from foveate.modeling.backbones import Backbone
from foveate.predictions import ImagePrediction, Prediction
from foveate.registry import Registry
from foveate.types import Batch, Decision, Provides, TargetTensors


@dataclass(frozen=True)
class DataFacts:
    """What a task may need to know to resolve its settings.

    Attributes:
        multilabel: Images of the data may have several classes, or none.
        closed_form: The tuning computes the head in closed form.
    """

    multilabel: bool
    closed_form: bool


@dataclass(frozen=True)
class FoundObject:
    """An object that a detector found in an image.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the network's square.
        confidence: What `predict` compares with the threshold of a run.
    """

    box: tuple[float, ...]
    confidence: float


@dataclass(frozen=True)
class ExplainableScore:
    """A part of the prediction for one image that can be explained, as a differentiable score.

    Attributes:
        name: Its name for the user: a class, a word.
        score: Output for V variants of the image -> (V,); gradients flow through it.
        probability: The same in [0, 1], for curves.
        found: The object whose score it is, for detectors.
    """

    name: str
    score: Callable[[Any], Tensor]
    probability: Callable[[Any], Tensor]
    found: FoundObject | None = None


@dataclass(frozen=True)
class ExportStep:
    """A second graph of an exported model, which its post-processing calls repeatedly.

    Attributes:
        module: Takes the tensors of `example` in their order, and returns one tensor.
        example: Inputs by name.
        dynamic_axes: Axes of any length, by the name of the input.
        output: Name of the output.
    """

    module: nn.Module
    example: dict[str, Tensor]
    dynamic_axes: dict[str, tuple[int, ...]]
    output: str


class TaskSettings(BaseModel):
    """Base of the settings of tasks; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Task(ABC):
    """What is predicted for an image.

    Args:
        settings: An instance of `Settings`.
        classes: Class names, in the order of the scores.

    Attributes:
        needs: Features that the head takes from the backbone; may depend on settings.
        prediction_type: The type of its predictions.
        target_types: The types of its targets; empty for `prediction_type`.
        question: What is predicted, as a question, for reports.
        framing: What the network sees of an image: the central square ("crop"), all of it, padded
            to a square ("whole"), or squares at full resolution ("windows"); may depend on
            settings.
        default_overrides: Recipe values, by dotted field, that suit the task better than the
            general defaults; used where the user set none.
        Settings: Its settings.
        step_settings: Settings that matter only where a head is trained in steps; a fit in closed
            form refuses them.
    """

    needs: frozenset[Provides]
    prediction_type: ClassVar[type[Prediction]]
    target_types: ClassVar[tuple[type, ...]] = ()
    question: ClassVar[Message] = Message("task.question", "What does the image show?")
    framing: Framing = "crop"
    default_overrides: ClassVar[dict[str, Any]] = {"tuning": "full"}
    Settings: ClassVar[type[TaskSettings]] = TaskSettings
    step_settings: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: Any, classes: tuple[str, ...]) -> None:
        self.settings, self.classes = settings, classes

    @classmethod
    def accepted_targets(cls) -> tuple[type, ...]:
        """Return the types of targets that the task learns from and is scored on."""
        return cls.target_types or (cls.prediction_type,)

    @classmethod
    def resolve_settings(
        cls,
        settings: dict[str, Any],
        targets: Sequence[Any],
        classes: tuple[str, ...],
        facts: DataFacts,
    ) -> list[Decision]:
        """Choose settings that the user left open, from the training targets.

        Args:
            settings: The settings that are set.
            targets: Targets of the training images.
            classes: Class names.
            facts: More on data and tuning.

        Returns:
            The decisions, with names of settings as fields.
        """
        return []

    @abstractmethod
    def head(self, backbone: Backbone) -> nn.Module:
        """Build the head, a module called as head(features, batch) -> output.

        It may read batch.targets in training (teacher forcing).
        """

    def fit_to_targets(self, head: nn.Module, targets: Sequence[Any]) -> list[Decision]:
        """Let the head learn from the training targets what it needs of them, such as their mean.

        Called before the head is fitted and before the first step, but not where a run continues
        another one, whose head knows it already.

        Args:
            head: The head; what it learns has to be in its buffers, which are saved.
            targets: Targets of the training images, and of no others.

        Returns:
            What is worth telling, with names of head properties as fields.
        """
        return []

    def metric_settings(self, head: nn.Module) -> dict[str, Any]:
        """Return what the metric should know of the run, as its `settings`."""
        return {}

    def prepare(self, backbone: Backbone, head: nn.Module) -> None:  # noqa: B027
        """Prepare training, once the tuning is applied; may copy the backbone into the head."""

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> Any:
        """Compute the output that `loss` and `decode` take.

        Tasks with several views of an image override it to call the backbone for each.
        """
        return head(backbone(batch.images, self.needs), batch)

    def after_step(self, backbone: Backbone, head: nn.Module, step: int, steps: int) -> None:  # noqa: B027
        """Update what follows the weights, such as a teacher, after each step of the optimizer.

        Args:
            backbone: The backbone.
            head: The head.
            step: 0 <= step < steps.
            steps: Number of steps of the whole training.
        """

    @abstractmethod
    def encode(self, target: Any, size: tuple[int, int]) -> TargetTensors:
        """Turn a target into tensors that augmentation can transform along with the image.

        Args:
            target: The target.
            size: (H, W) of the upright original.
        """

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Return named scalars, whose sum is minimized."""

    def loss_weights(self, output: Any, batch: Batch) -> dict[str, float]:
        """Return what each loss of a batch is a mean over, where that is not the images.

        The gradients of the parts of a batch then add up to that of the whole.

        Args:
            output: The output of the model for any images of this size.
            batch: The images and targets to count.
        """
        return {}

    @abstractmethod
    def decode(self, output: Any, batch: Batch) -> list[Any]:
        """Return B predictions, in coordinates of the upright originals."""

    def explainable_scores(self, output: Any, batch: Batch) -> list[ExplainableScore]:
        """Return what can be explained in the prediction for one image, the most important first.

        None by default.
        """
        return []

    def export_outputs(
        self, backbone: Backbone, head: nn.Module, images: Tensor
    ) -> dict[str, Tensor]:
        """Compute the outputs of an exported model, by name.

        The file of the task in foveate.deploy.postprocess turns them into predictions.

        Args:
            backbone: The backbone.
            head: The head.
            images: (B, 3, S, S), normalized.

        Raises:
            UsageError: The task cannot be exported.
        """
        raise UsageError(
            f"predictions of type {self.prediction_type.__name__} cannot be exported",
            where="task",
            hint="a run of classify, regress, detect, segment or caption",
        )

    def export_steps(self, head: nn.Module, outputs: dict[str, Tensor]) -> dict[str, ExportStep]:
        """Return further graphs that the post-processing needs, by name.

        Args:
            head: The head.
            outputs: Result of `export_outputs` for two or more images.
        """
        return {}

    def export_metadata(self) -> dict[str, Any]:
        """Return what the post-processing needs to know, JSON-able."""
        return {}

    def sample_images(
        self, backbone: Backbone, head: nn.Module
    ) -> list[tuple[str, ImagePrediction]]:
        """Return generated images with their prompts, for reports; none for most tasks.

        The model is in eval mode.
        """
        return []


class SpatialSettings(TaskSettings):
    """Settings of a SpatialTask."""

    framing: Literal["whole", "windows"] = Field(
        "whole",
        description="whole: scale the image to the input size; windows: squares at full "
        "resolution, for large images",
    )


class SpatialTask(Task):
    """A task whose predictions have a position in the image.

    It reads maps, and can process large images in windows.
    """

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
        self.framing = settings.framing

    @abstractmethod
    def merge_tiles(
        self, parts: Sequence[tuple[tuple[int, int], Any]], size: tuple[int, int]
    ) -> Any:
        """Merge the predictions for the windows of an image.

        Args:
            parts: For each window, (x, y) of its upper left corner and its prediction.
            size: (H, W) of the image.
        """


TASKS: Registry[Task] = Registry("foveate.modeling.tasks", Task, "task")
