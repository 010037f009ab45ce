"""Groups that data state without calling them so: a column of patients, ids in file names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.data.formats._table_files import find_tables
from foveate.data.image_rows import ImageFinder
from foveate.data.issues import collecting
from foveate.data.records import (
    ALIASES,
    cell_text,
    column_names,
    group_rank,
    has_paths,
    is_table,
    read_records,
)
from foveate.errors import DataError, UsageError
from foveate.predictions import Labels
from foveate.types import Issue, Sample, StoredImage, Table, remark
from foveate.utils.paths import printable

AUTO, NONE = "auto", "none"  # choices beside the name of a column

_MIN_GROUPS = 5  # fewer cannot be divided into three splits in more than one way
_MOST = 0.5  # of the images; with a larger group the others are hardly a test
_MIN_NAMED = 0.9  # of the images have an id in their name, or it means nothing
_COARSE = 4  # from this rank on: a place or a time that may hold many unrelated images
# patient012_slice3.png, sub-01/anat.png, case_A7.jpg
_IDS = (
    ("patient", r"patient|pat|subject|subj|sub|participant"),
    ("case", r"case|specimen|lesion"),
    ("study", r"study|slide|scan|volume"),
    ("track", r"track|video|clip|session|sequence"),
)

_TILE = re.compile(  # a tile that QuPath cut out of a slide: NAME [d=4,x=0,y=2048,w=512,h=512].jpg
    r"(?:^|/)(?P<slide>[^/]+?) ?\[(?:d=[\d.]+,)?x=-?\d+,y=-?\d+,w=\d+,h=\d+[^/\]]*\][^/]*$"
)


@dataclass(frozen=True)
class _Choice:
    """A column, or ids in file names, that may state groups.

    Attributes:
        name: The column; for ids the word before them.
        groups: The group of each image; None if it has none.
        rank: How surely such groups are meant; smaller is surer.
        in_names: Whether file names state it.
    """

    name: str
    groups: list[str | None]
    rank: int
    in_names: bool = False


def with_groups(table: Table, path: Path, choice: str = AUTO) -> Table:
    """Return a table with the groups that its images belong to, and a note that says so.

    Args:
        table: What a format has read. Groups that it states are kept.
        path: Where the table was read from.
        choice: `auto`; a column of the tables at that path; `none` for no groups at all.

    Raises:
        UsageError: There is no such column.
    """
    if choice == NONE:
        return table.with_samples(tuple(replace(each, group=None) for each in table.samples))
    if choice != AUTO:
        return _with_column(table, path, choice)
    if not table.samples or any(sample.group for sample in table.samples):
        return table
    choices = _from_columns(table, path) or _from_names(table.samples)
    useful = [each for each in choices if _repeats(each.groups)]
    if not useful:
        return table
    taken = next((each for each in useful if not _doubt(each, table.samples)), None)
    notes = [_declined(each, table.samples) for each in useful if taken is None]
    if taken is not None:
        others = [each.name for each in useful if each is not taken]
        notes = [_taken(taken, others)]
        samples = zip(table.samples, taken.groups, strict=True)
        table = table.with_samples(tuple(replace(each, group=group) for each, group in samples))
    return replace(table, notes=(*table.notes, *notes))


def _with_column(table: Table, path: Path, name: str) -> Table:
    wanted = name.strip().casefold()
    if wanted == "group" and any(sample.group for sample in table.samples):
        return table  # annotations that are no table may state it, too
    found = next(iter(_columns(table, path, lambda column: column == wanted)), None)
    if found is None:
        known = sorted({column for file in _tables(path) for column in column_names(file)})
        why = f"the columns are {', '.join(known)}"[:300] if known else "there is no table"
        raise UsageError(
            f"no column is called {name!r}",
            where=printable(path),
            why=why,
            hint="set data.group to a column of the table, to none, or leave it out",
        )
    samples = zip(table.samples, found.groups, strict=True)
    return table.with_samples(tuple(replace(each, group=group) for each, group in samples))


def _from_columns(table: Table, path: Path) -> list[_Choice]:
    found = _columns(table, path, lambda name: group_rank(name) is not None)
    return sorted(found, key=lambda each: (each.rank, each.name))


def _columns(table: Table, path: Path, wanted: Callable[[str], bool]) -> list[_Choice]:
    """The wanted columns of the tables at a path."""
    values: dict[str, dict[Path | StoredImage, str]] = {}
    for file in _tables(path):
        for name in column_names(file):
            if wanted(name):
                values.setdefault(name, {}).update(_read_column(file, name))
    return [
        _Choice(
            name,
            [cells.get(each.path) or None for each in table.samples],
            group_rank(name) or 0,
        )
        for name, cells in values.items()
    ]


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if is_table(path) else []
    try:
        return [
            file for file, _ in find_tables(path, lambda file: is_table(file) and has_paths(file))
        ]
    except DataError:
        return []


def _read_column(file: Path, name: str) -> dict[Path | StoredImage, str]:
    """Image -> cell; rows that cannot be read have been reported by the format."""
    cells: dict[Path | StoredImage, str] = {}
    finder = ImageFinder(file)
    with collecting():
        aliases = {"path": ALIASES["path"], "group": (name,)}
        for record in read_records(file, aliases, ("path",)):
            try:
                image, _ = finder.find(record.cells["path"], record.number)
            except DataError:
                continue
            cells[image] = cell_text(record.cells.get("group"))
    return cells


def _from_names(samples: Sequence[Sample]) -> list[_Choice]:
    """Ids in names of files and folders, such as patient012_slice3.png."""
    choices = []
    for rank, (word, words) in enumerate(_IDS):
        pattern = re.compile(
            rf"(?:^|[/_\-. ])(?:{words})[_\- ]?([a-z]{{0,3}}\d+)(?![^/_\-. ])", re.I
        )
        found = [pattern.search(sample.key) for sample in samples]
        if sum(each is not None for each in found) < _MIN_NAMED * len(samples):
            continue
        groups = [each[0].strip("/_-. ") if each else None for each in found]
        choices.append(_Choice(word, groups, rank, in_names=True))
    tiles = [_TILE.search(sample.key) for sample in samples]
    if sum(each is not None for each in tiles) >= _MIN_NAMED * len(samples):
        groups = [each["slide"] if each else None for each in tiles]
        choices.append(_Choice("slide", groups, len(_IDS) - 2, in_names=True))
    return choices


def _repeats(groups: list[str | None]) -> bool:
    """Whether a group has several images, so that it could be divided."""
    counts = Counter(group for group in groups if group)
    return bool(counts) and max(counts.values()) > 1


def _doubt(choice: _Choice, samples: Sequence[Sample]) -> str:
    """Why groups may not be meant; empty if nothing speaks against them."""
    counts = Counter(group for group in choice.groups if group)
    largest = max(counts.values())
    if len(counts) < _MIN_GROUPS * (2 if choice.rank >= _COARSE else 1):
        return f"it has only {len(counts)} values"
    if largest > _MOST * len(samples):
        return f"one value has {largest} of {len(samples)} images"
    classes: dict[str, set[str]] = {}
    for sample, group in zip(samples, choice.groups, strict=True):
        if isinstance(sample.target, Labels) and group:
            for name in sample.target.names:
                classes.setdefault(name, set()).add(group)
    if len(classes) > 1 and all(len(groups) == 1 for groups in classes.values()):
        return "each class has one value of its own"
    return ""


def _taken(choice: _Choice, others: Sequence[str]) -> Issue:
    groups = len({group for group in choice.groups if group})
    example = next(group for group in choice.groups if group)
    also = f"; also found: {', '.join(others)}" if others else ""
    if choice.in_names:
        text = (
            "file names state a {name}, such as {example}: taken as the group, {groups} in all, so"
            " that no split divides one; --set data.group=none ignores it"
        )
        return remark("group_in_names", text, name=choice.name, example=example, groups=groups)
    text = (
        "the column {name} is taken as the group, {groups} in all, so that no split divides one"
        "{also}; --set data.group=COLUMN chooses another, --set data.group=none ignores it"
    )
    return remark("group_column", text, name=choice.name, groups=groups, also=also)


def _declined(choice: _Choice, samples: Sequence[Sample]) -> Issue:
    doubt = _doubt(choice, samples)
    if choice.in_names:
        text = (
            "file names state a {name} but it is not taken as the group: {doubt}. Images of one"
            " {name} may be in several splits, which makes scores too optimistic: add a column"
            " named group to a table of the images, or confirm with --set data.group=none"
        )
        return remark("group_in_names_doubtful", text, "warning", name=choice.name, doubt=doubt)
    text = (
        "the column {name} looks like a group but is not taken as one: {doubt}. If images of one"
        " {name} belong on one side of a split, use --set data.group={name}, otherwise --set"
        " data.group=none"
    )
    return remark("group_column_doubtful", text, "warning", name=choice.name, doubt=doubt)
