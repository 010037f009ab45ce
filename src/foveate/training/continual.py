"""The run that a run goes on from: its pictures beside the new ones, its weights, and its answers as a teacher's."""

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


def initialize_from_run(model: Model, recipe: Recipe, run: Run) -> None:
    """Puts the earlier run's weights into the model; rows of the head for new classes stay as they were drawn.

    Raises UsageError when the recipe asks for another backbone or tuning, WeightsError when a tensor does not fit.
    """
    theirs = run.recipe()
    for what, own, other in (
        ("backbone", recipe.backbone, theirs.backbone),
        ("tuning", recipe.tuning, theirs.tuning),
    ):
        if own != other:
            why, hint = (
                f"they belong to the {what} {other.name!r} as it is set there",
                f"leave the {what} as it is",
            )
            raise UsageError(
                f"the weights of the earlier run are of another {what}",
                where=run.folder,
                why=why,
                hint=hint,
            )
    tensors = read_run_tensors(run.folder)
    model.tuning.prepare_for_tensors(model, tensors)
    own_tensors = model.trained_tensors()
    with torch.no_grad():
        for name, tensor in tensors.items():
            mine = own_tensors.get(name)
            if (
                mine is None
                or mine.shape[1:] != tensor.shape[1:]
                or (mine.shape != tensor.shape and not name.startswith("head."))
            ):
                raise WeightsError(
                    "the weights of the earlier run do not fit",
                    where=name,
                    why="it has other settings",
                )
            mine[: len(tensor)].copy_(tensor) if tensor.ndim else mine.copy_(tensor)


class Teacher:
    """The earlier run's network, and how far a student has gone from its answers to the same images (Li & Hoiem 2016)."""

    def __init__(self, run: Run, start: StartRecipe, device: torch.device) -> None:
        recipe, classes = run.recipe(), run.classes()
        model = build_model(recipe, classes, weights=None if run.outcome()["frozen"] else "none")
        model.load_tensors(read_run_tensors(run.folder))
        self.model, self.start, self.multilabel = (
            model.to(device),
            start,
            bool(recipe.task.settings.get("multilabel")),
        )
        if model.task.prediction_type is not Labels:
            raise UsageError(
                "only classes of whole images can be distilled",
                where="start.distill",
                hint="--set start.distill=0",
            )

    def __call__(self, output: Tensor, batch: Batch) -> Tensor:
        """`output`: (B, K) logits of the student, the teacher's classes first. A scalar: the weighted divergence."""
        with torch.no_grad():
            taught = self.model(batch).float()
        own, heat = output[:, : taught.shape[1]].float(), self.start.temperature
        if self.multilabel:
            loss = functional.binary_cross_entropy_with_logits(
                own / heat, (taught / heat).sigmoid()
            )
        else:
            student, teacher = (own / heat).log_softmax(1), (taught / heat).log_softmax(1)
            loss = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return self.start.distill * heat**2 * loss
