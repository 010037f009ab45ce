"""What is wrong with data: kinds of problems, how often each was met, and where.

A label that a format cannot use ends the reading with a DataError. Inside `collecting` it is counted and left out instead, so that
one look finds all of them: a format puts `each` round what concerns one label, one image or one folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from foveate.errors import BrokenImage, DataError

Severity = Literal["note", "warning", "error"]
Area = Literal["files", "labels", "classes", "copies", "machine"]
FIRST = 5  # places of a kind that are told
KEPT = 1000  # places of a kind that are remembered; all are counted
_SHOWN = 3  # names of images in a note
_PARTICULAR = re.compile(
    r"'[^']*'|\"[^\"]*\"|(?<![\w.])-?\d[\d.,]*"
)  # what differs between two complaints of one kind


class IssueKind(str):
    """A kind of problem, in words that hold for all of its places. `gravity`: an error is lost or makes figures wrong, a warning
    costs something, a note is good to know. `area`: what it is about. `hint`: what to do."""

    severity: Severity
    area: Area
    hint: str

    def __new__(
        cls, text: str, gravity: Severity = "note", area: Area = "labels", hint: str = ""
    ) -> IssueKind:
        kind = super().__new__(cls, text)
        kind.severity, kind.area, kind.hint = gravity, area, hint
        return kind


@dataclass(frozen=True)
class Location:
    """Where a problem was met: an image by its key, a file with its line; why, or how; and the key of another image that it is
    like."""

    name: str
    why: str = ""
    like: str = ""

    def __str__(self) -> str:
        told = [f"like {self.like}"] if self.like else []
        return ": ".join([self.name, *told, *([self.why] if self.why else [])])


TWINS = IssueKind(
    "classes that differ in case or spaces only, kept as two",
    "warning",
    "classes",
    "rename one if they are the same",
)
UNTAUGHT = IssueKind(
    "classes that no image to learn from has: they cannot be the answer", "warning", "classes"
)


class Issue(str):
    """A sentence for the user that also says which kind of problem it is, how often it was met and where."""

    kind: IssueKind
    count: int
    locations: tuple[Location, ...]

    def __new__(
        cls, text: str, kind: IssueKind, times: int = 1, places: tuple[Location, ...] = ()
    ) -> Issue:
        remark = super().__new__(cls, text)
        remark.kind, remark.count, remark.locations = kind, times, places
        return remark


class IssueLog:
    """How often each problem was met, and in which images."""

    def __init__(self) -> None:
        self._counts: Counter[IssueKind] = Counter()
        self._places: dict[IssueKind, dict[str, Location]] = {}

    def add(self, problem: str, key: str, count: int = 1, why: str = "", like: str = "") -> None:
        """`count` more of a problem, at the place `key`; of very many places the first are kept."""
        kind = problem if isinstance(problem, IssueKind) else IssueKind(problem)
        self._counts[kind] += count
        places = self._places.setdefault(kind, {})
        if len(places) < KEPT:
            places.setdefault(key, Location(key, why, like))

    def refused(self, error: DataError, place: str = "") -> None:
        """What a format, or the decoder, has refused; twice at the same place is once."""
        area: Area = "files" if isinstance(error, BrokenImage) else "labels"
        words = _PARTICULAR.sub("…", error.what).rstrip(" :…")
        kind = (
            error.what
            if isinstance(error.what, IssueKind)
            else IssueKind(words, "error", area, error.hint or "")
        )
        place = place or str(error.where or "")
        if place not in self._places.get(kind, ()):
            told = "" if kind == error.what else error.what
            self.add(kind, place, why=": ".join(part for part in (told, error.why) if part))

    def noted(self, note: str) -> None:
        """A note of a table: a remark with its places, or a plain sentence."""
        if not isinstance(note, Issue):
            self.add(note, "")
            return
        self._counts[note.kind] += note.count
        places = self._places.setdefault(note.kind, {})
        for place in note.locations[: KEPT - len(places)]:
            places.setdefault(place.name, place)

    def has(self, kind: IssueKind, key: str) -> bool:
        """Whether a problem is known at a place, among those that are kept."""
        return key in self._places.get(kind, ())

    def __contains__(self, kind: object) -> bool:
        return kind in self._counts

    def notes(self) -> tuple[Issue, ...]:
        """A sentence a problem: what, how many, and the first images."""
        return tuple(
            Issue(
                f"{kind}: {count} ({shown(list(self._places[kind]))})",
                kind,
                count,
                tuple(self._places[kind].values()),
            )
            for kind, count in self._counts.items()
        )


def shown(names: list[str]) -> str:
    """The first few names, quoted."""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + (
        ", ..." if len(names) > _SHOWN else ""
    )


_collected: ContextVar[IssueLog | None] = ContextVar("collected", default=None)


@contextmanager
def collecting() -> Iterator[IssueLog]:
    """What formats find inside, and what they would refuse, one by one, outside."""
    found = IssueLog()
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def issue_log() -> IssueLog:
    """Those that are being collected; else new ones."""
    found = _collected.get()
    return IssueLog() if found is None else found


def is_collecting() -> bool:
    """Whether findings are being collected: then a look at every file is worth its time."""
    return _collected.get() is not None


@contextmanager
def skip_and_record() -> Iterator[None]:
    """Round what concerns one thing of many: a DataError in it is raised as ever; inside `collecting` it is counted, and that one
    thing is left out."""
    try:
        yield
    except DataError as error:
        found = _collected.get()
        if found is None:
            raise
        found.refused(error)
