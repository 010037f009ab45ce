"""--resume: a run continues with its own recipe, except for settings that do not affect weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveate.errors import UsageError
from foveate.messages import Message
from foveate.modeling.backbones import family_of
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.types import Decision

FREE_FIELDS = (
    "data.workers",
    "data.cache_images",
    "data.strict",
    "training.checkpoint_minutes",
    "training.tensorboard",
    "device",
    "lang",
)
_UNSET = (None, "", "auto", "default")  # values that leave the field to the run
# reduced to the time budget, or to the number of images
_REDUCIBLE = ("training.epochs", "training.batch_size")


def resumed_recipe(
    run: Run, requested: Recipe | None, free: tuple[str, ...] = FREE_FIELDS, note: bool = True
) -> Recipe:
    """Return the recipe of an unfinished run, with the requested changes to `free` fields.

    Args:
        run: The unfinished run.
        requested: Recipe of the command line; None changes nothing.
        free: Fields that may be changed.
        note: Record the changes in choices.json.

    Raises:
        UsageError: Other fields differ from those of the run; it names each difference.
    """
    own = run.recipe()
    changes = [] if requested is None else list(_differences(run, requested, own))
    refused = [
        f"{field} is {old!r}, not {value!r}" for field, value, old in changes if field not in free
    ]
    if refused:
        raise UsageError(
            "a run is resumed with its own settings",
            where=run.folder,
            why="; ".join(refused),
            hint="leave these options out, or start a new run",
        )
    decisions = []
    for field, value, old in changes:
        text = "set when the run was resumed, {old} before"
        reason = Message("choice.resumed", text, old=repr(old))
        if field == "device":
            text = "{change}; from here on not bit-identical to an uninterrupted run"
            reason = Message("choice.resumed_device", text, change=reason)
        decisions.append(Decision(field, value, reason))
    if note:
        run.record(decisions)
    return with_settings(own, {field: value for field, value, _ in changes})


def _differences(run: Run, requested: Recipe, own: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Field, requested value and value of the run, for the fields that were set."""
    decided, values = {each.field for each in run.decisions()}, dict(_flatten(own.model_dump()))
    for field, value in _flatten(requested.model_dump(exclude_unset=True)):
        old = values.get(field)
        if value in _UNSET or value == old or _is_same_choice(field, value, old, field in decided):
            continue
        yield field, value, old


def _is_same_choice(field: str, value: Any, old: Any, decided: bool) -> bool:
    """Whether the run resolved this `value` to `old`."""
    section = field.partition(".")[0]
    if field == "data.path":
        return bool(str(Path(str(value)).resolve()) == old)
    if field == "backbone.name":
        return bool(family_of(value).resolve_name(value) == old)
    if field in _REDUCIBLE:
        return decided and old is not None and bool(value > old)
    # a file that was read into the recipe
    return decided and section in ("task", "tuning") and field != section


def _flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted fields and their values; `task.name` and `tuning.name` as `task` and `tuning`."""
    for name, value in content.items():
        is_choice = name == "name" and prefix in ("task.", "tuning.")
        field = prefix[:-1] if is_choice else f"{prefix}{name}"
        if isinstance(value, dict) and prefix == "":
            yield from _flatten(value, f"{name}.")
        else:
            yield field, value
