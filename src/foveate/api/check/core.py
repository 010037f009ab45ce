"""check DATA: what is wrong with images and labels, and what a fit of them would take, before anything is spent."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.api.check.inspection import Look, looked, size_rows
from foveate.api.check.page import write_page
from foveate.api.check.result import SEVERITIES, CheckResult, issue_lines
from foveate.api.check.rules import (
    UNCOMPARED,
    Balance,
    balance,
    by_features,
    by_thumbnails,
    classes,
    copies,
    groups,
)
from foveate.data.discovery import Inventory, find_images, inventory
from foveate.data.formats import FORMATS, read_table
from foveate.data.issues import Issue, IssueLog, collecting
from foveate.errors import DataError, FoveateError, UsageError
from foveate.recipe import Recipe
from foveate.types import Sample, Table
from foveate.utils import console, log
from foveate.utils.files import next_free_path, require_free, write_json, write_rows
from foveate.utils.paths import printable

if TYPE_CHECKING:
    from foveate.training.estimate import FitEstimate

_EVERY = 5.0  # seconds between lines of a long listing
_UNREAD = "none"  # the format of data that no format can read


def check_data(
    recipe: Recipe, out: Path | None, max_images: int, plan: bool
) -> CheckResult:
    """Read the data that the recipe names as `fit` would, and report what is wrong with it.

    A page, a CSV of all findings and a JSON file go to the new folder `out`.

    Args:
        recipe: Names the data. A backbone that it states compares the images by its features, too.
        out: Folder to create.
        max_images: Images to open, drawn with the recipe's seed where there are more; 0 = all.
        plan: Whether to measure what a fit would take.

    Raises:
        UsageError: The path does not exist, or the folder exists or lies in the data.
    """
    start, data = time.perf_counter(), Path(recipe.data.path)
    folder = _free(out, data)
    with collecting() as found:
        listing = _listed(data, found) if data.is_dir() else None
        table = _read(recipe, found)
        places = _drawn(len(table.samples), max_images, recipe.seed)
        looks, rate = _seen(table, places, found)
        whole = [place for place in places if looks[place] is not None]
        readable, seen = (
            [table.samples[place] for place in whole],
            [look for look in looks if look is not None],
        )
        _compared(recipe, readable, seen, found)
        groups(table.samples, found)
        counted = balance(table, looks)
        classes(table, found, counted)
        _say(found, counted, size_rows(seen))
        estimate, unplanned = (
            _planned(recipe, table, readable, rate, folder, found) if plan else (None, "")
        )
    result = CheckResult(
        folder=folder,
        data=recipe.data.path,
        read_as=table.format,
        listing=listing,
        images=len(table.samples),
        opened=len(places),
        unreadable=len(places) - len(whole),
        issues=_graded(found),
        balance=counted,
        sizes=size_rows(seen),
        plan=estimate.rows() if estimate else [],
        estimate=estimate.numbers() if estimate else None,
        no_plan_reason=unplanned,
        seconds=time.perf_counter() - start,
    )
    _write(result, table, readable, recipe)
    return result


def _free(out: Path | None, data: Path) -> Path:
    """The folder to make. Raises UsageError where it is taken, or would lie in the data."""
    folder = out or next_free_path(Path("checks"), f"{data.resolve().stem}-")
    require_free(folder)
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        hint = f"--out ../{folder.name}"
        raise UsageError(
            "the report would lie in the data, which is never changed", where=folder, hint=hint
        )
    return folder


def _listed(data: Path, found: IssueLog) -> Inventory:
    said = time.monotonic()

    def advance(files: int) -> None:
        nonlocal said
        if time.monotonic() - said > _EVERY:
            log.info(f"list: {files} files")
            said = time.monotonic()

    listing = inventory(data, found, advance)
    told = f"{listing.files} files in {listing.folders} folders, {listing.images} of them named like pictures"
    log.info(f"data: {printable(data)}: {told}")
    return listing


def _read(recipe: Recipe, found: IssueLog) -> Table:
    """The table, with what its format has noted; where it cannot be read, the pictures that there are."""
    data = Path(recipe.data.path)
    try:
        table = read_table(data, recipe.data.format)
    except DataError as error:
        found.refused(error)
        pictures = find_images(data) if data.is_dir() else iter(())
        samples = tuple(Sample(file, printable(file.relative_to(data))) for file in pictures)
        return Table(samples, (), _UNREAD, data)
    known = {each.kind for each in found.notes()}
    for note in table.notes:
        if not (isinstance(note, Issue) and note.kind in known):
            found.noted(note)
    summary = FORMATS.get(table.format).summary
    log.info(f"read as {summary}: {len(table.samples)} images, {len(table.classes)} classes")
    return table


def _drawn(count: int, most: int, seed: int) -> list[int]:
    """Places of the pictures that are opened."""
    if not 0 < most < count:
        return list(range(count))
    log.info(
        f"{most} of {count} pictures are opened and compared, drawn with seed {seed}; --images 0 opens all"
    )
    return sorted(random.Random(seed).sample(range(count), most))


def _seen(table: Table, places: list[int], found: IssueLog) -> tuple[list[Look | None], float]:
    """A look for each sample, None for those that were not opened or cannot be read; and pictures a second."""
    start = time.perf_counter()
    with console.progress(len(places), "look") as bar:
        seen = looked(
            [table.samples[place] for place in places],
            len(table.classes),
            found,
            lambda: bar.advance(1),
        )
    looks: list[Look | None] = [None] * len(table.samples)
    for place, look in zip(places, seen, strict=True):
        looks[place] = look
    return looks, len(places) / max(1e-9, time.perf_counter() - start)


def _compared(
    recipe: Recipe, samples: Sequence[Sample], looks: Sequence[Look], found: IssueLog
) -> None:
    """Adds copies: of bytes, of thumbnails and, with a backbone that was named, of features."""
    if not samples:
        return
    likeness = recipe.data.near_duplicates
    ways = [by_thumbnails(looks, likeness)] if likeness < 1 else []
    if recipe.is_set("backbone.name") and recipe.backbone.weights != "none":
        from foveate.training.estimate import image_features

        try:
            ways.append(by_features(image_features(recipe, samples)))
        except FoveateError as error:  # the rest can be told without
            log.warning(f"{UNCOMPARED}: {error}")
            found.add(UNCOMPARED, recipe.backbone.name, why=str(error))
    copies(samples, [look.digest for look in looks], ways, found)


def _graded(found: IssueLog) -> tuple[Issue, ...]:
    """The gravest first."""
    return tuple(sorted(found.notes(), key=lambda each: SEVERITIES.index(each.kind.severity)))


def _say(found: IssueLog, counted: Balance, told: list[tuple[str, str]]) -> None:
    """What is known before the plan, which takes longer than all the rest."""
    columns, rows = counted.table()
    if rows:
        log.table(columns, rows)
    for name, value in told:
        log.info(f"{name}: {value}")
    for finding in _graded(found):
        for line in issue_lines(finding):
            log.info(line)


def _planned(
    recipe: Recipe,
    table: Table,
    readable: Sequence[Sample],
    rate: float,
    folder: Path,
    found: IssueLog,
) -> tuple[FitEstimate | None, str]:
    """What a fit would take; or why that cannot be told."""
    if table.format == _UNREAD or not readable:
        return None, "there is nothing that a fit could read"
    log.info("measuring what a fit would take, with random weights; --no-plan leaves it out")
    from foveate.training.estimate import add_shortages, estimate_fit

    try:
        plan = estimate_fit(recipe, table, readable, rate)
    except FoveateError as error:
        return None, str(error)
    add_shortages(plan, folder, found)
    return plan, ""


def _write(
    result: CheckResult, table: Table, readable: Sequence[Sample], recipe: Recipe
) -> None:
    result.folder.mkdir(parents=True, exist_ok=True)
    rows = [
        [
            finding.kind.severity,
            finding.kind.area,
            str(finding.kind),
            place.name,
            place.why,
            place.like,
        ]
        for finding in result.issues
        for place in finding.locations
    ]
    write_rows(
        result.folder / "findings.csv", ["gravity", "area", "what", "place", "why", "like"], rows
    )
    write_json(result.folder / "check.json", result.numbers())
    write_page(result, table, readable, recipe)
