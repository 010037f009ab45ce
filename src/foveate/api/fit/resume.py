"""What --resume takes: a run goes on as it began, but for what moves no weight."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveate.errors import UsageError
from foveate.modeling.backbones import family_of
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.types import Decision

FREE = (
    "data.workers",
    "data.cache_images",
    "data.strict",
    "training.checkpoint_minutes",
    "training.tensorboard",
    "device",
    "lang",
)
_OPEN = (None, "", "auto", "default")  # values that leave it to the run
_CUT = (
    "training.epochs",
    "training.batch_size",
)  # to the time that was given, to the pictures that there are


def going_on(
    run: Run, asked: Recipe | None, free: tuple[str, ...] = FREE, note: bool = True
) -> Recipe:
    """The recipe of an unfinished run, with those of the `asked` fields that are `free`: they move no weight, and are noted.

    Raises UsageError, with each difference, where other fields are asked to be what they were not when it began.
    """
    own = run.recipe()
    found = list(_differences(run, asked, own)) if asked is not None else []
    other = [
        f"{field} is {had!r}, not {value!r}" for field, value, had in found if field not in free
    ]
    if other:
        hint = "leave these words out, or start a new run"
        raise UsageError(
            "a run goes on as it began", where=run.folder, why="; ".join(other), hint=hint
        )
    decisions = []
    for field, value, had in found:
        reason = f"set when the run was resumed, {had!r} before"
        if field == "device":
            reason += "; from here on no longer bit for bit what it would have been"
        decisions.append(Decision(field, value, reason))
    if note:
        run.record(decisions)
    return with_settings(own, {field: value for field, value, _ in found})


def _differences(run: Run, asked: Recipe, own: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Field, what is asked, what the run has; of the fields that were stated."""
    decided, known = {each.field for each in run.decisions()}, dict(_flat(own.model_dump()))
    for field, value in _flat(asked.model_dump(exclude_unset=True)):
        had = known.get(field)
        if value in _OPEN or value == had or _same(field, value, had, field in decided):
            continue
        yield field, value, had


def _same(field: str, value: Any, had: Any, decided: bool) -> bool:
    """Whether the run has made `had` out of this `value`."""
    section = field.partition(".")[0]
    if field == "data.path":
        return bool(str(Path(str(value)).resolve()) == had)
    if field == "backbone.name":
        return bool(family_of(value).resolve_name(value) == had)
    if field in _CUT:
        return decided and had is not None and bool(value > had)
    return (
        decided and section in ("task", "tuning") and field != section
    )  # a file of words, which was read


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
