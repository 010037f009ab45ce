"""Problems of a dataset: what formats and scans record, and what happens to faulty labels.

Labels that cannot be used are treated in one of two ways:

- By default (`fit`, `evaluate`, ...) the first DataError ends the reading, so that nothing is
  trained on data that are not what they seem.
- Inside `collecting` (`foveate check`) the error is recorded in a log and the faulty thing is
  skipped, so that one look finds all problems.

Formats need not know which: they put `skip_and_record` around what concerns one label, one image
or one folder. The log of a `collecting` block is a context variable (like `catch_warnings`):
it would otherwise be an argument of every function that lists a folder or reads a row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from foveate.errors import BrokenImage, DataError, FoveateError
from foveate.messages import Message
from foveate.types import Area, Issue, IssueKind, Location

MAX_LOCATIONS = 1000  # of a kind that are kept; all are counted
_MAX_EXAMPLES = 3  # names in a message
# what differs between two errors of one kind: quoted names and numbers
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|(?<![\w.])-?\d[\d.,]*")

SIMILAR_NAMES = IssueKind(
    "similar_class_names",
    "class names that differ only in case or spaces, kept as separate classes",
    "warning",
    "classes",
    "rename one if they are the same class",
)
NO_TRAINING_IMAGES = IssueKind(
    "no_training_images",
    "classes without training images, which can never be predicted",
    "warning",
    "classes",
)


class IssueLog:
    """Counts how often each kind of problem occurs, and keeps the first locations."""

    def __init__(self) -> None:
        self._counts: Counter[IssueKind] = Counter()
        self._locations: dict[IssueKind, dict[str, Location]] = {}
        self._remarks: dict[Message, Issue] = {}

    def add(
        self, kind: IssueKind, name: str, count: int = 1, why: str = "", similar_to: str = ""
    ) -> None:
        """Count a problem.

        Args:
            kind: The kind of problem.
            name: Where it occurs: the key of an image, a file with a line, a class, ...
            count: How often it occurs there.
            why: The reason, or the particulars.
            similar_to: The key of another image that this one resembles.
        """
        self._counts[kind] += count
        locations = self._locations.setdefault(kind, {})
        if len(locations) < MAX_LOCATIONS:
            locations.setdefault(name, Location(name, why, similar_to))

    def add_error(self, error: FoveateError, name: str = "") -> None:
        """Count an error, such as that of a format or the decoder; once per location.

        Args:
            error: Errors that differ only in quoted names and numbers are of one kind.
            name: Where it occurs; by default where the error says.
        """
        name = name or str(error.where or "")
        kind = _kind_of(error)
        if name not in self._locations.get(kind, ()):
            particulars = "" if kind.text == error.what else error.what
            why = ": ".join(part for part in (particulars, error.why) if part)
            self.add(kind, name, why=why)

    def include(self, issue: Issue) -> None:
        """Add an issue with all its occurrences."""
        if not issue.locations:
            self._remarks.setdefault(issue.message, issue)
            return
        self._counts[issue.kind] += issue.occurrences
        locations = self._locations.setdefault(issue.kind, {})
        for location in issue.locations[: MAX_LOCATIONS - len(locations)]:
            locations.setdefault(location.name, location)

    def has(self, kind: IssueKind, name: str) -> bool:
        """Whether a problem is recorded for a location, among those that are kept."""
        return name in self._locations.get(kind, ())

    def issues(self) -> tuple[Issue, ...]:
        """Return one issue per kind, and the remarks."""
        counted = (
            counted_issue(kind, list(self._locations[kind].values()), count)
            for kind, count in self._counts.items()
        )
        return (*self._remarks.values(), *counted)


def _kind_of(error: FoveateError) -> IssueKind:
    area: Area = "files" if isinstance(error, BrokenImage) else "labels"
    text = _PARTICULARS.sub("…", error.what).rstrip(" :…")
    return IssueKind(error.id, text, "error", area, error.hint or "")


def counted_issue(
    kind: IssueKind, locations: Sequence[Location], count: int | None = None
) -> Issue:
    """Return an issue that states its kind, how often it occurs, and the first locations.

    Args:
        kind: The kind of problem.
        locations: Where it occurs.
        count: How often it occurs, if more often than there are locations.
    """
    count = len(locations) if count is None else count
    names = quoted([location.name for location in locations])
    text = "{kind}: {count} ({names})"
    message = Message("issues.counted", text, kind=kind.message, count=count, names=names)
    return Issue(kind, message, count, tuple(locations))


def quoted(names: Sequence[str]) -> str:
    """Return the first few names as text: "'a', 'b', 'c', ..."."""
    return ", ".join(map(repr, names[:_MAX_EXAMPLES])) + (", ..." * (len(names) > _MAX_EXAMPLES))


_current: ContextVar[IssueLog | None] = ContextVar("current_issue_log", default=None)


@contextmanager
def collecting() -> Iterator[IssueLog]:
    """Record faulty labels instead of stopping at the first; yield the log."""
    log = IssueLog()
    token = _current.set(log)
    try:
        yield log
    finally:
        _current.reset(token)


def is_collecting() -> bool:
    """Whether problems are being collected: then it is worth the time to look at every file."""
    return _current.get() is not None


def issue_log() -> IssueLog:
    """Return the log of the `collecting` block around the caller, or a new one outside of any."""
    log = _current.get()
    return IssueLog() if log is None else log


@contextmanager
def skip_and_record() -> Iterator[None]:
    """Skip the rest of this block after a DataError and record it, if `collecting`; else raise it.

    To be put around what concerns one thing of many.
    """
    try:
        yield
    except DataError as error:
        log = _current.get()
        if log is None:
            raise
        log.add_error(error)
