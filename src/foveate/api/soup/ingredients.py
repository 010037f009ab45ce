"""The runs that weights are averaged from: opened, compared, and refused where an average would mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveate.api.soup.averaging import Tensors, refuse_strangers
from foveate.errors import DataError, UsageError
from foveate.inference.predictor import weights_mismatch
from foveate.modeling.tasks import TASKS
from foveate.modeling.tunings import TUNINGS
from foveate.modeling.weights import read_run_tensors, weights_fingerprint
from foveate.predictions import Labels
from foveate.recipe import with_settings
from foveate.run.folder import Run
from foveate.training.head_init import fit_head, head_training_features
from foveate.training.job import Job


def opened(folders: Sequence[Path]) -> list[Run]:
    """Finished, undamaged runs that can be averaged with each other, or, of a single one, with its start.

    Raises UsageError, RunError and DataError.
    """
    if not folders:
        raise UsageError("no run was named", hint="foveate soup RUN [RUN ...]")
    runs = [Run.open(folder) for folder in folders]
    for run in runs:
        run.require_continuable()
        run.verify()
        if not any(row["split"] == "val" for row in run.splits()):
            hint = (
                "fit with --set data.val=0.15: an average is chosen on images that trained nothing"
            )
            raise DataError(
                "this run has no validation images to choose by", where=run.folder, hint=hint
            )
    if len(runs) == 1:
        _refuse_startless(runs[0])
    for other in runs[1:]:
        _refuse_unlike(runs[0], other)
    return runs


def _refuse_startless(run: Run) -> None:
    """One run is averaged with its start, which has to be a network that answers."""
    recipe = run.recipe()
    what, hint = "", "name several runs of the same data and backbone: foveate soup RUN RUN"
    if TASKS.get(recipe.task.name).prediction_type is not Labels:
        what = f"a run of the task {recipe.task.name!r} began with a random head: there is no start to average it with"
    elif not TUNINGS.get(recipe.tuning.name).needs_steps:
        what, hint = (
            "this run never left its start: there is nothing to average",
            "fit with a tuning that trains, such as full",
        )
    elif recipe.training.head_init != "probe":
        what = "this run began with a random head: there is no start to average it with"
        hint = f"fit with --set training.head_init=probe, or {hint}"
    if what:
        raise UsageError(what, where=run.folder, hint=hint)


def _refuse_unlike(first: Run, other: Run) -> None:
    if first.classes() != other.classes():
        strangers = sorted({*first.classes()} ^ {*other.classes()})
        why = (
            f"classes that only one of them knows: {', '.join(strangers)}"
            if strangers
            else "its classes have another order"
        )
        raise _unlike(other, f"{why}; the first is {first.folder}", "fit the runs on the same data")
    ours, theirs = _facts(first), _facts(other)
    odd = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if odd:
        why = f"{odd[0]} is {theirs.get(odd[0])} there and {ours.get(odd[0])} in {first.folder}"
        raise _unlike(other, why, "fit the runs alike but for seed, training and augment")
    _refuse_other_splits(first, other)


def _facts(run: Run) -> dict[str, Any]:
    """What has to be equal for weights to mean the same in two runs, by its name in the recipe or in words."""
    recipe, outcome = run.recipe(), run.outcome()
    names = {"task.name": recipe.task.name, "tuning.name": recipe.tuning.name}
    sections = {  # with the settings that nobody stated
        "backbone": recipe.backbone,
        "task": TASKS.get(recipe.task.name).Settings(**recipe.task.settings),
        "tuning": TUNINGS.get(recipe.tuning.name).Settings(**recipe.tuning.settings),
    }
    facts = {
        f"{section}.{name}": value
        for section, settings in sections.items()
        for name, value in settings.model_dump().items()
    }
    drawn = (
        {"the seed of its random weights": recipe.seed} if recipe.backbone.weights == "none" else {}
    )
    frozen = {
        "the origin of its weights": outcome["origin"],
        "the fingerprint of its frozen weights": outcome["frozen"],
    }
    return {**names, **facts, **drawn, **frozen, "start.run": recipe.start.run}


def _refuse_other_splits(first: Run, other: Run) -> None:
    """A picture that one run was validated on must not be one that another was trained on: it would choose what knows it."""
    ours, theirs = (
        {row["path"]: (row["split"], row["sha256"]) for row in run.splits()}
        for run in (first, other)
    )
    odd = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    if odd:
        there, here = (known.get(odd[0], ("unknown", ""))[0] for known in (theirs, ours))
        first_one = (
            f"{odd[0]!r} is {there} there and {here}"
            if there != here
            else f"{odd[0]!r} is another file"
        )
        hint = "fit the runs with one seed, or on data with folders train, val and test"
        raise _unlike(
            other, f"the splits differ in {len(odd)} pictures: {first_one} in {first.folder}", hint
        )


def _unlike(other: Run, why: str, hint: str) -> UsageError:
    return UsageError(
        "this run cannot be averaged with the first one", where=other.folder, why=why, hint=hint
    )


def end_of(run: Run, job: Job) -> Tensors:
    """The weights that a run ended with."""
    found = read_run_tensors(run.folder)
    refuse_strangers(found, job.model.trained_tensors(), run.folder)
    return found


def start_of(job: Job) -> Tensors:
    """The weights that a run began with: the backbone as it came, and the head that is solved on its features.

    `job` has a fresh model. Raises RunError when the backbone's weights are not those of then.
    """
    outcome = job.run.outcome()
    if (
        not outcome["frozen"] and outcome["origin"] != job.model.backbone.origin
    ):  # all of it moved: no fingerprint can tell
        raise weights_mismatch(job.run, job.model)
    job = replace(job, recipe=with_settings(job.recipe, {"data.leakage_audit": False}))
    fit_head(job, head_training_features(job))
    return {name: tensor.detach().cpu().clone() for name, tensor in job.model.trained_tensors().items()}


def refuse_other_frozen(job: Job) -> None:
    """Raises RunError when the weights that stood still are not those that the run was trained with."""
    frozen = job.run.outcome()["frozen"]
    if frozen and weights_fingerprint(job.model.frozen_tensors()) != frozen:
        raise weights_mismatch(job.run, job.model)
