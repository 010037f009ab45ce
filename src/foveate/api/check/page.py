"""The report of a check: issues with images, classes with examples, and the cost of a fit."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from foveate.api.check.result import SEVERITIES, CheckResult
from foveate.data.formats import FORMATS
from foveate.errors import FoveateError
from foveate.images.codec import read_image, thumbnail
from foveate.images.drawing import draw_prediction
from foveate.messages import Message
from foveate.predictions import Boxes, Labels, Regions, Text
from foveate.recipe import Recipe
from foveate.reporting.check_page import (
    CheckPage,
    ClassRow,
    IssueExample,
    IssueRow,
    write_check_report,
)
from foveate.reporting.rendering import Text as Text_
from foveate.reporting.rendering import Thumbnail
from foveate.types import Issue, Location, Sample, Table
from foveate.utils.invocation import current_invocation
from foveate.utils.paths import printable

_MAX_LOCATIONS = 6  # of an issue
_MAX_CLASSES, _EXAMPLES = 40, 5  # classes with examples, and examples of each
_SIDE = 144  # px of a thumbnail's long side


def write_page(
    result: CheckResult, table: Table, readable: Sequence[Sample], recipe: Recipe
) -> None:
    """Write check.html into the folder of the result.

    Args:
        result: What the check found.
        table: The data.
        readable: Samples whose images can be shown.
        recipe: Of the fit that was estimated; it names the language.
    """
    album = _Album(table, readable)
    balance, examples = result.balance, _draw_examples(table, readable, recipe.seed)
    splits = balance.splits if len(balance.splits) > 1 else ()
    largest = max((sum(counts.values()) for counts in balance.rows.values()), default=1)
    classes = []
    for name, counts in balance.rows.items():
        total = sum(counts.values())
        columns = [*(counts.get(split, 0) for split in splits), total]
        images = album.images([sample.key for sample in examples.get(name, ())])
        classes.append(ClassRow(name, columns, total / max(1, largest), images))
    page = CheckPage(
        title=printable(recipe.data.path),
        command=current_invocation().command,
        counts={severity: result.count(severity) for severity in SEVERITIES},
        issues=[album.issue_row(issue) for issue in result.issues],
        facts=[*_facts(result), *result.sizes],
        plan=result.plan,
        unplanned=result.no_plan_reason,
        unit=balance.unit,
        splits=list(splits),
        classes=classes,
        examples=[
            album.example(Location(sample.key, _caption(sample))) for sample in examples.get("", ())
        ],
        lang=recipe.lang,
    )
    write_check_report(page, result.folder / "check.html")


def _facts(result: CheckResult) -> list[tuple[Message, Text_]]:
    read_as = Message("check.unreadable_format", "nothing that a fit could read")
    if result.read_as in FORMATS.names():
        read_as = Message(f"format.{result.read_as}", FORMATS.get(result.read_as).summary)
    facts: list[tuple[Message, Text_]] = [(Message("check.read_as", "format"), read_as)]
    if result.listing is not None:
        files = Message(
            "check.files_in_folders",
            "{files:file|files} in {folders:folder|folders}",
            files=result.listing.files,
            folders=result.listing.folders,
        )
        facts.append((Message("check.files", "files"), files))
    images: Message | str = f"{result.images:,}"
    if result.opened < result.images:
        images = Message(
            "check.images_opened",
            "{opened:,} of {images:,} were opened",
            images=result.images,
            opened=result.opened,
        )
    return [*facts, (Message("check.image_count", "images"), images)]


def _draw_examples(table: Table, readable: Sequence[Sample], seed: int) -> dict[str, list[Sample]]:
    """Some samples of each class; under "" some of all, where there are no classes."""
    order = random.Random(seed).sample(readable, len(readable))
    unsorted = {"": order[: 2 * _EXAMPLES]}
    if not table.classes:
        return unsorted
    examples: dict[str, list[Sample]] = {name: [] for name in table.classes[:_MAX_CLASSES]}
    for sample in order:
        if isinstance(sample.target, Labels | Boxes):
            for name in dict.fromkeys(sample.target.names):
                if name in examples and len(examples[name]) < _EXAMPLES:
                    examples[name].append(sample)
    return examples if any(examples.values()) else unsorted


def _caption(sample: Sample) -> str:
    return sample.target.sentences[0] if isinstance(sample.target, Text) else ""


class _Album:
    """Thumbnails of samples by their keys, with boxes and masks drawn in; each is made once."""

    def __init__(self, table: Table, readable: Sequence[Sample]) -> None:
        self._samples = {sample.key: sample for sample in readable}
        self._classes = table.classes
        self._thumbnails: dict[str, np.ndarray | None] = {}

    def issue_row(self, issue: Issue) -> IssueRow:
        """Return an issue with its first locations."""
        kind, locations = issue.kind, issue.locations[:_MAX_LOCATIONS]
        return IssueRow(
            kind.severity,
            issue.title,
            issue.occurrences,
            kind.hint_message if kind.hint else "",
            [self.example(location) for location in locations if location.name],
        )

    def example(self, location: Location) -> IssueExample:
        """Return a location with its images."""
        images = self.images([location.name, location.similar_to])
        return IssueExample(location.name, location.why, location.similar_to, images)

    def images(self, keys: Sequence[str]) -> list[Thumbnail]:
        """Return the thumbnails of those samples that can be shown."""
        pairs = [(key, self._thumbnail(key)) for key in keys]
        return [(key, pixels) for key, pixels in pairs if pixels is not None]

    def _thumbnail(self, key: str) -> np.ndarray | None:
        if key not in self._thumbnails:
            sample = self._samples.get(key)
            self._thumbnails[key] = None if sample is None else self._drawn(sample)
        return self._thumbnails[key]

    def _drawn(self, sample: Sample) -> np.ndarray | None:
        try:
            if not isinstance(sample.target, Boxes | Regions):
                return thumbnail(read_image(sample.source, short_side=_SIDE)[0], _SIDE)
            pixels = read_image(sample.source)[0]
            if isinstance(sample.target, Regions) and sample.target.mask.shape != pixels.shape[:2]:
                return thumbnail(pixels, _SIDE)
            return thumbnail(draw_prediction(pixels, sample.target, self._classes), 2 * _SIDE)
        except FoveateError:  # of its mask, say
            return None
