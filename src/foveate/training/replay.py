"""A step that was not taken, done again: the same weights, pictures and chance give the same loss."""

from __future__ import annotations

from pathlib import Path

from foveate.data.dataset import ImageDataset
from foveate.data.image_cache import ImageCache
from foveate.data.transforms import evaluation_transform
from foveate.modeling.model import build_model
from foveate.recipe import with_settings
from foveate.run.folder import Run
from foveate.run.lineage import earlier_run
from foveate.training import bad_steps as badsteps
from foveate.training.continual import Teacher
from foveate.training.objectives import OBJECTIVES, objective_task
from foveate.training.trainer import Trainer
from foveate.utils.device import resolve_device


def replay(step: Path | str, device: str = "cpu") -> tuple[float, float]:
    """The loss, and the norm of the gradient, of a step that was kept: RUN/bad_steps/step-N. Nothing is written or moved.

    Raises UsageError where nothing was kept, RunError where it is damaged.
    """
    folder, place = Path(step), resolve_device(device)
    kept, run = badsteps.read(folder), Run.open(folder.absolute().parents[1])
    recipe = with_settings(run.recipe(), {"training.tensorboard": False})
    model = (
        objective_task(recipe) if recipe.task.name in OBJECTIVES.names() else build_model(recipe, run.classes())
    )
    nothing = ImageDataset(
        (),
        ImageCache(1, "whole", keep=False),
        evaluation_transform(model.backbone.input, "whole"),
        lambda truth, size: {},
        0,
    )
    earlier, start = earlier_run(recipe), recipe.start
    teacher = Teacher(earlier, start, place) if earlier and start.distill else None
    return Trainer(model, recipe, run, nothing, None, place, teacher=teacher).again(kept)
