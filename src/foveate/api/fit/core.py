"""fit DATA: adapts a backbone to a task, and says what came of it."""

from __future__ import annotations

import time
from pathlib import Path

from foveate.api.fit.ladder import AUTO, climb, climb_on
from foveate.api.fit.pipeline import FitResult, adapted, prepared, reopened
from foveate.api.fit.resume import going_on
from foveate.errors import UsageError
from foveate.recipe import Recipe
from foveate.run.folder import Run
from foveate.training.resolve import read
from foveate.utils import console


def fit(
    recipe: Recipe | None,
    out: Path | None = None,
    resume: Path | None = None,
    command: str = "",
    started: float | None = None,
) -> FitResult:
    """Reads, splits, adapts, saves and evaluates; the run folder holds everything.

    `resume` goes on with an unfinished run, by its own recipe: of `recipe` it takes what moves no weight, and refuses what differs
    otherwise. `started`: the moment of time.monotonic() from which a time
    budget counts; now by default. Raises what the parts raise: UsageError, DataError, WeightsError, RunError, Interrupted.
    """
    started = time.monotonic() if started is None else started
    if resume is not None:
        return _resumed(Run.open(resume), recipe, command, started)
    if recipe is None:
        raise UsageError("no data was named", hint="foveate fit FOLDER")
    if recipe.tuning.name == AUTO:
        return climb(recipe, out, command, started)
    Run.refuse_taken(out)
    job = prepared(recipe, read(recipe, names_alone=True), out, command)
    with job.run.locked():
        return adapted(job, command)


def _resumed(run: Run, asked: Recipe | None, command: str, started: float) -> FitResult:
    if run.finished:
        console.say(f"{run.folder} is finished: nothing to do")
        return FitResult(run.folder, None, run.outcome())
    if run.recipe().tuning.name == AUTO:
        going_on(run, asked, free=())
        return climb_on(run, command, started)
    with run.locked():
        run.sweep()
        return adapted(reopened(run, going_on(run, asked)), command)
