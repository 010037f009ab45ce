"""Resolving a recipe: every field that the user left open is decided, with a reason."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from foveate.data.formats import FORMATS
from foveate.data.image_cache import rendering_of
from foveate.data.mosaic import require_spatial_targets
from foveate.data.streaming import find_entries
from foveate.data.tables import other_targets
from foveate.data.value_range import holds_deep_images, measure_value_range
from foveate.errors import BrokenImage, UsageError
from foveate.images.codec import read_size
from foveate.messages import Message
from foveate.modeling.backbones import family_of
from foveate.modeling.tasks import TASKS, DataFacts, SpatialTask, Task
from foveate.modeling.tunings import TUNINGS, Tuning
from foveate.predictions import Boxes, ImagePrediction
from foveate.recipe import Recipe, with_defaults, with_settings, without_settings
from foveate.training.objectives import OBJECTIVES
from foveate.training.unused_settings import refuse_unused, unused_settings
from foveate.types import Decision, Table, content_of

DEFAULT_OBJECTIVE = "lejepa"
_PRETRAINING: dict[str, Any] = {
    "training.epochs": 100,
    "training.patience": 0,
    "training.ema": 0,
    "training.head_init": "random",
    "augment.policy": "none",
    "training.layer_decay": 1.0,
}
_FROM_SCRATCH: dict[str, Any] = {
    "tuning": "full",
    "training.batch_norm": "learn",
    "training.lr": 1e-3,
}
_FROM_PRETRAINED: dict[str, Any] = {
    "tuning": "explora",
    "training.batch_norm": "keep",
    "training.lr": 3e-4,
    "training.l2_sp": 0.01,
    "training.epochs": 20,
    "training.head_epochs": 1,
}

Defaults = Mapping[str, tuple[Any, Message]]
"""A value and the reason for it, by dotted field."""

_MEASURED_SIZES = 200  # images whose size is read
_SIZE_STEP = 32  # px
_MAX_PIXELS = 8 * 512**2  # of a detector at once, as with the default batch: about 5 GB
_SHORT, _LONG = Message("choice.short_side", "short"), Message("choice.long_side", "long")
_NAMES_ONLY = Message("choice.names_only", "only class names were given")


@dataclass
class Resolution:
    """A recipe that is being resolved, and the decisions so far."""

    recipe: Recipe
    decisions: list[Decision] = field(default_factory=list)

    def spell_out(self, name: str, value: Any) -> None:
        """Set a dotted field to what the user meant; that is no decision."""
        self.recipe = with_settings(self.recipe, {name: value})

    def decide(self, name: str, value: Any, reason: str | Message) -> None:
        """Set a dotted field, and remember why."""
        self.recipe = with_settings(self.recipe, {name: value})
        self.decisions.append(Decision(name, value, reason))

    def decide_plugin(self, section: str, name: str, reason: str | Message) -> None:
        """Set the name of a plug-in; the settings that the user gave for it stay."""
        settings = getattr(self.recipe, section).settings
        self.recipe = with_settings(self.recipe, {section: {"name": name, **settings}})
        self.decisions.append(Decision(section, name, reason))

    def decide_settings(self, section: str, decisions: Iterable[Decision]) -> None:
        """Set settings of the plug-in in a section."""
        for name, value, reason in decisions:
            self.decide(f"{section}.{name}", value, reason)

    def decide_defaults(self, defaults: Defaults) -> None:
        """Set those of the fields that are still open."""
        self.recipe, decisions = with_defaults(self.recipe, defaults)
        self.decisions += decisions


def resolve_recipe(recipe: Recipe, table: Table) -> tuple[Recipe, list[Decision]]:
    """Resolve what depends on the data, the backbone and the plug-ins.

    What has to be measured, or depends on the model, follows in `planning`.

    Args:
        recipe: The recipe that the user asked for.
        table: The data that it names.

    Returns:
        The recipe, and what was decided for the user.

    Raises:
        UsageError: The settings do not fit together, or the task cannot be inferred from the data.
    """
    resolution, size_is_open = Resolution(recipe), not recipe.is_set("backbone.size")
    _resolve_data(resolution, table)
    _resolve_value_range(resolution, table)
    _resolve_backbone(resolution)
    task, tuning = _resolve_task(resolution, table), _resolve_tuning(resolution, table)
    refuse_unused(_unused(resolution.recipe, task, tuning))
    resolution.decide_defaults(_effective_defaults(resolution.recipe, task, tuning))
    if size_is_open:
        every = max(1, len(table.samples) // _MEASURED_SIZES)
        _resolve_size(resolution, (each.source for each in table.samples[::every]), task)
    _resolve_training(resolution, tuning)
    if tuning.needs_steps:
        _limit_memory(resolution, task)
    settings = resolution.recipe.tuning.settings
    resolution.decide_settings("tuning", tuning.resolve_settings(settings, table.classes))
    facts = DataFacts(table.multilabel, closed_form=not tuning.needs_steps)
    settings, targets = resolution.recipe.task.settings, _training_targets(table)
    chosen = task.resolve_settings(settings, targets, table.classes, facts)
    resolution.decide_settings("task", chosen)
    return resolution.recipe, resolution.decisions


def without_unused_settings(recipe: Recipe, table: Table) -> tuple[Recipe, list[str]]:
    """Leave out the settings that the tuning of a recipe cannot honor, for one of several trials.

    Args:
        recipe: The recipe of the trial.
        table: The data that it names.

    Returns:
        The recipe, and the dotted fields that were left out.
    """
    resolution = Resolution(recipe)
    task, tuning = _resolve_task(resolution, table), _resolve_tuning(resolution, table)
    unused = list(_unused(resolution.recipe, task, tuning))
    return without_settings(recipe, unused), unused


def resolve_pretraining(recipe: Recipe) -> tuple[Recipe, list[Decision]]:
    """Resolve a recipe of pretraining, by the objective and the origin of the weights.

    Returns:
        The recipe, and what was decided for the user.

    Raises:
        UsageError: It asks for other bands, or more bits, than pretraining reads.
    """
    if recipe.data.bands or recipe.data.bits != 8:
        raise UsageError(
            "pretraining reads images as RGB of 8 bits",
            where="data.bands" if recipe.data.bands else "data.bits",
            hint="leave it out; foveate fit reads other bands and 16 bits",
        )
    resolution = Resolution(recipe)
    if recipe.task.name == "auto":
        resolution.decide_plugin(
            "task", DEFAULT_OBJECTIVE, Message("choice.every_backbone", "suits every backbone")
        )
    else:
        resolution.decide_plugin("task", recipe.task.name, Message("choice.as_set", "as set"))
    name = resolution.recipe.task.name
    objective = OBJECTIVES.get(name)
    from_scratch = recipe.backbone.weights == "none"
    if from_scratch:
        start = _FROM_SCRATCH
        why = Message("choice.from_scratch", "random weights have everything to learn")
    else:
        start = _FROM_PRETRAINED
        why = Message("choice.near_pretrained", "stays close to the pretrained weights")
    defaults = _with_reason(
        _PRETRAINING, Message("choice.usual_pretraining", "usual for pretraining")
    )
    defaults |= _with_reason(start, why)
    why = Message("choice.suits_objective", "suits the objective {name}", name=name)
    defaults |= _with_reason(objective.default_overrides, why)
    if from_scratch:
        why = Message(
            "choice.suits_objective_scratch",
            "suits the objective {name} from random weights",
            name=name,
        )
        defaults |= _with_reason(objective.overrides_from_scratch, why)
    resolution.decide_defaults(defaults)
    if not recipe.is_set("backbone.size"):
        entries = islice(find_entries(Path(recipe.data.path)), _MEASURED_SIZES)
        _resolve_size(resolution, (content_of(entry) for entry in entries), None)
    resolution.spell_out("data.path", str(Path(recipe.data.path).resolve()))
    return resolution.recipe, resolution.decisions


def choose_norm_statistics(recipe: Recipe) -> Decision:
    """Decide whether batch normalization keeps its statistics or learns new ones.

    A head that is fitted to features under the old statistics does not fit new ones.
    """
    name = "training.batch_norm"
    if recipe.backbone.weights == "none":
        return Decision(
            name,
            "learn",
            Message("choice.no_statistics", "random weights have no statistics to keep"),
        )
    why = Message(
        "choice.keep_statistics",
        "the pretrained statistics serve better than those of a few images",
    )
    return Decision(name, "keep", why)


def _resolve_data(resolution: Resolution, table: Table) -> None:
    path, summary = resolution.recipe.data.path, FORMATS.get(table.format).summary
    resolution.spell_out("data.path", str(Path(path).resolve()))
    if resolution.recipe.data.format == "auto":
        looks_like = Message(f"format.{table.format}", summary)
        reason = Message("choice.read_as", "read as {format}", format=looks_like)
        resolution.decide("data.format", table.format, reason)
    else:
        resolution.spell_out("data.format", table.format)


def _resolve_value_range(resolution: Resolution, table: Table) -> None:
    """Bring images of more than 8 bits to one scale, measured over all of them; and keep them."""
    if not resolution.recipe.is_set("data.value_range"):
        measured = measure_value_range(table.samples, rendering_of(resolution.recipe.data))
        if measured is not None:
            why = Message(
                "choice.value_range",
                "the values that images of more than 8 bits reach in these data",
            )
            resolution.decide("data.value_range", measured, why)
    if not resolution.recipe.is_set("data.bits") and holds_deep_images(table.samples):
        why = Message("choice.deep_images", "some of these images have more than 8 bits")
        resolution.decide("data.bits", 16, why)


def _resolve_backbone(resolution: Resolution) -> None:
    """Replace a short name of a backbone by its full name."""
    name = resolution.recipe.backbone.name
    full_name = family_of(name).resolve_name(name)
    if full_name != name:
        resolution.spell_out("backbone.name", full_name)


def _resolve_size(
    resolution: Resolution, sources: Iterable[Path | bytes], task: type[Task] | None
) -> None:
    """Let small images be small: a network without weights has no size that it is used to.

    Args:
        resolution: The recipe; its weights and its backbone are known.
        sources: Some of the images.
        task: The task; None for pretraining.
    """
    backbone = resolution.recipe.backbone
    flexible = family_of(backbone.name).flexible_size(backbone.name)
    if backbone.weights != "none" or flexible is None:
        return
    usual, pixel = backbone.size or flexible[0], flexible[1]
    # where whole images are shown, the long side has to fit
    longest = task is not None and issubclass(task, SpatialTask)
    sides = []
    for source in sources:
        with suppress(BrokenImage):
            sides.append(sorted(read_size(source))[longest])
    if not sides:
        return
    median = statistics.median(sides)
    size = _SIZE_STEP * math.ceil(max(median, 2 * pixel) / _SIZE_STEP)
    if size < usual:
        text = (
            "random weights learn from images of any size, and the {which} side of these is about "
            "{median} px"
        )
        which = _LONG if longest else _SHORT
        reason = Message("choice.small_images", text, which=which, median=f"{median:.0f}")
        resolution.decide("backbone.size", size, reason)


def _resolve_task(resolution: Resolution, table: Table) -> type[Task]:
    targets = _training_targets(table)
    if table.samples and not targets:
        splits = " and ".join(sorted({str(sample.split) for sample in table.samples}))
        raise UsageError(
            "there are no training images",
            where=table.root,
            why=f"all {len(table.samples)} images belong to {splits}",
            hint="give the folder above, if the training images are beside it",
        )
    if resolution.recipe.task.name == "auto":
        if table.samples:
            reason = Message("choice.label_type", "matches the type of the labels")
            resolution.decide_plugin("task", _task_for(targets), reason)
        else:
            resolution.decide_plugin("task", "classify", _NAMES_ONLY)
    name = resolution.recipe.task.name
    task = TASKS.get(name)
    _check_target_types(targets, name, task)
    require_spatial_targets(resolution.recipe.augment, task.prediction_type)
    return task


def _resolve_tuning(resolution: Resolution, table: Table) -> type[Tuning]:
    if not resolution.recipe.is_set("tuning"):
        task = resolution.recipe.task.name
        if table.samples:
            default = TASKS.get(task).default_overrides["tuning"]
            resolution.decide_plugin("tuning", default, _suits_task(task))
        else:
            resolution.decide_plugin("tuning", "zeroshot", _NAMES_ONLY)
    name = resolution.recipe.tuning.name
    tuning = TUNINGS.get(name)
    if tuning.needs_images and not table.samples:
        what = f"the tuning {name!r} learns from images, but only class names were given"
        raise UsageError(what, where="tuning", hint="--tuning zeroshot, or give images too")
    return tuning


def _unused(recipe: Recipe, task: type[Task], tuning: type[Tuning]) -> dict[str, str]:
    """Settings that the user gave and the tuning cannot honor, with the reason."""
    usual = {name: value for name, (value, _) in _plugin_defaults(recipe, task, tuning).items()}
    statistics = choose_norm_statistics(recipe)
    return unused_settings(recipe, task, tuning, {**usual, statistics.field: statistics.value})


def _resolve_training(resolution: Resolution, tuning: type[Tuning]) -> None:
    if not tuning.needs_steps:
        return
    recipe = resolution.recipe
    if recipe.training.batch_norm == "auto":
        resolution.decide(*choose_norm_statistics(recipe))
    if recipe.backbone.weights == "none" and not recipe.is_set("training.head_init"):
        why = Message("choice.no_basis", "features of random weights are no basis to fit a head on")
        resolution.decide("training.head_init", "random", why)


def _limit_memory(resolution: Resolution, task: type[Task]) -> None:
    """Divide the steps of a detector whose batch would take some gigabytes.

    It follows from the recipe alone, so that a run can be repeated on another machine. The
    statistics of a batch cannot be divided: where they are learned, the batch stays whole.
    """
    training, size = resolution.recipe.training, resolution.recipe.backbone.size
    whole = resolution.recipe.is_set("training.micro_batch") or training.batch_norm == "learn"
    if task.prediction_type is not Boxes or size is None or whole:
        return
    images = max(2, _MAX_PIXELS // size**2)
    if images < training.batch_size:
        text = "{batch_size} images of {size} px at once take much memory; the step is the same"
        reason = Message("choice.bounded_memory", text, batch_size=training.batch_size, size=size)
        resolution.decide("training.micro_batch", images, reason)


def _plugin_defaults(recipe: Recipe, task: type[Task], tuning: type[Tuning]) -> Defaults:
    """Collect what plug-ins prefer; the tuning overrides the backbone, and that the task."""
    backbone, method = recipe.backbone.name, recipe.tuning.name
    of_backbone = family_of(backbone).default_overrides(backbone, method)
    defaults = _with_reason(task.default_overrides, _suits_task(recipe.task.name))
    text = "suits {tuning} of {backbone}"
    why = Message("choice.suits_backbone", text, tuning=method, backbone=backbone)
    defaults |= _with_reason(of_backbone, why)
    why = Message("choice.suits_tuning", "suits the tuning {tuning}", tuning=method)
    return defaults | _with_reason(tuning.default_overrides, why)


def _effective_defaults(recipe: Recipe, task: type[Task], tuning: type[Tuning]) -> Defaults:
    """Collect of what plug-ins prefer that which the task has and which is not so already."""
    return {
        name: default
        for name, default in _plugin_defaults(recipe, task, tuning).items()
        if _has_effect(name, default[0], recipe, task)
    }


def _suits_task(task: str) -> Message:
    return Message("choice.suits_task", "suits the task {task}", task=task)


def _with_reason(values: Mapping[str, Any], reason: Message) -> dict[str, tuple[Any, Message]]:
    return {name: (value, reason) for name, value in values.items()}


def _has_effect(name: str, value: Any, recipe: Recipe, task: type[Task]) -> bool:
    """Whether the task has this setting, or the recipe has another value in this field."""
    section, _, last = name.partition(".")
    if section == "task":
        return last in task.Settings.model_fields
    return bool(getattr(getattr(recipe, section), last, None) != value)


def _training_targets(table: Table) -> list[Any]:
    return [sample.target for sample in table.samples if sample.split in (None, "train")]


def _task_for(targets: Sequence[Any]) -> str:
    """Return the task whose predictions are of the type of these targets."""
    if targets and isinstance(targets[0], ImagePrediction):
        hint = "put each class into a folder of its own; or use foveate pretrain to learn from "
        hint += "them, or --task generate to generate similar ones"
        raise UsageError("these images have no labels", where="task", hint=hint)
    fitting = [
        name
        for name in TASKS.names()
        if targets and isinstance(targets[0], TASKS.get(name).prediction_type)
    ]
    if len(fitting) != 1:
        hint = "--task " + "|".join(fitting or TASKS.names())
        raise UsageError("the labels fit more than one task, or none", where="task", hint=hint)
    return fitting[0]


def _check_target_types(targets: Sequence[Any], name: str, task: type[Task]) -> None:
    """Raise UsageError if the task cannot learn from a target."""
    if error := other_targets(targets, task.accepted_targets(), name):
        raise error
