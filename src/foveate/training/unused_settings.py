"""Settings that the user gave and that a tuning cannot honor: refused by name, or left out.

Defaults are never meant: a value that the recipe would have anyway changes nothing, so that a
recipe that a run wrote can be used again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from foveate.errors import UsageError
from foveate.modeling.tasks import Task
from foveate.modeling.tunings import Tuning
from foveate.recipe import (
    SHORT_OPTIONS,
    AugmentRecipe,
    Recipe,
    TrainingRecipe,
    default_value,
)

_OPEN = ("auto", "none")  # values of task settings that leave the choice to the program
# what counts where a head is fitted in closed form: how features are computed, and the time limit
_CLOSED_FORM = frozenset(
    f"training.{name}" for name in ("batch_size", "minutes", "precision", "channels_last")
)
_OF_STEPS = frozenset(
    (
        *(f"training.{name}" for name in TrainingRecipe.model_fields),
        *(f"augment.{name}" for name in AugmentRecipe.model_fields),
        "start.distill",
        "start.temperature",
    )
)
_OF_TRAINED_BACKBONE = frozenset(
    f"training.{name}"
    for name in ("l2_sp", "drop_path", "head_epochs", "gradient_checkpointing", "layer_decay")
)
_OF_LAYERS = frozenset(("training.layer_decay",))
_OPTIMIZER = "the optimizer is"
_WITH_MOMENTUM, _OF_MOMENTUM = "sgd", frozenset(("training.momentum",))
_OF_TRAINED_NORMS = frozenset(("training.batch_norm",))


def unused_settings(
    recipe: Recipe, task: type[Task], tuning: type[Tuning], defaults: Mapping[str, Any]
) -> dict[str, str]:
    """Return settings of a recipe that its tuning cannot honor, each with the reason.

    Args:
        recipe: The recipe.
        task: Its task.
        tuning: Its tuning.
        defaults: Values that the recipe has where the user sets none, by dotted field; those of
            `foveate.recipe` where a field is missing.
    """
    unused = dict[str, str]()
    for fields, reason in _without_effect(recipe, tuning):
        for name in sorted(fields):
            value = _value(recipe, name)
            if recipe.is_set(name) and value not in (default_value(name), defaults.get(name)):
                unused.setdefault(name, reason)
    if not tuning.needs_steps:
        known = task.Settings.model_fields
        for name, value in sorted(recipe.task.settings.items()):
            usual = (known[name].default, *_OPEN) if name in known else ()
            if name in task.step_settings and value not in usual:
                unused[f"task.{name}"] = _closed_form(recipe.tuning.name)
    return unused


def refuse_unused(unused: Mapping[str, str]) -> None:
    """Raise UsageError for settings without effect, as `unused_settings` returns them."""
    if not unused:
        return
    reason = next(iter(unused.values()))
    names = [name for name, why in unused.items() if why == reason]
    verb = "has" if len(names) == 1 else "have"
    raise UsageError(
        f"{reason}, where {_listed(names)} {verb} no effect",
        where=names[0],
        hint=f"leave it out; or --set training.optimizer={_WITH_MOMENTUM}"
        if reason.startswith(_OPTIMIZER)
        else "leave it out; or --tuning full, which trains the whole network in steps",
    )


def _without_effect(recipe: Recipe, tuning: type[Tuning]) -> Iterator[tuple[frozenset[str], str]]:
    """Fields that a tuning, or the optimizer, cannot honor, and why."""
    name, optimizer = recipe.tuning.name, recipe.training.optimizer
    if not tuning.needs_steps:
        yield _OF_STEPS - _CLOSED_FORM, _closed_form(name)
        return
    if optimizer != _WITH_MOMENTUM:
        yield _OF_MOMENTUM, f"{_OPTIMIZER} {optimizer}"
    if not tuning.trains_backbone:
        yield _OF_TRAINED_BACKBONE, f"the tuning {name!r} leaves the backbone as it is"
    if not tuning.layerwise:
        yield _OF_LAYERS, f"the tuning {name!r} trains all its parameters at one rate"
    if not tuning.trains_norms:
        yield _OF_TRAINED_NORMS, f"the tuning {name!r} trains no normalization of the backbone"


def _closed_form(name: str) -> str:
    return f"the tuning {name!r} fits the head in closed form"


def _listed(names: list[str]) -> str:
    """The settings, with the short options that set some of them."""
    options = {field: option for option, field in SHORT_OPTIONS.items()}
    texts = [
        f"{name} (--{options[name].replace('_', '-')})" if name in options else name
        for name in names
    ]
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def _value(recipe: Recipe, dotted: str) -> Any:
    value: Any = recipe
    for part in dotted.split("."):
        value = getattr(value, part)
    return value
