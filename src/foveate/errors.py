"""The family tree of errors. Each says what went wrong, where, why, and what to try.

FoveateError                 exit 1   something failed
├── UsageError               exit 2   the words are off: a missing path, an unknown name, a bad setting
│   └── UnknownName          exit 2   a name that no shelf knows; near names are suggested
├── DataError                exit 1   the images or their labels cannot be used
│   └── BrokenImage          exit 1   one picture cannot be decoded (skipped and counted unless --strict)
├── WeightsError             exit 1   a weights file is missing, unsafe, or does not fit the network
│   └── HubUnreachable       exit 1   the hub does not answer: no other weights from there can be had now
├── RunError                 exit 1   a run folder is damaged, locked, unfinished, or would be overwritten
│   ├── Diverged             exit 1   the loss of a training is no number any more
│   └── DiskFull             exit 3   there is no room for a file; what was there before is whole
├── MissingExtra             exit 1   an optional package is not installed
├── TooLittleTime            exit 1   a training does not fit into the time that is left
└── Interrupted              exit 143 a signal asked to stop; the state is saved and can be resumed
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec


class FoveateError(Exception):
    """Base of every error that a user can meet.

    Parameters: `what` happened (one clause), `where` (a path or a field), `why` (the cause, if known) and `hint`
    (the next thing to type or change).
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: object = None, why: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.hint = what, where, why, hint

    @property
    def brief(self) -> str:
        """What happened and why, for answers that say elsewhere which picture it was."""
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
    exit_code = 2


class UnknownName(UsageError):
    """A name that is not on a list: says which list, and the nearest names on it."""

    def __init__(self, name: str, known: Iterable[str], *, kind: str, where: object = None) -> None:
        hint = did_you_mean(name, known) or _one_of(known, kind)
        super().__init__(f"no {kind} is called {name!r}", where=where, hint=hint)


class DataError(FoveateError):
    pass


class BrokenImage(DataError):
    pass


class WeightsError(FoveateError):
    pass


class HubUnreachable(WeightsError):
    pass


class RunError(FoveateError):
    pass


class Diverged(RunError):
    pass


class DiskFull(RunError):
    exit_code = 3


class MissingExtra(FoveateError):
    """An optional package is absent; `extra` is the word in pip install 'foveate[extra]'."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed", hint=f"pip install 'foveate[{extra}]'"
        )


def need(extra: str, *packages: str) -> None:
    """Raises MissingExtra for the first of the packages that is not installed."""
    for package in packages:
        if not find_spec(package):
            raise MissingExtra(package, extra)


class TooLittleTime(FoveateError):
    pass


class Interrupted(FoveateError):
    exit_code = 143


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


def _one_of(known: Iterable[str], kind: str) -> str:
    names = sorted(known)
    if len(names) <= 20:
        return f"one of: {', '.join(names)}"
    return f"one of the {len(names)} {kind}s that are listed"
