"""Words -> data: what was asked for, read; and what the words left open, decided, each time with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from foveate.data.formats import FORMATS, read_table
from foveate.data.mosaic import refuse_placeless
from foveate.data.tables import label_names
from foveate.errors import DataError, UsageError
from foveate.modeling.backbones import family_of
from foveate.modeling.tasks import TASKS, DataFacts, Task
from foveate.modeling.tunings import TUNINGS, Tuning
from foveate.predictions import Boxes, ImagePrediction, Labels, Text
from foveate.recipe import Recipe, with_settings, with_suggestions
from foveate.run.lineage import with_earlier
from foveate.training.planning import choose_norms
from foveate.types import Table
from foveate.utils import log


def read_data(recipe: Recipe, names_alone: bool = False) -> Table:
    """The data that the recipe names, said aloud; with the pictures of the run that it goes on from. `names_alone`: whether there
    may be classes without any image."""
    if not recipe.data.path:
        raise UsageError("no data was named", hint="foveate fit FOLDER")
    table = read_table(Path(recipe.data.path), recipe.data.format)
    summary = FORMATS.get(table.format).summary
    log.info(
        f"data: {recipe.data.path}, read as {summary}: {len(table.samples)} images, {_kinds(table)}"
    )
    for note in table.notes:
        log.warning(note)
    _tell_boxes(table)
    if not (table.samples or names_alone):
        hint = "foveate fit --tuning zeroshot needs none"
        raise DataError("there are names here, and no image", where=recipe.data.path, hint=hint)
    return with_earlier(table, recipe)


def _kinds(table: Table) -> str:
    """How many classes, or sentences."""
    sentences = sum(
        len(sample.target.sentences) for sample in table.samples if isinstance(sample.target, Text)
    )
    if table.samples and isinstance(table.samples[0].target, ImagePrediction):
        return "no labels"
    return f"{sentences} sentences" if sentences else f"{len(table.classes)} classes"


def _tell_boxes(table: Table) -> None:
    """Boxes and images of each class, before anything is trained."""
    boxes: Counter[str] = Counter()
    pictures: Counter[str] = Counter()
    for sample in table.samples:
        if isinstance(sample.target, Boxes):
            boxes.update(sample.target.names)
            pictures.update(set(sample.target.names))
    if boxes:
        rows = [[name, str(boxes[name]), str(pictures[name])] for name in table.classes]
        log.table(["class", "boxes", "images"], rows)


def resolve_recipe(recipe: Recipe, table: Table) -> tuple[Recipe, list[tuple[str, Any, str]]]:
    """The recipe with format, task and the task's own settings decided."""
    found: list[tuple[str, Any, str]] = []
    if recipe.data.format == "auto":
        found.append(
            ("data.format", table.format, "it looks like " + FORMATS.get(table.format).summary)
        )
    recipe = with_settings(
        recipe, {"data.path": str(Path(recipe.data.path).resolve()), "data.format": table.format}
    )
    name = family_of(recipe.backbone.name).resolve_name(recipe.backbone.name)
    if name != recipe.backbone.name:
        recipe = with_settings(recipe, {"backbone.name": name})
    truths = [sample.target for sample in table.samples if sample.split in (None, "train")]
    if recipe.task.name == "auto":
        name, why = "classify", "there are names alone"
        if table.samples:
            name, why = _task_for(truths), "this is what the truths answer"
        found.append(("task", name, why))
        recipe = with_settings(recipe, {"task": {"name": name, **recipe.task.settings}})
    task = TASKS.get(recipe.task.name)
    _refuse_other_truths(truths, recipe.task.name)
    refuse_placeless(recipe.augment, task.prediction_type)
    if not recipe.stated("tuning"):
        name, why = task.default_overrides["tuning"], f"suits the task {recipe.task.name}"
        if not table.samples:
            name, why = "zeroshot", "there are names alone"
        found.append(("tuning", name, why))
        recipe = with_settings(recipe, {"tuning": {"name": name, **recipe.tuning.settings}})
    tuning = TUNINGS.get(recipe.tuning.name)
    if tuning.needs_images and not table.samples:
        what = f"the tuning {recipe.tuning.name!r} learns from images, and there are names alone"
        raise UsageError(what, where="tuning", hint="--tuning zeroshot, or give images too")
    recipe, taken = with_suggestions(recipe, _suggestions(recipe, task, tuning))
    found += taken
    steps = tuning.needs_steps
    if steps and recipe.training.norm == "auto":
        found.append(("training.norm", *choose_norms(recipe)))
        recipe = with_settings(recipe, {"training.norm": found[-1][1]})
    if steps and recipe.backbone.weights == "none" and not recipe.stated("training.head_start"):
        found.append(
            (
                "training.head_start",
                "random",
                "the features of random weights are not yet what a head could be solved on",
            )
        )
        recipe = with_settings(recipe, {"training.head_start": "random"})
    for field, value, reason in tuning.resolve_settings(recipe.tuning.settings, table.classes):
        found.append((f"tuning.{field}", value, reason))
        recipe = with_settings(recipe, {f"tuning.{field}": value})
    facts = DataFacts(table.multilabel, closed_form=not steps)
    for field, value, reason in task.resolve_settings(recipe.task.settings, truths, table.classes, facts):
        found.append((f"task.{field}", value, reason))
        recipe = with_settings(recipe, {f"task.{field}": value})
    return recipe, found


