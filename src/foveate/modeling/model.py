"""The one place where backbone, task and tuning meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import UsageError, WeightsError
from foveate.modeling.backbones import Backbone, family_of
from foveate.modeling.tasks import TASKS, Task
from foveate.modeling.tunings import TUNINGS, Tuning
from foveate.recipe import Recipe
from foveate.types import Batch
from foveate.utils.memory import keep_pages


class Model(nn.Module):
    """A backbone and a head, adapted. Calling it with a Batch gives what the task's loss and decode read."""

    def __init__(self, backbone: Backbone, task: Task, tuning: Tuning, keep_norms: bool) -> None:
        super().__init__()
        self.backbone, self.head = backbone, task.head(backbone)
        self.task, self.tuning, self.keep_norms = task, tuning, keep_norms
        tuning.apply(self)
        task.prepare(backbone, self.head)
        self._changing = frozenset(self._may_change())

    def forward(self, batch: Batch) -> Any:
        return self.task.forward(self.backbone, self.head, batch)

    def train(self, mode: bool = True) -> Model:
        """As ever, but what is frozen stays in eval mode: its normalisation must not drift, its dropout must not fire."""
        super().train(mode)
        if mode:
            _rest(self)
        if self.keep_norms:  # small batches of few images are a poor source of statistics
            for module in self.backbone.modules():
                if hasattr(module, "running_mean"):
                    module.eval()
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        return self.task.classes

    @property
    def multilabel(self) -> bool:
        return bool(getattr(self.task.settings, "multilabel", False))

    def trained_tensors(self) -> dict[str, Tensor]:
        """The tensors that training may move: parameters with gradients, buffers of live modules, and the whole head."""
        return {
            name: tensor for name, tensor in self.state_dict().items() if name in self._changing
        }

    def frozen_tensors(self) -> dict[str, Tensor]:
        """All other tensors: they come with the backbone's weights."""
        return {
            name: tensor for name, tensor in self.state_dict().items() if name not in self._changing
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copies what `changed` gave; raises WeightsError when a tensor is missing, unknown or of another shape."""
        self.tuning.prepare_for_tensors(self, tensors)
        own = self.trained_tensors()
        odd = sorted(own.keys() ^ tensors.keys()) or [
            name for name in own if own[name].shape != tensors[name].shape
        ]
        if odd:
            raise WeightsError(
                "these tensors do not belong to this model",
                where=odd[0],
                why=f"{len(odd)} do not fit",
            )
        self.load_state_dict(tensors, strict=False)

    def replace_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Replaces tensors of the merged network, those that an adaptation has moved; raises WeightsError when one is unknown or of
        another shape."""
        own = self.state_dict()
        odd = [
            name
            for name, tensor in tensors.items()
            if name not in own or own[name].shape != tensor.shape
        ]
        if odd:
            raise WeightsError(
                "these tensors do not belong to this model",
                where=odd[0],
                why=f"{len(odd)} do not fit",
            )
        self.load_state_dict(tensors, strict=False)

    def merge(self) -> None:
        """Folds added parameters into the network, for good: the same answers, a little faster."""
        self.tuning.merge(self)

    def _may_change(self) -> Iterator[str]:
        """Asked once: a tuning may hold weights still for a while that move later on."""
        live = {name for name, module in self.named_modules() if _is_live(module)}
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        for name in self.state_dict():
            if (
                name in trained
                or name.startswith("head.")
                or (_is_buffer(self, name) and name.rpartition(".")[0] in live)
            ):
                yield name


def build_model(recipe: Recipe, classes: tuple[str, ...], *, weights: str | None = None) -> Model:
    """The model that a settled recipe describes, on the CPU, in eval mode; new parameters are drawn with the recipe's seed.

    `weights` replaces the recipe's. Raises UnknownName, UsageError (a pair that does not fit) and WeightsError.
    """
    return assemble_model(
        recipe, TASKS.create(recipe.task.name, recipe.task.settings, classes), weights
    )


def assemble_model(recipe: Recipe, task: Task, weights: str | None) -> Model:
    keep_pages()
    tuning = TUNINGS.create(recipe.tuning.name, recipe.tuning.settings)
    asked = recipe.backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        backbone = family_of(asked.name).open(
            asked.name, weights or asked.weights, asked.size, recipe.training.drop_path
        )
        if not task.needs <= backbone.provides:
            given, needed = (
                ", ".join(sorted(word.value for word in words))
                for words in (backbone.provides, task.needs)
            )
            raise UsageError(
                f"the task {recipe.task.name!r} needs {needed}, the backbone {asked.name!r} provides {given}",
                where="backbone.name",
                hint="foveate models lists what each backbone provides",
            )
        if recipe.training.checkpointing:
            backbone.enable_checkpointing()
        return Model(backbone, task, tuning, recipe.training.norm == "keep").eval()


def _rest(module: nn.Module) -> None:
    """What is frozen goes into eval mode, and so do statistics that are not saved with a scale or a shift of their own."""
    for child in module.children():
        parameters = list(child.parameters())
        frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if frozen or (hasattr(child, "running_mean") and not _is_live(child)):
            child.eval()
        else:
            _rest(child)


def _is_live(module: nn.Module) -> bool:
    """Whether it holds parameters of its own that move; a normalisation keeps its statistics beside them."""
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _is_buffer(model: nn.Module, name: str) -> bool:
    place, _, last = name.rpartition(".")
    return last in model.get_submodule(place)._buffers
