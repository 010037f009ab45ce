"""Continual learning: the weights of an earlier run to start from, and its model as a teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from foveate.errors import UsageError, WeightsError
from foveate.modeling.model import Model, build_model
from foveate.modeling.weights import read_run_tensors
from foveate.predictions import Labels
from foveate.recipe import Recipe, StartRecipe
from foveate.run.folder import Run
from foveate.types import Batch


def require_same_network(recipe: Recipe, run: Run) -> None:
    """Raise UsageError if a recipe has another backbone or tuning than the run it continues."""
    earlier = run.recipe()
    for section, own, other in (
        ("backbone", recipe.backbone, earlier.backbone),
        ("tuning", recipe.tuning, earlier.tuning),
    ):
        if own != other:
            raise UsageError(
                f"the weights of the earlier run are of another {section}",
                where=run.folder,
                why=f"they belong to the {section} {other.name!r} with its settings there",
                hint=f"leave the {section} as it is",
            )


def initialize_from_run(model: Model, recipe: Recipe, run: Run) -> None:
    """Copy the weights of an earlier run into a model.

    Rows of the head for new classes keep their random values.

    Args:
        model: The model to fill.
        recipe: Its recipe.
        run: The earlier run.

    Raises:
        UsageError: The recipe has another backbone or tuning than the run.
        WeightsError: A tensor does not fit.
    """
    require_same_network(recipe, run)
    tensors = read_run_tensors(run.folder)
    model.tuning.prepare_for_tensors(model, tensors)
    own_tensors = model.trained_tensors()
    for name, tensor in tensors.items():
        _copy_rows(tensor, own_tensors.get(name), name)


@torch.no_grad()
def _copy_rows(source: Tensor, target: Tensor | None, name: str) -> None:
    """Copy a tensor into the first rows of another one; only the head may have more of them."""
    fits = target is not None and target.shape[1:] == source.shape[1:]
    if target is None or not fits or (target.shape != source.shape and name[:5] != "head."):
        what, why = "the weights of the earlier run do not fit", "it has other settings"
        raise WeightsError(what, where=name, why=why)
    if source.ndim:
        target[: len(source)].copy_(source)
    else:
        target.copy_(source)


class Teacher:
    """Learning without forgetting (Li & Hoiem 2016): a loss that keeps the earlier predictions.

    Args:
        run: The earlier run, whose model is the teacher.
        start: Weight of the loss, and temperature.
        device: Where to compute.

    Raises:
        UsageError: The task is not image classification.
    """

    def __init__(self, run: Run, start: StartRecipe, device: torch.device) -> None:
        recipe, classes = run.recipe(), run.classes()
        model = build_model(recipe, classes, weights=None if run.outcome()["frozen"] else "none")
        model.load_tensors(read_run_tensors(run.folder))
        self.model = model.to(device)
        self.start = start
        self.multilabel = bool(recipe.task.settings.get("multilabel"))
        if model.task.prediction_type is not Labels:
            what = "distillation is only possible for image classification"
            raise UsageError(what, where="start.distill", hint="--set start.distill=0")

    def __call__(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the weighted divergence from the teacher, a scalar.

        Args:
            output: (B, K) logits of the student, the teacher's classes first.
            batch: The images.
        """
        with torch.no_grad():
            target = self.model(batch).float()
        own, temperature = output[:, : target.shape[1]].float(), self.start.temperature
        if self.multilabel:
            probabilities = (target / temperature).sigmoid()
            loss = functional.binary_cross_entropy_with_logits(own / temperature, probabilities)
        else:
            student, teacher = ((logits / temperature).log_softmax(1) for logits in (own, target))
            loss = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return self.start.distill * temperature**2 * loss