def _suggestions(
    recipe: Recipe, task: type[Task], tuning: type[Tuning]
) -> dict[str, tuple[Any, str]]:
    """field -> value and reason; what the tuning says counts more than what the backbone says, and that more than the task."""
    backbone, how = recipe.backbone.name, recipe.tuning.name
    found: dict[str, tuple[Any, str]] = {}
    for suggested, reason in (
        (task.default_overrides, f"suits the task {recipe.task.name}"),
        (family_of(backbone).default_overrides(backbone, how), f"suits {how} of {backbone}"),
        (tuning.default_overrides, f"suits the tuning {how}"),
    ):
        found |= {field: (value, reason) for field, value in suggested.items()}
    return {
        field: pair
        for field, pair in found.items()
        if _means_something(field, pair[0], recipe, task)
    }


def _means_something(field: str, value: Any, recipe: Recipe, task: type[Task]) -> bool:
    """Whether a suggestion is one: the task knows the field, or the recipe has it at another value."""
    section, _, name = field.partition(".")
    if section == "task":
        return name in task.Settings.model_fields
    return bool(getattr(getattr(recipe, section), name, None) != value)


def _refuse_other_truths(truths: Sequence[Any], name: str) -> None:
    task = TASKS.get(name)
    takes = task.target_types or (task.prediction_type,)
    odd = next(
        (truth for truth in truths if truth is not None and not isinstance(truth, takes)), None
    )
    if odd is not None:
        kinds, fitting = (
            ", ".join(kind.__name__.lower() for kind in kinds) for kinds in (takes, [type(odd)])
        )
        what = f"the task {name!r} learns from {kinds}, and this data has {fitting}"
        raise UsageError(what, where="task", hint="leave --task out, or give other data")


def _task_for(truths: Sequence[Any]) -> str:
    """The task whose answers look like these truths."""
    if truths and isinstance(truths[0], ImagePrediction):
        hint = "--task generate paints more like these, foveate pretrain learns from them; or put each class into a folder"
        raise UsageError("these pictures have no labels", where="task", hint=hint)
    fitting = [
        name for name in TASKS.names() if truths and isinstance(truths[0], TASKS.get(name).prediction_type)
    ]
    if len(fitting) != 1:
        hint = "--task " + "|".join(fitting or TASKS.names())
        raise UsageError("the data does not say which task this is", where="task", hint=hint)
    return fitting[0]


def check_trainable_classes(table: Table, task: str, known: Collection[str] = ()) -> None:
    """A class that no training image shows cannot be learnt, unless an earlier run has: `known`. Fewer than two classes of whole
    images are no question, where they are one."""
    if not table.samples or TASKS.get(task).prediction_type not in (Labels, Boxes):
        return
    taught = {name for sample in table.in_split("train") for name in label_names(sample)} | set(known)
    if (
        len(taught) < (1 if isinstance(table.samples[0].target, Boxes) else 2)
        and not table.multilabel
    ):
        what = (
            f"only one class has training images: {next(iter(taught))!r}"
            if taught
            else "there are no training images"
        )
        raise DataError(what, where=table.root, hint="give images of another class")
    for name in sorted(set(table.classes) - taught):
        log.warning(f"the class {name!r} has no training image: it will never be the answer")
