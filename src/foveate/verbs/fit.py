"""fit DATA: adapts a backbone to a task, and says what came of it."""

from __future__ import annotations

import time
from pathlib import Path

from foveate import console
from foveate.recipe import Recipe
from foveate.run import Run
from foveate.settling import read
from foveate.verbs._fitting import FitResult, adapted, prepared, reopened
from foveate.verbs.ladder import AUTO, climb, climb_on


def fit(
    recipe: Recipe, out: Path | None = None, resume: Path | None = None, command: str = "", started: float | None = None
) -> FitResult:
    """Reads, splits, adapts, saves and evaluates; the run folder holds everything.

    `resume` goes on with an unfinished run, whose own recipe counts. `started`: the moment of time.monotonic() from which a time
    budget counts; now by default. Raises what the parts raise: UsageError, DataError, WeightsError, RunError, Interrupted.
    """
    started = time.monotonic() if started is None else started
    if resume is not None:
        return _resumed(Run.open(resume), command, started)
    if recipe.tuning.name == AUTO:
        return climb(recipe, out, command, started)
    Run.refuse_taken(out)
    job = prepared(recipe, read(recipe, names_alone=True), out, command)
    with job.run.locked():
        return adapted(job, command)


def _resumed(run: Run, command: str, started: float) -> FitResult:
    if run.finished:
        console.say(f"{run.folder} is finished: nothing to do")
        return FitResult(run.folder, None, run.outcome())
    if run.recipe().tuning.name == AUTO:
        return climb_on(run, command, started)
    with run.locked():
        run.sweep()
        return adapted(reopened(run), command)
