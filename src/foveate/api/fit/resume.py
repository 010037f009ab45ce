"""--resume: a run continues with its own recipe, except for settings that do not affect weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveate.errors import UsageError
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
    run: Run, asked: Recipe | None, free: tuple[str, ...] = FREE_FIELDS, note: bool = True
) -> Recipe:
    """The recipe of an unfinished run, with the requested changes to `free` fields, which are
    recorded.

    Raises:
        UsageError: Other fields differ from those of the run; it names each difference.
    """
    own = run.recipe()
    found = list(_differences(run, asked, own)) if asked is not None else []
    other = [
        f"{field} is {had!r}, not {value!r}" for field, value, had in found if field not in free
    ]
    if other:
        hint = "leave these options out, or start a new run"
        raise UsageError(
            "a run is resumed with its own settings",
            where=run.folder,
            why="; ".join(other),
            hint=hint,
        )
    decisions = []
    for field, value, had in found:
        reason = f"set when the run was resumed, {had!r} before"
        if field == "device":
            reason += "; from here on not bit-identical to an uninterrupted run"
        decisions.append(Decision(field, value, reason))
    if note:
        run.record(decisions)
    return with_settings(own, {field: value for field, value, _ in found})


def _differences(run: Run, asked: Recipe, own: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Field, requested value and value of the run, for the fields that were set."""
    decided, known = {each.field for each in run.decisions()}, dict(_flat(own.model_dump()))
    for field, value in _flat(asked.model_dump(exclude_unset=True)):
        had = known.get(field)
        if value in _UNSET or value == had or _is_same_choice(field, value, had, field in decided):
            continue
        yield field, value, had


def _is_same_choice(field: str, value: Any, had: Any, decided: bool) -> bool:
    """Whether the run resolved this `value` to `had`."""
    section = field.partition(".")[0]
    if field == "data.path":
        return bool(str(Path(str(value)).resolve()) == had)
    if field == "backbone.name":
        return bool(family_of(value).resolve_name(value) == had)
    if field in _REDUCIBLE:
        return decided and had is not None and bool(value > had)
    return (
        decided and section in ("task", "tuning") and field != section
    )  # a file that was read into the recipe


def _flat(content: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted fields and values; the name of a choice stands for it."""
    for name, value in content.items():
        field = (
            f"{above}{name}" if name != "name" or above not in ("task.", "tuning.") else above[:-1]
        )
        if isinstance(value, dict) and above == "":
            yield from _flat(value, f"{name}.")
        else:
            yield field, value
