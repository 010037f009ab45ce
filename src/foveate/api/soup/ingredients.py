"""Opens the runs to average and refuses those whose average would be meaningless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveate.api.soup.averaging import Tensors, check_same_tensors
from foveate.errors import DataError, UsageError
from foveate.inference.predictor import weights_mismatch
from foveate.modeling.tasks import TASKS
from foveate.modeling.tunings import TUNINGS
from foveate.modeling.weights import read_run_tensors, weights_fingerprint
from foveate.predictions import Labels, Number
from foveate.recipe import with_settings
from foveate.run.folder import Run
from foveate.training.head_init import fit_head, fit_to_targets, head_training_features
from foveate.training.job import Job


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """Open finished runs that can be averaged with each other, or a single one with its start.

    Raises:
        UsageError: The runs cannot be averaged.
        RunError: A run is damaged or unfinished.
        DataError: A run has no validation images.
    """
    if not folders:
        raise UsageError("no run was given", hint="foveate soup RUN [RUN ...]")
    runs = [Run.open(folder) for folder in folders]
    for run in runs:
        run.require_continuable()
        run.verify()
        if not any(row["split"] == "val" for row in run.splits()):
            hint = "fit with --set data.val=0.15: averages are selected on validation images"
            raise DataError(
                "this run has no validation images to select by", where=run.folder, hint=hint
            )
    if len(runs) == 1:
        _require_start(runs[0])
    for other in runs[1:]:
        _require_compatible(runs[0], other)
    return runs


def _require_start(run: Run) -> None:
    """Refuse a single run whose start was not a working network."""
    recipe = run.recipe()
    what, hint = "", "name several runs of the same data and backbone: foveate soup RUN RUN"
    if TASKS.get(recipe.task.name).prediction_type not in (Labels, Number):
        what = f"a {recipe.task.name} run has a random initial head: no start to average with"
    elif not TUNINGS.get(recipe.tuning.name).needs_steps:
        what = "this run took no training steps: there is nothing to average"
        hint = "fit with a tuning that trains, such as full"
    elif recipe.training.head_init != "probe":
        what = "this run had a random initial head: no start to average with"
        hint = f"fit with --set training.head_init=probe, or {hint}"
    if what:
        raise UsageError(what, where=run.folder, hint=hint)


def _require_compatible(first: Run, other: Run) -> None:
    if first.classes() != other.classes():
        differing = sorted({*first.classes()} ^ {*other.classes()})
        why = (
            f"classes that only one of them has: {', '.join(differing)}"
            if differing
            else "its classes are in another order"
        )
        raise _incompatible(
            other, f"{why}; the first is {first.folder}", "fit the runs on the same data"
        )
    ours, theirs = _compatibility_facts(first), _compatibility_facts(other)
    differing = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if differing:
        name = differing[0]
        why = f"{name} is {theirs.get(name)} there and {ours.get(name)} in {first.folder}"
        raise _incompatible(other, why, "fit the runs alike but for seed, training and augment")
    _require_same_splits(first, other)


def _compatibility_facts(run: Run) -> dict[str, Any]:
    """What must be equal for weights to be comparable, by recipe field or description."""
    recipe, outcome = run.recipe(), run.outcome()
    names = {"task.name": recipe.task.name, "tuning.name": recipe.tuning.name}
    sections = {  # with default settings filled in
        "backbone": recipe.backbone,
        "task": TASKS.get(recipe.task.name).Settings(**recipe.task.settings),
        "tuning": TUNINGS.get(recipe.tuning.name).Settings(**recipe.tuning.settings),
    }
    facts = {
        f"{section}.{name}": value
        for section, settings in sections.items()
        for name, value in settings.model_dump().items()
    }
    random_weights = (
        {"the seed of its random weights": recipe.seed} if recipe.backbone.weights == "none" else {}
    )
    frozen = {
        "the origin of its weights": outcome["origin"],
        "the fingerprint of its frozen weights": outcome["frozen"],
    }
    return {**names, **facts, **random_weights, **frozen, "start.run": recipe.start.run}


def _require_same_splits(first: Run, other: Run) -> None:
    """Refuse runs with different splits: validation images of one may be training images of
    another.
    """
    ours, theirs = (
        {row["path"]: (row["split"], row["sha256"]) for row in run.splits()}
        for run in (first, other)
    )
    paths = ours.keys() | theirs.keys()
    differing = sorted(path for path in paths if ours.get(path) != theirs.get(path))
    if differing:
        path, count = differing[0], len(differing)
        there, here = (splits.get(path, ("unknown", ""))[0] for splits in (theirs, ours))
        example = f"is {there} there and {here}" if there != here else "is another file"
        raise _incompatible(
            other,
            f"the splits differ in {count} {'image' if count == 1 else 'images'}: "
            f"{path!r} {example} in {first.folder}",
            "fit the runs with one seed, or on data with folders train, val and test",
        )


def _incompatible(other: Run, why: str, hint: str) -> UsageError:
    return UsageError(
        "this run cannot be averaged with the first one", where=other.folder, why=why, hint=hint
    )


def final_weights(run: Run, job: Job) -> Tensors:
    """Return the final weights of a run."""
    tensors = read_run_tensors(run.folder)
    check_same_tensors(tensors, job.model.trained_tensors(), run.folder)
    return tensors


def initial_weights(job: Job) -> Tensors:
    """Return the initial weights of a run: the backbone, and the head fitted to its features.

    `job` has a fresh model.

    Raises:
        RunError: The weights of the backbone are not those that the run started from.
    """
    outcome = job.run.outcome()
    # if everything was trained, there is no fingerprint
    if not outcome["frozen"] and outcome["origin"] != job.model.backbone.origin:
        raise weights_mismatch(job.run, job.model)
    job = replace(job, recipe=with_settings(job.recipe, {"data.leakage_audit": False}))
    fit_to_targets(job)
    fit_head(job, head_training_features(job))
    return {
        name: tensor.detach().cpu().clone() for name, tensor in job.model.trained_tensors().items()
    }


def require_same_frozen(job: Job) -> None:
    """Raise RunError if the frozen weights are not those that the run was trained with."""
    frozen = job.run.outcome()["frozen"]
    if frozen and weights_fingerprint(job.model.frozen_tensors()) != frozen:
        raise weights_mismatch(job.run, job.model)
