"""The check: problems of images and labels, and the cost of a fit, before anything is spent."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.api.check.inspection import InspectedImage, inspect_images, size_rows
from foveate.api.check.numbers import check_numbers, number_rows
from foveate.api.check.page import write_page
from foveate.api.check.result import SEVERITIES, CheckResult, issue_lines, issue_row
from foveate.api.check.rules import (
    NOT_COMPARED,
    Balance,
    by_features,
    by_names,
    by_pixels,
    check_classes,
    count_classes,
    find_copies,
    find_divided_groups,
    find_divided_sequences,
)
from foveate.data.class_merging import read_recipe_table
from foveate.data.discovery import find_images
from foveate.data.formats import FORMATS
from foveate.data.image_cache import rendering_of
from foveate.data.inventory import Inventory, take_inventory
from foveate.data.issues import IssueLog, collecting
from foveate.data.tables import count_labels, other_targets
from foveate.data.value_range import measure_value_range
from foveate.errors import DataError, FoveateError
from foveate.messages import Message, counted
from foveate.recipe import Recipe, option_texts
from foveate.types import Issue, Location, Sample, Table
from foveate.utils import console, log
from foveate.utils.files import next_free_path, require_free, write_json, write_rows
from foveate.utils.paths import printable, require_exists, require_outside

if TYPE_CHECKING:
    from foveate.training.estimate import FitEstimate

_INTERVAL = 5.0  # seconds between progress messages of a long listing
_UNKNOWN_FORMAT = "none"  # the format of data that no format can read


def check_data(recipe: Recipe, out: Path | None, max_images: int, plan: bool) -> CheckResult:
    """Read data as `fit` would, and report problems.

    A page, a CSV of all issues and a JSON file are written to the new folder `out`.

    Args:
        recipe: Names the data. If it sets a backbone, images are also compared by its features.
        out: Folder to create.
        max_images: Number of images to open, drawn with the recipe's seed; 0 = all.
        plan: Whether to estimate the cost of a fit.

    Raises:
        UsageError: The path does not exist, or the folder exists or is inside the data.
    """
    start, data = time.perf_counter(), Path(recipe.data.path)
    require_exists(data)
    folder = _new_folder(out, data)
    _check_names(recipe, plan)
    with collecting() as issues:
        listing = _list_files(data, issues) if data.is_dir() else None
        table = _read_table(recipe, issues)
        drawn = _draw(len(table.samples), max_images, recipe.seed)
        opened = _open_images(table, drawn, issues, recipe)
        _compare(recipe, opened, issues)
        find_divided_groups(table.samples, issues)
        balance = count_classes(table, opened.by_sample)
        check_classes(table, issues, balance)
        check_numbers(table.samples, issues)
        sizes = [*number_rows(table.samples), *size_rows(opened.images)]
        _report(issues, balance, sizes)
        estimate, no_plan_reason = None, ""
        if plan:
            estimate, no_plan_reason = _estimate_fit(recipe, table, opened, folder, issues)
    result = CheckResult(
        folder=folder,
        data=recipe.data.path,
        read_as=table.format,
        listing=listing,
        images=len(table.samples),
        opened=opened.count,
        unreadable=opened.count - len(opened.images),
        issues=_by_severity(issues),
        balance=balance,
        sizes=sizes,
        plan=estimate.rows() if estimate else [],
        estimate=estimate.numbers() if estimate else None,
        no_plan_reason=no_plan_reason,
        seconds=time.perf_counter() - start,
        options=tuple(option_texts(recipe)),
    )
    _write(result, table, opened.samples, recipe)
    return result


def _check_names(recipe: Recipe, plan: bool) -> None:
    """Check the names that the user set; the import takes seconds, which not all checks need."""
    named = ("data.format", "backbone.name", "task", "tuning", "device")
    if plan or any(recipe.is_set(field) for field in named):
        from foveate.api.names import check_names

        check_names(recipe, weights=False)  # without them, features are not compared


def _new_folder(out: Path | None, data: Path) -> Path:
    """The folder to create. Raises UsageError if it exists, or would be inside the data."""
    folder = out or next_free_path(Path("checks"), f"{data.resolve().stem}-")
    require_free(folder)
    require_outside(folder, data, "the report")
    return folder


def _list_files(data: Path, issues: IssueLog) -> Inventory:
    last = time.monotonic()

    def advance(files: int) -> None:
        nonlocal last
        if time.monotonic() - last > _INTERVAL:
            log.info(f"listing: {counted(files, 'file', 'files')}")
            last = time.monotonic()

    listing = take_inventory(data, issues, advance)
    log.info(
        f"data: {printable(data)}: {counted(listing.files, 'file', 'files')} in "
        f"{counted(listing.folders, 'folder', 'folders')}, of which "
        f"{counted(listing.images, 'is an image', 'are images')}"
    )
    return listing


def _read_table(recipe: Recipe, issues: IssueLog) -> Table:
    """The table, or if it cannot be read, the images in the folder."""
    data = Path(recipe.data.path)
    try:
        table = read_recipe_table(recipe, _wanted_targets(recipe))
    except DataError as error:
        issues.add_error(error)
        images = find_images(data) if data.is_dir() else iter(())
        samples = tuple(Sample(file, printable(file.relative_to(data))) for file in images)
        return Table(samples, (), _UNKNOWN_FORMAT, data)
    logged = {issue.kind for issue in issues.issues()}
    for note in table.notes:
        if note.kind not in logged:
            issues.include(note)
    summary = FORMATS.get(table.format).summary
    images_text = counted(len(table.samples), "image", "images")
    log.info(f"read as {summary}: {images_text}, {count_labels(table)}")
    targets = [sample.target for sample in table.samples]
    wanted = _wanted_targets(recipe)
    if wanted and (unfit := other_targets(targets, wanted, recipe.task.name)):
        issues.add_error(unfit, printable(data))
    return table


def _wanted_targets(recipe: Recipe) -> tuple[type, ...]:
    """The types of targets that the task learns from, if the user set one."""
    if not recipe.is_set("task"):
        return ()
    from foveate.modeling.tasks import TASKS

    return TASKS.get(recipe.task.name).accepted_targets()


def _draw(count: int, max_images: int, seed: int) -> list[int]:
    """Indices of the images to open."""
    if not 0 < max_images < count:
        return list(range(count))
    log.info(
        f"opening {max_images:,} of {count:,} images, drawn with seed {seed}; --images 0 opens all"
    )
    return sorted(random.Random(seed).sample(range(count), max_images))


@dataclass(frozen=True)
class _Opened:
    """The images that were opened.

    Attributes:
        count: Their number, unreadable ones included.
        samples: Samples of the readable ones.
        images: The readable ones.
        by_sample: One for each sample of the table; None if not opened or unreadable.
        rate: Images per second.
    """

    count: int
    samples: list[Sample]
    images: list[InspectedImage]
    by_sample: list[InspectedImage | None]
    rate: float


def _open_images(table: Table, indices: list[int], issues: IssueLog, recipe: Recipe) -> _Opened:
    start = time.perf_counter()
    samples = [table.samples[index] for index in indices]
    data = recipe.data
    rendering = rendering_of(data)
    if rendering.value_range is None:
        measured = measure_value_range(table.samples, rendering)
        rendering = replace(rendering, value_range=measured)
    with console.progress(len(indices), "images") as bar:
        images = inspect_images(
            samples, len(table.classes), issues, rendering, lambda: bar.advance(1)
        )
    by_sample: list[InspectedImage | None] = [None] * len(table.samples)
    for index, image in zip(indices, images, strict=True):
        by_sample[index] = image
    rate = len(indices) / max(1e-9, time.perf_counter() - start)
    readable = [
        (sample, image) for sample, image in zip(samples, images, strict=True) if image is not None
    ]
    return _Opened(
        len(indices),
        [sample for sample, _ in readable],
        [image for _, image in readable],
        by_sample,
        rate,
    )


def _compare(recipe: Recipe, opened: _Opened, issues: IssueLog) -> None:
    """Record copies: by bytes, pixels, names and, if a backbone is set, by its features."""
    if not opened.images:
        return
    fingerprints = [image.fingerprint for image in opened.images]
    threshold = recipe.data.near_duplicates
    similarities = []
    if threshold < 1:
        similarities.append(by_pixels(fingerprints, threshold))
        similarities.append(by_names(opened.samples, fingerprints))
        find_divided_sequences(opened.samples, fingerprints, issues)
    if recipe.is_set("backbone.name") and recipe.backbone.weights != "none":
        from foveate.training.estimate import image_features

        try:
            similarities.append(by_features(image_features(recipe, opened.samples)))
        except FoveateError as error:  # the other checks need no weights
            log.warning(f"{NOT_COMPARED}: {error}")
            issues.add(NOT_COMPARED, recipe.backbone.name, why=str(error))
    find_copies(opened.samples, fingerprints, similarities, issues)


def _by_severity(issues: IssueLog) -> tuple[Issue, ...]:
    """The issues, the most severe first."""
    return tuple(sorted(issues.issues(), key=lambda issue: SEVERITIES.index(issue.kind.severity)))


def _report(issues: IssueLog, balance: Balance, sizes: list[tuple[Message, Message | str]]) -> None:
    """Report what is known before the estimate, which takes longer than all the rest."""
    columns, rows = balance.table()
    if rows:
        log.table(columns, rows)
    for name, value in sizes:
        log.info(f"{name}: {value}")
    for issue in _by_severity(issues):
        for line in issue_lines(issue):
            log.info(line)


def _estimate_fit(
    recipe: Recipe, table: Table, opened: _Opened, folder: Path, issues: IssueLog
) -> tuple[FitEstimate | None, str]:
    """The cost of a fit; or why it cannot be estimated."""
    if table.format == _UNKNOWN_FORMAT or not opened.samples:
        return None, "there is nothing that a fit could read"
    log.info("estimating the cost of a fit with random weights; --no-plan skips this")
    from foveate.training.estimate import add_shortages, estimate_fit

    try:
        estimate = estimate_fit(recipe, table, opened.samples, opened.rate)
    except FoveateError as error:
        return None, str(error)
    add_shortages(estimate, folder, issues)
    return estimate, ""


def _write(result: CheckResult, table: Table, readable: Sequence[Sample], recipe: Recipe) -> None:
    result.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for issue in result.issues:
        row = issue_row(issue)
        for location in issue.locations or (Location(""),):
            columns = [row[key] for key in ("severity", "area", "id", "message")]
            rows.append([*columns, location.name, location.why, location.similar_to])
    header = ["severity", "area", "id", "message", "location", "why", "similar_to"]
    write_rows(result.folder / "issues.csv", header, rows)
    write_json(result.folder / "check.json", result.numbers())
    write_page(result, table, readable, recipe)
