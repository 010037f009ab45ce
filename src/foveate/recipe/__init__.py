"""Recipes: everything that decides a training, and how users set it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from foveate.errors import UnknownName, UsageError
from foveate.recipe.sections import (
    MAX_SIZE,
    AugmentRecipe,
    BackboneRecipe,
    DataRecipe,
    PluginChoice,
    Recipe,
    RecipeSection,
    StartRecipe,
    TrainingRecipe,
)
from foveate.utils.paths import did_you_mean_path
from foveate.utils.safe_yaml import parse_yaml
from foveate.utils.validation import validation_error

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from foveate.messages import Message
    from foveate.types import Decision

__all__ = [
    "MAX_SIZE",
    "AugmentRecipe",
    "BackboneRecipe",
    "DataRecipe",
    "PluginChoice",
    "Recipe",
    "RecipeSection",
    "StartRecipe",
    "TrainingRecipe",
]

SHORT_OPTIONS = {
    "format": "data.format",
    "allow_outside": "data.allow_outside",
    "shots": "data.shots",
    "strict": "data.strict",
    "task": "task",
    "backbone": "backbone.name",
    "weights": "backbone.weights",
    "size": "backbone.size",
    "tuning": "tuning",
    "epochs": "training.epochs",
    "minutes": "training.minutes",
    "batch_size": "training.batch_size",
    "optimizer": "training.optimizer",
    "lr": "training.lr",
    "tensorboard": "training.tensorboard",
    "seed": "seed",
    "device": "device",
    "lang": "lang",
}
"""Short option names, of the command line and of Python, and the field that each sets."""

CONTINUE_OPTIONS = {"replay": "start.replay", "distill": "start.distill", **SHORT_OPTIONS}
"""The short options of `foveate continue`."""


def field_info(dotted: str) -> FieldInfo:
    """Return what pydantic knows of a dotted field: annotation, description, bounds."""
    model: Any = Recipe
    *sections, last = dotted.split(".")
    for section in sections:
        model = model.model_fields[section].annotation
    info: FieldInfo = model.model_fields[last]
    return info


def default_value(dotted: str) -> Any:
    """Return the default of a dotted field; of a plug-in its name."""
    value: Any = Recipe()
    for part in dotted.split("."):
        value = getattr(value, part)
    return value.name if isinstance(value, PluginChoice) else value


def recipe_from(
    data: object,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    base: Recipe | None = None,
    names: Mapping[str, str] = SHORT_OPTIONS,
) -> Recipe:
    """Build a recipe from what the user set.

    Args:
        data: Path of the data; None leaves that of `base`.
        options: Values by short option name.
        settings: Values by dotted field name; they override `options`.
        base: Recipe to start from; all defaults if None.
        names: Short option names and the fields that they set.

    Raises:
        UnknownName: There is no such option or field.
        UsageError: A value is invalid.
    """
    unknown = [option for option in options if option not in names]
    if unknown:
        raise UnknownName(unknown[0], names, kind="option")
    assigned = {names[option]: value for option, value in options.items()}
    if data is not None:
        assigned["data.path"] = str(data)
    flags = {names[option]: f"--{option.replace('_', '-')}" for option in options}
    typed = {field: flag for field, flag in flags.items() if field not in settings}
    return with_settings(base or Recipe(), {**assigned, **settings}, typed)


def option_texts(recipe: Recipe) -> list[str]:
    """Return the options of the command line that set what is set, without the data's path."""
    names = {field: option for option, field in SHORT_OPTIONS.items()}
    texts = list[str]()
    for section, content in recipe.model_dump(mode="json", exclude_unset=True).items():
        fields = content if isinstance(content, dict) else {"": content}
        for field, value in fields.items():
            is_plugin = field in ("", "name") and section in names
            dotted = section if is_plugin else f"{section}.{field}"
            if dotted == "data.path":
                continue
            if dotted in names:
                flag = f"--{names[dotted].replace('_', '-')}"
                texts += [flag] if value is True else [flag, str(value)]
            else:
                texts += ["--set", f"{dotted}={json.dumps(value, ensure_ascii=False)}"]
    return texts


def load_recipe(path: Path) -> Recipe:
    """Load a recipe from a YAML file.

    Raises:
        UsageError: There is no such file, or it is not a valid recipe.
    """
    if not path.is_file():
        hint = did_you_mean_path(path)
        raise UsageError("there is no recipe file at this path", where=path, hint=hint)
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError("the recipe is not plain YAML", where=path, why=str(error)) from None
    if not isinstance(content, dict):
        hint = "start from the recipe.yaml of a run"
        raise UsageError("a recipe is a mapping of sections", where=path, hint=hint)
    return _validate(content, where=path)


def with_settings(
    recipe: Recipe, assignments: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> Recipe:
    """Return a copy with dotted fields replaced.

    Args:
        recipe: The recipe.
        assignments: Values by field, such as {"training.ema": 0, "tuning.rank": 8, "tuning":
            "lora"}. Another plug-in name drops the settings of the previous plug-in.
        names: What the user typed instead of a field: {"training.epochs": "--epochs"}.

    Raises:
        UnknownName: There is no such field.
        UsageError: A value is invalid.
    """
    content = recipe.model_dump(exclude_unset=True)
    for dotted, value in sorted(assignments.items(), key=lambda item: item[0].count(".")):
        _assign(content, dotted, value)
    return _validate(content, names=names)


def without_settings(recipe: Recipe, fields: Iterable[str]) -> Recipe:
    """Return a copy in which dotted fields are not set, so that they have their defaults."""
    content = recipe.model_dump(exclude_unset=True)
    for dotted in fields:
        section, _, last = dotted.partition(".")
        content.get(section, {}).pop(last, None)
    return _validate(content)


def with_defaults(
    recipe: Recipe, defaults: Mapping[str, tuple[Any, str | Message]]
) -> tuple[Recipe, list[Decision]]:
    """Set dotted fields that are not set yet.

    Args:
        recipe: The recipe.
        defaults: A value and the reason for it, by field.

    Returns:
        The recipe, and a decision for each field that was set here.
    """
    from foveate.types import Decision

    decisions = [
        Decision(field, value, reason)
        for field, (value, reason) in defaults.items()
        if not recipe.is_set(field)
    ]
    return with_settings(recipe, {each.field: each.value for each in decisions}), decisions


def _assign(content: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    target: dict[str, Any] = content
    model: Any = Recipe
    for section in sections:
        target, model = _enter(target, model, section, dotted)
    field = model.model_fields.get(last)
    if model is Recipe and field is not None and field.annotation is PluginChoice:
        if isinstance(value, str):
            same = target.get(last, {}).get("name") == value
            value = target[last] if same else {"name": value}
    elif model is not PluginChoice and field is None:
        raise UnknownName(last, model.model_fields, kind="field", where=dotted)
    target[last] = value


def _enter(
    target: dict[str, Any], model: Any, section: str, dotted: str
) -> tuple[dict[str, Any], Any]:
    """The content and the model of a section. Raises where there is none of this name."""
    if section not in model.model_fields:
        raise UnknownName(section, model.model_fields, kind="section of the recipe", where=dotted)
    inner = model.model_fields[section].annotation
    if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
        raise UsageError(f"{section} has no fields of its own", where=dotted)
    empty = {"name": default_value(section)} if inner is PluginChoice else {}
    return target.setdefault(section, empty), inner


def _validate(
    content: dict[str, Any], where: object = None, names: Mapping[str, str] | None = None
) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise validation_error(error, Recipe, where=where, names=names) from None
