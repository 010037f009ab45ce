"""The page of a check: what is wrong, with pictures of it; the classes, with examples; what a fit would take."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from foveate.api.check.result import CheckResult
from foveate.data.formats import FORMATS
from foveate.data.issues import Issue, Location
from foveate.errors import FoveateError
from foveate.images import codec as images
from foveate.images.drawing import draw_prediction
from foveate.predictions import Boxes, Labels, Regions, Text
from foveate.recipe import Recipe
from foveate.reporting.pages import CheckExample, CheckPage, ClassRow, IssueRow, write_check_report
from foveate.types import Sample, Table
from foveate.utils.invocation import current_invocation
from foveate.utils.paths import printable

_SHOWN = 6  # places of a problem
_CLASSES, _EXAMPLES = 40, 5  # rows with pictures, and pictures of each
_SIDE = 144  # px of a thumbnail's long side
_ORDER = ("error", "warning", "note")


def write_page(
    result: CheckResult, table: Table, readable: Sequence[Sample], recipe: Recipe
) -> None:
    """check.html in the result's folder. `readable`: samples that can be shown."""
    album = _Album(table, readable)
    counted, unit = result.balance, result.balance.unit
    most = max((sum(counts.values()) for counts in counted.rows.values()), default=1)
    chosen = _examples(table, readable, recipe.seed)
    rows = []
    for name, counts in counted.rows.items():
        total = sum(counts.values())
        parts = (
            [counts.get(split, 0) for split in counted.splits] if len(counted.splits) > 1 else []
        )
        pictures = album.pictures([sample.key for sample in chosen.get(name, ())])
        rows.append(ClassRow(name, [*parts, total], total / max(1, most), pictures))
    page = CheckPage(
        title=printable(recipe.data.path),
        command=current_invocation().command,
        counts={
            gravity: sum(each.kind.severity == gravity for each in result.findings)
            for gravity in _ORDER
        },
        troubles=[album.trouble(finding) for finding in result.findings],
        facts=[*_facts(result), *result.sizes],
        plan=result.plan,
        unplanned=result.unplanned,
        unit=unit,
        splits=[split or "no split" for split in counted.splits] if len(counted.splits) > 1 else [],
        classes=rows,
        examples=[album.card(Location(sample.key, _said(sample))) for sample in chosen.get("", ())],
        lang=recipe.lang,
    )
    write_check_report(page, result.folder / "check.html")


def _facts(result: CheckResult) -> list[tuple[str, str]]:
    known = result.read_as in FORMATS.names()
    facts = [
        (
            "read as",
            FORMATS.get(result.read_as).summary if known else "nothing that a fit could read",
        )
    ]
    if result.listing is not None:
        facts.append(("files", f"{result.listing.files} in {result.listing.folders} folders"))
    opened = f"{result.images}, of which {result.looked} were opened"
    return [*facts, ("images", opened if result.looked < result.images else str(result.images))]


def _examples(table: Table, readable: Sequence[Sample], seed: int) -> dict[str, list[Sample]]:
    """Some samples of each class, or under '' of all where there are no classes; drawn with the seed."""
    order = random.Random(seed).sample(readable, len(readable))
    if not table.classes:
        return {"": order[: 2 * _EXAMPLES]}
    found: dict[str, list[Sample]] = {name: [] for name in table.classes[:_CLASSES]}
    for sample in order:
        for name in (
            dict.fromkeys(sample.target.names) if isinstance(sample.target, Labels | Boxes) else ()
        ):
            if name in found and len(found[name]) < _EXAMPLES:
                found[name].append(sample)
    return found if any(found.values()) else {"": order[: 2 * _EXAMPLES]}


def _said(sample: Sample) -> str:
    return sample.target.sentences[0] if isinstance(sample.target, Text) else ""


class _Album:
    """Thumbnails of samples by their keys, with boxes and masks drawn in; each is made once."""

    def __init__(self, table: Table, readable: Sequence[Sample]) -> None:
        self._samples = {sample.key: sample for sample in readable}
        self._classes = table.classes
        self._made: dict[str, np.ndarray | None] = {}

    def trouble(self, finding: Issue) -> IssueRow:
        kind = finding.kind
        cards = [self.card(place) for place in finding.locations[:_SHOWN] if place.name]
        return IssueRow(kind.severity, str(kind), finding.count, kind.hint, cards)

    def card(self, place: Location) -> CheckExample:
        return CheckExample(place.name, place.why, place.like, self.pictures([place.name, place.like]))

    def pictures(self, keys: Sequence[str]) -> list[tuple[str, np.ndarray]]:
        found = [(key, self._thumbnail(key)) for key in keys]
        return [(key, pixels) for key, pixels in found if pixels is not None]

    def _thumbnail(self, key: str) -> np.ndarray | None:
        if key not in self._made:
            self._made[key] = self._small(self._samples[key]) if key in self._samples else None
        return self._made[key]

    def _small(self, sample: Sample) -> np.ndarray | None:
        try:
            if not isinstance(sample.target, Boxes | Regions):
                return images.thumbnail(images.read_image(sample.path, short_side=_SIDE)[0], _SIDE)
            whole = images.read_image(sample.path)[0]
            if isinstance(sample.target, Regions) and sample.target.mask.shape != whole.shape[:2]:
                return images.thumbnail(whole, _SIDE)
            return images.thumbnail(draw_prediction(whole, sample.target, self._classes), 2 * _SIDE)
        except FoveateError:  # its mask, say
            return None
