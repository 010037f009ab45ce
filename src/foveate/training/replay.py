"""A skipped step, computed again: same weights, images and random numbers, same loss."""

from __future__ import annotations

from pathlib import Path

from foveate.data.dataset import ImageDataset
from foveate.data.image_cache import ImageCache
from foveate.data.transforms import evaluation_transform
from foveate.modeling.model import build_model
from foveate.recipe import with_settings
from foveate.run.folder import Run
from foveate.run.lineage import open_earlier_run
from foveate.training.bad_steps import load_bad_step
from foveate.training.continual import Teacher
from foveate.training.objectives import OBJECTIVES, objective_task
from foveate.training.trainer import Trainer
from foveate.utils.device import resolve_device


def replay(step: Path | str, device: str = "cpu") -> tuple[float, float]:
    """Compute a skipped step again; nothing is written or changed.

    Args:
        step: Saved step, RUN/bad_steps/step-N.
        device: Device to compute on; the result is the same bit for bit on the same CPU.

    Returns:
        The loss, and the norm of the gradient.

    Raises:
        UsageError: There is no saved step in this folder.
        RunError: Its files are damaged.
    """
    folder, torch_device = Path(step), resolve_device(device)
    bad_step, run = load_bad_step(folder), Run.open(folder.absolute().parents[1])
    recipe = with_settings(run.recipe(), {"training.tensorboard": False})
    if recipe.task.name in OBJECTIVES.names():
        model = objective_task(recipe)
    else:
        model = build_model(recipe, run.classes())
    transform = evaluation_transform(model.backbone.input, "whole")
    no_cache = ImageCache(1, "whole", keep=False)
    no_images = ImageDataset((), no_cache, transform, lambda target, size: {}, 0)
    earlier, start = open_earlier_run(recipe), recipe.start
    teacher = Teacher(earlier, start, torch_device) if earlier and start.distill else None
    trainer = Trainer(model, recipe, run, no_images, None, torch_device, teacher=teacher)
    return trainer.replay_step(bad_step)
