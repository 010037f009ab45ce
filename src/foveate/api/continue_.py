"""continue RUN DATA: adds images, or classes, to what a finished run has learnt, and measures what it forgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveate.api.fit.core import fit
from foveate.api.fit.pipeline import FitResult
from foveate.errors import UsageError
from foveate.modeling.tunings import TUNINGS
from foveate.recipe import with_settings
from foveate.run.folder import Run


def continue_(
    run: Path,
    data: Path,
    out: Path | None = None,
    settings: dict[str, Any] | None = None,
    command: str = "",
    started: float | None = None,
) -> FitResult:
    """A new run that starts from the weights and classes of `run` and learns `data` beside the replayed share of its images.

    Old and new validation images are scored before, after and in every epoch: of the old and of the new classes, or, without new
    classes, of the old and of the new data. `settings`: dotted fields of the recipe (start.replay, start.distill, training.epochs,
    ...); the rest is as in the run. The weights of `run` are not touched.

    Raises what `fit` raises, and UsageError where the run cannot go on: a probe without its old images, data that asks another
    question, new classes of boxes or masks.
    """
    earlier = Run.open(run)
    earlier.refuse_as_start()
    earlier.outcome()
    recipe = earlier.recipe()
    fresh: dict[str, Any] = {
        "data.path": str(data),
        "data.format": "auto",
        "start.run": str(run.resolve()),
    }
    fresh["training.head_start"] = "random"  # the head is there already
    if "class_weights" in recipe.task.settings:
        fresh["task.class_weights"] = "auto"
    recipe = with_settings(recipe, {**fresh, **(settings or {})})
    if not TUNINGS.load(recipe.tuning.name).needs_steps and recipe.start.replay < 1:
        why = "its head is solved anew on all images, and would know nothing of those that are not shown"
        hint = "--replay 1, or fit with a tuning that trains, such as lora"
        raise UsageError(
            "a probe needs all its old images to go on", where="start.replay", why=why, hint=hint
        )
    return fit(recipe, out, command=command, started=started)
