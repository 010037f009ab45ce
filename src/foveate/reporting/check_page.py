"""The report of a dataset check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foveate.messages import Message
from foveate.reporting.rendering import Text, Thumbnail, render


@dataclass(frozen=True)
class IssueExample:
    """A location of an issue.

    Attributes:
        name: Key of the image, or another name.
        why: Details, "" if there are none.
        similar_to: Key of another image that it resembles, or "".
        images: Of both; none where it is no image or cannot be read.
    """

    name: str
    why: str
    similar_to: str
    images: list[Thumbnail]


@dataclass(frozen=True)
class IssueRow:
    """A kind of issue.

    Attributes:
        severity: error, warning or note.
        title: What it is.
        count: How often it occurs.
        hint: What to do, "" if there is nothing to say.
        examples: The first locations.
    """

    severity: str
    title: Text
    count: int
    hint: Text
    examples: list[IssueExample]


@dataclass(frozen=True)
class ClassRow:
    """A class.

    Attributes:
        name: Of the class.
        counts: Of each split, then of all.
        share: Relative to the largest class, in [0, 1].
        images: Examples.
    """

    name: str
    counts: list[int]
    share: float
    images: list[Thumbnail]


@dataclass(frozen=True)
class CheckPage:
    """What the report of a check shows.

    Attributes:
        title: The data.
        command: The command that made it.
        counts: Number of errors, warnings and notes, by severity.
        issues: By descending severity.
        facts: Name and value of what is known about the data.
        plan: Name and value of what a fit would cost; empty without an estimate.
        unplanned: Why there is no estimate; "" if none was requested.
        unit: What `classes` count: images, boxes or pixels.
        splits: Columns of `classes` before the last one: train, val, test or "" for no split.
        classes: A row for each class.
        examples: Some images, where there are no classes.
        lang: Code of the language.
    """

    title: str
    command: str
    counts: dict[str, int]
    issues: list[IssueRow]
    facts: list[tuple[Message, Text]]
    plan: list[tuple[Message, Text]]
    unplanned: Text
    unit: str
    splits: list[str]
    classes: list[ClassRow]
    examples: list[IssueExample]
    lang: str = "en"


def write_check_report(page: CheckPage, path: Path) -> None:
    """Write the report of a check, complete or not at all."""
    render("check.html.j2", path, page)
