"""The result of a check, in Python, as JSON and as text."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.api.check.rules import Balance
from foveate.data.inventory import Inventory
from foveate.messages import Message, counted
from foveate.types import Issue, Severity

EXIT_CODES: dict[Severity, int] = {"error": 4, "warning": 3, "note": 0}
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_MAX_ROW_LOCATIONS = 5  # of an issue in JSON; all are in the CSV
_MAX_LINES = 3  # locations of an issue in a terminal


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        folder: Where the report is.
        data: The path of the data.
        read_as: The name of their format.
        listing: Number of files; None for data that is not a folder.
        images: Number of images in the data.
        opened: Number of images that were opened.
        unreadable: Number of those that cannot be read.
        issues: By descending severity.
        balance: How many images, boxes or pixels each class has.
        sizes: The range of numbers, and sizes, colors and formats of the images, rows of name and
            value.
        plan: The cost of a fit, rows of name and value.
        estimate: The same as numbers; None without an estimate.
        no_plan_reason: Why the cost could not be estimated.
        seconds: How long the check took.
        options: The options of `foveate fit` that stand for what the user set.
    """

    folder: Path
    data: str
    read_as: str
    listing: Inventory | None
    images: int
    opened: int
    unreadable: int
    issues: tuple[Issue, ...]
    balance: Balance
    sizes: list[tuple[Message, Message | str]]
    plan: list[tuple[Message, Message | str]]
    estimate: dict[str, Any] | None
    no_plan_reason: str
    seconds: float
    options: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """4 with an error, 3 with a warning, 0 with notes or nothing."""
        return max((EXIT_CODES[issue.kind.severity] for issue in self.issues), default=0)

    def count(self, severity: Severity) -> int:
        """Return the number of issues of a severity."""
        return sum(issue.kind.severity == severity for issue in self.issues)

    def numbers(self) -> dict[str, Any]:
        """Return the result, JSON-able."""
        listing = self.listing and {
            "files": self.listing.files,
            "folders": self.listing.folders,
            "images": self.listing.images,
        }
        return {
            "folder": str(self.folder),
            "data": self.data,
            "format": self.read_as,
            "images": self.images,
            "opened": self.opened,
            "unreadable": self.unreadable,
            "listing": listing,
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "issues": [issue_row(issue) for issue in self.issues],
            "classes": self.balance.numbers(),
            "unit": self.balance.unit,
            "sizes": {str(name): str(value) for name, value in self.sizes},
            "plan": self.estimate,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 1),
        }

    def lines(self) -> list[str]:
        """Return the closing lines for a terminal: what was not reported before, and a summary."""
        machine = [issue for issue in self.issues if issue.kind.area == "machine"]
        lines = [line for issue in machine for line in issue_lines(issue)]
        lines += [f"{name}: {value}" for name, value in self.plan]
        if self.no_plan_reason:
            lines.append(f"the cost of a fit could not be estimated: {self.no_plan_reason}")
        counts = ", ".join(
            counted(self.count(severity), severity, f"{severity}s") for severity in SEVERITIES
        )
        lines.append(
            f"{counts if self.issues else 'no problems found'}: {self.folder / 'check.html'};"
            " all locations are listed in issues.csv; the data were not modified"
        )
        if self.exit_code != EXIT_CODES["error"]:
            lines.append(f"next: {self._next_command()}")
        return lines

    def _next_command(self) -> str:
        if self.read_as == "unlabeled" and "--task" not in self.options:
            return shlex.join(["foveate", "pretrain", self.data])
        command = shlex.join(["foveate", "fit", self.data, *self.options])
        if self.read_as == "names":  # class names alone: what classifies by name reads them
            command += " --tuning zeroshot --backbone clip:NAME"
        return command


def issue_row(issue: Issue) -> dict[str, Any]:
    """Return an issue as a JSON-able row, with its first locations."""
    first = [
        {"location": location.name, "why": location.why, "similar_to": location.similar_to}
        for location in issue.locations[:_MAX_ROW_LOCATIONS]
    ]
    return {
        "id": issue.kind.id,
        "severity": issue.kind.severity,
        "area": issue.kind.area,
        "message": str(issue.title),
        "hint": issue.kind.hint,
        "count": issue.occurrences,
        "first": first,
    }


def issue_lines(issue: Issue) -> list[str]:
    """Return an error or a warning with its first locations, a note on one line."""
    kind, locations = issue.kind, issue.locations
    heading = f"{kind.severity}: {issue.title}"
    # the location of a single occurrence follows; a note stays on one line
    if locations and (issue.occurrences > 1 or kind.severity == "note"):
        heading += f": {issue.occurrences:,}"
    if kind.severity == "note":
        return [heading]
    lines = [heading, *(f"  {location}" for location in locations[:_MAX_LINES])]
    if issue.occurrences > _MAX_LINES and len(locations) > _MAX_LINES:
        lines.append(f"  ... and {issue.occurrences - _MAX_LINES:,} more")
    return lines + ([f"  try: {kind.hint}"] if kind.hint else [])
