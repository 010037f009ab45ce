"""The model: where backbone, task and tuning meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foveate.data.image_cache import rendering_of
from foveate.errors import UsageError, WeightsError
from foveate.messages import counted
from foveate.modeling.backbones import Backbone, family_of
from foveate.modeling.tasks import TASKS, Task
from foveate.modeling.tunings import TUNINGS, Tuning
from foveate.recipe import DataRecipe, Recipe
from foveate.types import Batch
from foveate.utils.memory import keep_freed_memory


class Model(nn.Module):
    """A backbone and the head of a task, prepared by a tuning.

    Called with a Batch, it returns what `loss` and `decode` of the task take.

    Args:
        backbone: The network that computes features.
        task: Supplies the head, the loss and the decoding.
        tuning: Freezes parameters and adds others; applied once, here.
        keep_norms: Whether running statistics of the backbone stay fixed in training too: small
            batches of few images estimate them badly.
    """

    def __init__(self, backbone: Backbone, task: Task, tuning: Tuning, keep_norms: bool) -> None:
        super().__init__()
        self.backbone, self.head = backbone, task.head(backbone)
        self.task, self.tuning, self.keep_norms = task, tuning, keep_norms
        tuning.apply(self)
        task.prepare(backbone, self.head)
        # determined once: a tuning may freeze parameters for some epochs that it trains later
        self._trained = frozenset(self._trained_names())

    def forward(self, batch: Batch) -> Any:
        return self.task.forward(self.backbone, self.head, batch)

    def train(self, mode: bool = True) -> Model:
        """Set the mode; frozen modules stay in eval mode.

        Their normalization must not drift, nor their dropout be active.
        """
        super().train(mode)
        if mode:
            _set_frozen_to_eval(self)
        if self.keep_norms:
            for module in self.backbone.modules():
                if hasattr(module, "running_mean"):
                    module.eval()
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.task.classes

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes, or none."""
        return bool(getattr(self.task.settings, "multilabel", False))

    def trained_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that training may change, by name.

        These are parameters with gradients, buffers of modules with such parameters, and the head.
        """
        return {name: value for name, value in self.state_dict().items() if name in self._trained}

    def frozen_tensors(self) -> dict[str, Tensor]:
        """Return all other tensors by name: those that come with the weights of the backbone."""
        return {
            name: value for name, value in self.state_dict().items() if name not in self._trained
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load what `trained_tensors` returned.

        Raises:
            WeightsError: A tensor is missing, unknown or of another shape.
        """
        self.tuning.prepare_for_tensors(self, tensors)
        own = self.trained_tensors()
        self._load(tensors, own, missing=own.keys() - tensors.keys())

    def replace_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Replace some tensors, those that a test-time adaptation changed; call `merge` before.

        Raises:
            WeightsError: A tensor is unknown or of another shape.
        """
        self._load(tensors, self.state_dict(), missing=frozenset())

    def _load(
        self,
        tensors: dict[str, Tensor],
        own: Mapping[str, Tensor],
        missing: frozenset[str] | set[str],
    ) -> None:
        unknown = tensors.keys() - own.keys()
        bad = sorted(missing | unknown) or [
            name for name, tensor in tensors.items() if own[name].shape != tensor.shape
        ]
        if bad:
            problem = "missing or unknown" if missing or unknown else "of another shape"
            raise WeightsError(
                "these tensors do not belong to this model",
                where=bad[0],
                why=f"{problem}: {len(bad)} of {counted(len(own), 'tensor', 'tensors')}",
            )
        self.load_state_dict(tensors, strict=False)

    def merge(self) -> None:
        """Fold added parameters into the network, for good: equal outputs, a little faster."""
        self.tuning.merge(self)

    def _trained_names(self) -> Iterator[str]:
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        modules = {name for name, module in self.named_modules() if _has_trained(module)}
        for name in self.state_dict():
            owner, _, last = name.rpartition(".")
            if (
                name in trained
                or name.startswith("head.")
                or (owner in modules and last in self.get_submodule(owner)._buffers)
            ):
                yield name


def build_model(recipe: Recipe, classes: tuple[str, ...], *, weights: str | None = None) -> Model:
    """Build the model of a resolved recipe, on the CPU and in eval mode.

    New parameters are drawn with the seed of the recipe.

    Args:
        recipe: The recipe.
        classes: Class names, in the order of the scores.
        weights: Replaces the backbone weights that the recipe names.

    Raises:
        UnknownName: There is no such backbone, task or tuning.
        UsageError: Backbone and task do not fit together.
        WeightsError: The weights are unavailable or do not fit.
    """
    task = TASKS.create(recipe.task.name, recipe.task.settings, classes)
    return assemble_model(recipe, task, weights)


def assemble_model(recipe: Recipe, task: Task, weights: str | None = None) -> Model:
    """Build a model as `build_model` does, with a task that exists already."""
    keep_freed_memory()
    tuning = TUNINGS.create(recipe.tuning.name, recipe.tuning.settings)
    config = recipe.backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        backbone = family_of(config.name).open(
            config.name, weights or config.weights, config.size, recipe.training.drop_path
        )
        if not task.needs <= backbone.provides:
            needed, provided = (
                ", ".join(sorted(feature.value for feature in features))
                for features in (task.needs, backbone.provides)
            )
            raise UsageError(
                f"the task {recipe.task.name!r} needs {needed}, "
                f"the backbone {config.name!r} provides {provided}",
                where="backbone.name",
                hint="foveate models lists what each backbone provides",
            )
        set_channels(backbone, recipe.data)
        if recipe.training.gradient_checkpointing:
            backbone.enable_checkpointing()
        return Model(backbone, task, tuning, recipe.training.batch_norm == "keep").eval()


def set_channels(backbone: Backbone, recipe: DataRecipe) -> None:
    """Prepare a backbone for the bands of a recipe, and normalize them as it states.

    Raises:
        UsageError: The backbone takes three bands only, or the recipe states mean or deviation of
            another number of channels.
    """
    channels = rendering_of(recipe).channels
    if channels != backbone.input.channels:
        backbone.widen_input(channels)
    for name, stated in (("mean", recipe.mean), ("std", recipe.std)):
        if len(stated) not in (0, channels):
            raise UsageError(
                f"there are {len(stated)} values for {counted(channels, 'channel', 'channels')}",
                where=f"data.{name}",
                hint="give one for each, or leave it out",
            )
    backbone.input = backbone.input.normalizing(recipe.mean, recipe.std)


def _set_frozen_to_eval(module: nn.Module) -> None:
    """Set frozen modules to eval mode, and running statistics without trained scale or shift."""
    for child in module.children():
        parameters = list(child.parameters())
        frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if frozen or (hasattr(child, "running_mean") and not _has_trained(child)):
            child.eval()
        else:
            _set_frozen_to_eval(child)


def _has_trained(module: nn.Module) -> bool:
    """Whether a module has trained parameters of its own, not only in its children."""
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))
