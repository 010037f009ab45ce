"""The errors of Foveate. Each says what went wrong, where, why, and what to try.

FoveateError                 exit 1    something failed
├── UsageError               exit 2    invalid arguments: a missing path, a bad value
│   └── UnknownName          exit 2    a name that does not exist; near names are suggested
├── DataError                exit 1    the images or their labels cannot be used
│   └── BrokenImage          exit 1    an image cannot be decoded (skipped unless --strict)
├── WeightsError             exit 1    a weights file is missing, unsafe, or does not fit
│   └── HubUnreachable       exit 1    the hub does not answer
├── RunError                 exit 1    a run folder is damaged, in use or unfinished
│   ├── Diverged             exit 1    the loss became NaN or infinite
│   └── DiskFull             exit 3    no space is left on the disk; existing files are intact
├── MissingExtra             exit 1    an optional package is not installed
├── TooLittleTime            exit 1    a training does not fit into the remaining time
└── Interrupted              exit 143  a signal asked to stop; the state is saved and can be resumed
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

_MAX_NAMES = 20  # that an error lists
_LISTED_BY = {
    "backbone": "foveate models TEXT lists the names that contain TEXT",
    "tuning": "foveate fit --help lists the tunings",
    "task": "foveate fit --help lists the tasks",
    "format": "foveate fit --help lists the formats",
    "objective": "foveate pretrain --help lists the objectives",
}
"""What lists the names of a kind."""


class FoveateError(Exception):
    """Base of every error that a user can meet.

    Args:
        what: What happened, in one clause.
        where: The path or field that it is about.
        why: The cause, if known.
        hint: What to type or change next.
        id: Message id of `what`, where reports list it in other languages.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        why: str | None = None,
        hint: str | None = None,
        id: str = "",
    ) -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.hint, self.id = what, where, why, hint, id

    @property
    def brief(self) -> str:
        """What happened and why, for messages that name the image or file elsewhere."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def __str__(self) -> str:
        parts = [self.what]
        if self.where is not None:
            parts.append(f"where: {self.where}")
        if self.why:
            parts.append(f"why: {self.why}")
        if self.hint:
            parts.append(f"try: {self.hint}")
        return "; ".join(parts)


class UsageError(FoveateError):
    """The arguments are invalid."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that does not exist.

    Args:
        name: What the user gave.
        known: The names that exist; the nearest are suggested.
        kind: What the names are, in the singular: "tuning".
        where: The path or field that it is about.
    """

    def __init__(self, name: str, known: Iterable[str], *, kind: str, where: object = None) -> None:
        hint = did_you_mean(name, known) or _one_of(known, kind)
        super().__init__(f"no {kind} is called {name!r}", where=where, hint=hint)


class DataError(FoveateError):
    """The images or their labels cannot be used."""


class BrokenImage(DataError):
    """An image cannot be decoded."""


class WeightsError(FoveateError):
    """A weights file is missing, unsafe, or does not fit the network."""


class HubUnreachable(WeightsError):
    """The hub does not answer."""


class RunError(FoveateError):
    """A run folder is damaged, in use, unfinished, or already exists."""


class Diverged(RunError):
    """The loss became NaN or infinite."""


class DiskFull(RunError):
    """No space is left on the disk."""

    exit_code = 3


class MissingExtra(FoveateError):
    """An optional package is not installed.

    Args:
        package: The package.
        extra: The extra that brings it: pip install -e '.[extra]' in a clone.
    """

    def __init__(self, package: str, extra: str) -> None:
        hint = f"pip install -e '.[{extra}]' in the clone of Foveate"
        super().__init__(f"the package {package!r} is not installed", hint=hint)


class TooLittleTime(FoveateError):
    """A training does not fit into the remaining time."""


class Interrupted(FoveateError):
    """A signal asked to stop; the state is saved."""

    exit_code = 143


def require_packages(extra: str, *packages: str) -> None:
    """Raise MissingExtra for the first of the packages that is not installed."""
    for package in packages:
        if not find_spec(package):
            raise MissingExtra(package, extra)


def near_names(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names that resemble `name`, nearest first, without regard to case."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    return [
        by_folded[match]
        for match in get_close_matches(name.casefold(), by_folded, n=most, cutoff=0.6)
    ]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a hint with the known names nearest to `name`; None where none resembles it."""
    near = near_names(name, known)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else None


def _one_of(known: Iterable[str], kind: str) -> str | None:
    """The names, or if they are many, the command that lists them; None if there are none."""
    names = sorted(known)
    if len(names) > _MAX_NAMES:
        listed = _LISTED_BY.get(kind)
        return listed or f"one of: {', '.join(names[:_MAX_NAMES])}, ... ({len(names)} in all)"
    return f"one of: {', '.join(names)}" if names else None
