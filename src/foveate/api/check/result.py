"""TODO-DOC foveate.api.check.result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.api.check.rules import Balance
from foveate.data.discovery import Inventory
from foveate.data.issues import FIRST, Issue, Severity

CODES: dict[Severity, int] = {"error": 4, "warning": 3, "note": 0}


SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


_SAID = 3  # places of a problem that are said in a terminal


@dataclass(frozen=True)
class CheckResult:
    """`findings`: the gravest first, each with its kind, how often, and the places; `looked`: how many of the `images` were opened,
    and `unreadable` how many of those cannot be; `plan`: what a fit would take, as rows of words, and as `estimate`; `unplanned`:
    why there is none."""

    folder: Path
    data: str
    read_as: str
    listing: Inventory | None
    images: int
    opened: int
    unreadable: int
    issues: tuple[Issue, ...]
    balance: Balance
    sizes: list[tuple[str, str]]
    plan: list[tuple[str, str]]
    estimate: dict[str, Any] | None
    no_plan_reason: str
    seconds: float

    @property
    def exit_code(self) -> int:
        """4 with an error, 3 with a warning, 0 with notes or nothing."""
        return max((CODES[finding.kind.severity] for finding in self.issues), default=0)

    def count(self, gravity: Severity) -> int:
        """Kinds of problems of this gravity."""
        return sum(finding.kind.severity == gravity for finding in self.issues)

    def numbers(self) -> dict[str, Any]:
        listing = None
        if self.listing is not None:
            listing = {
                "files": self.listing.files,
                "folders": self.listing.folders,
                "pictures": self.listing.images,
            }
        counts = {
            "images": self.images,
            "looked_at": self.opened,
            "unreadable": self.unreadable,
            "listing": listing,
        }
        return {
            "folder": str(self.folder),
            "data": self.data,
            "format": self.read_as,
            **counts,
            **{f"{gravity}s": self.count(gravity) for gravity in SEVERITIES},
            "findings": [_row(finding) for finding in self.issues],
            "classes": self.balance.numbers(),
            "unit": self.balance.unit,
            "sizes": dict(self.sizes),
            "plan": self.estimate,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 1),
        }

    def lines(self) -> list[str]:
        told = [
            line
            for finding in self.issues
            if finding.kind.area == "machine"
            for line in issue_lines(finding)
        ]
        told += [f"{name}: {value}" for name, value in self.plan]
        told += (
            [f"what a fit would take cannot be told: {self.no_plan_reason}"] if self.no_plan_reason else []
        )
        counts = (
            ", ".join(_counted(self.count(gravity), gravity) for gravity in SEVERITIES)
            if self.issues
            else "no fault was found"
        )
        told.append(
            f"{counts}: {self.folder / 'check.html'}, every place in findings.csv; nothing of yours was changed"
        )
        return (
            told if self.exit_code == CODES["error"] else [*told, f"next: foveate fit {self.data}"]
        )


def _row(finding: Issue) -> dict[str, Any]:
    kind = finding.kind
    first = [
        {"place": place.name, "why": place.why, "like": place.like}
        for place in finding.locations[:FIRST]
    ]
    about = {"gravity": kind.severity, "area": kind.area, "what": str(kind), "hint": kind.hint}
    return {**about, "count": finding.count, "first": first}


def issue_lines(finding: Issue) -> list[str]:
    """An error or a warning with its first places; a note in one line."""
    kind = finding.kind
    head = f"{kind.severity}: {kind}" + (f": {finding.count}" if finding.locations[0].name else "")
    if kind.severity == "note":
        return [head]
    told = [head, *(f"  {place}" for place in finding.locations[:_SAID])]
    told += (
        [f"  ... and {finding.count - _SAID} more"]
        if finding.count > _SAID and len(finding.locations) > _SAID
        else []
    )
    return told + ([f"  try: {kind.hint}"] if kind.hint else [])


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
