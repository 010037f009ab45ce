"""continue RUN DATA: add images or classes to a finished run, and measure forgetting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveate.errors import UsageError
from foveate.modeling.tunings import TUNINGS
from foveate.recipe import CONTINUE_OPTIONS, Recipe, recipe_from, with_settings
from foveate.run.folder import Run
from foveate.training.continual import require_same_network


def continued_recipe(
    run: Path, data: Path, options: dict[str, Any], settings: dict[str, Any] | None
) -> Recipe:
    """Return the recipe of the new run: that of `run`, with the new data and what the user set.

    Raises UsageError for a run that cannot be continued, RunError for an unfinished one.
    """
    earlier = Run.open(run)
    earlier.require_continuable()
    earlier.outcome()
    recipe = earlier.recipe()
    fresh: dict[str, Any] = {
        "data.path": str(data),
        "data.format": "auto",
        "start.run": str(run.resolve()),
    }
    if TUNINGS.get(recipe.tuning.name).needs_steps:
        fresh["training.head_init"] = "random"  # the head is there already
    if "class_weights" in recipe.task.settings:
        fresh["task.class_weights"] = "auto"
    recipe = with_settings(recipe, fresh)
    recipe = recipe_from(None, options, settings or {}, recipe, names=CONTINUE_OPTIONS)
    require_same_network(recipe, earlier)
    if not TUNINGS.get(recipe.tuning.name).needs_steps and recipe.start.replay < 1:
        why = "its head is refitted on all images, and would lose those that are not replayed"
        hint = "--replay 1, or fit with a tuning that trains, such as lora"
        raise UsageError(
            "a probe needs all its old images to go on", where="start.replay", why=why, hint=hint
        )
    return recipe
