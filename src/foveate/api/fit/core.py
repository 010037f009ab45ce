"""fit DATA: adapt a pretrained backbone to labeled images, and evaluate it."""

from __future__ import annotations

from pathlib import Path

from foveate.api.fit.pipeline import FitResult, prepare_job, reopen_job, run_job
from foveate.api.fit.resume import resumed_recipe
from foveate.api.fit.tuning_search import AUTO, resume_search, search_tunings
from foveate.api.names import check_names
from foveate.recipe import Recipe
from foveate.run.folder import Run
from foveate.training.clock import warn_if_exceeded
from foveate.training.data import read_data
from foveate.utils import log
from foveate.utils.invocation import current_invocation


def fit_recipe(
    recipe: Recipe | None, out: Path | None = None, resume: Path | None = None
) -> FitResult:
    """Read, split, train, save and evaluate; the run folder holds everything.

    Args:
        recipe: What to do, resolved or not; None only with `resume`.
        out: Run folder to create.
        resume: Unfinished run to resume by its own recipe: of `recipe` it takes what does not
            affect the weights, and refuses what differs otherwise.
    """
    started = current_invocation().started
    if resume is not None:
        return _resume(Run.open(resume), recipe, started)
    assert recipe is not None
    check_names(recipe)
    if recipe.tuning.name == AUTO:
        return search_tunings(recipe, out, started)
    Run.require_free(out, recipe.data.path)
    job = prepare_job(recipe, read_data(recipe, allow_no_images=True), out)
    with job.run.locked():
        result = run_job(job)
    warn_if_exceeded(job.budget)
    return result


def _resume(run: Run, requested: Recipe | None, started: float) -> FitResult:
    if run.finished:
        log.info(f"{run.folder} is finished: nothing to do")
        return FitResult(run.folder, None, run.outcome())
    if run.recipe().tuning.name == AUTO:
        resumed_recipe(run, requested, free=())
        return resume_search(run, started)
    with run.locked():
        run.remove_partial_files()
        return run_job(reopen_job(run, resumed_recipe(run, requested)))
