"""Dataset formats: how images and annotations are stored on disk.

A format weighs how well it fits a path (`sniff`) and reads it as a Table (`read`). Those that state
for which targets (`writes`) can be written as well (`write`), for `foveate convert`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import ClassVar

from foveate.data.discovery import remember, remember_folders
from foveate.data.foreign_data import find_foreign
from foveate.data.formats._refusals import no_format_fits
from foveate.data.outside import check_outside
from foveate.data.stored_images import expand_volumes
from foveate.errors import DataError, UnknownName, UsageError
from foveate.messages import counted
from foveate.predictions import Boxes, ImagePrediction, Labels, Number, Regions, Text
from foveate.registry import Registry
from foveate.types import Issue, Sample, StoredImage, Table
from foveate.utils.paths import did_you_mean_path, printable

_EXAMPLES = 3  # rows of a reading that a message shows
_MAX_SHOWN = 60  # characters of a file name or a label in a message


class Fit(IntEnum):
    """How well a format fits data."""

    POSSIBLE = 1  # it can be read so, and nothing but that speaks for it
    LIKELY = 2  # the layout is that of the format
    STATED = 3  # a file describes the data in this format


@dataclass(frozen=True)
class Reading:
    """A way to read data.

    Attributes:
        fit: How well the format fits.
        doubts: What speaks against it, each as a clause: "every image has a label file".
        settled_by_target: Whether the doubts are only about what is to be learned, so that a task
            for targets of this kind settles them.
    """

    fit: Fit
    doubts: tuple[str, ...] = ()
    settled_by_target: bool = False


class Format(ABC):
    """A dataset format.

    Attributes:
        summary: What it is, in a few words ("a folder per class"); printed with the guess.
        target: The type of the targets that it reads; None = any.
        writes: The types of targets that it can write; empty if it can only be read.
        read_as: The format that reads what it writes of a type of targets, where it is another.
        outlines: Whether its boxes may have masks, which the format `outlines` paints.
        is_painted: Whether its regions are made of objects, which they no longer tell apart.
        takes_column: Whether it reads the column of a table that the user names.
        column: That column; "" = found by its name.
    """

    summary: ClassVar[str]
    target: ClassVar[type | None] = None
    writes: ClassVar[tuple[type, ...]] = ()
    read_as: ClassVar[Mapping[type, str]] = {}
    outlines: ClassVar[bool] = False
    is_painted: ClassVar[bool] = False
    takes_column: ClassVar[bool] = False
    column: str = ""

    @abstractmethod
    def sniff(self, path: Path) -> Reading | None:
        """How well `path`, which exists, fits this format; None if it does not.

        It never raises, and opens a few files at most. Where several formats fit, the best one
        without doubts is taken, if there is only one; so what speaks against a reading has to be
        stated here.
        """

    @abstractmethod
    def read(self, path: Path) -> Table:
        """Read the dataset at `path`; images are not decoded.

        Raises:
            DataError: The annotations cannot be used.
        """

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write a dataset into `folder`, which is empty; images are copied.

        What was written is read again and compared (`foveate.api.convert`). That finds what the
        format cannot represent, and says it.

        Args:
            table: The dataset: targets of a type in `writes`, and images and masks that can be
                read.
            folder: Where to write.

        Returns:
            Notes on what was changed, such as names of images.

        Raises:
            UsageError: The format cannot be written, or not for these data.
        """
        raise UsageError(
            "this format cannot be written",
            why=f"it is {self.summary}",
            hint="choose one of: " + ", ".join(writable()),
        )


FORMATS: Registry[Format] = Registry("foveate.data.formats", Format, "format")


def writable(target: type | None = None) -> list[str]:
    """Return the names of the formats that can be written, for any or for one type of targets."""
    written = {name: FORMATS.get(name).writes for name in FORMATS.names()}
    return [name for name, types in written.items() if (target in types if target else types)]


def writer(name: str) -> Format:
    """Return the format `name`, to write in.

    Raises:
        UnknownName: There is no such format.
        UsageError: It can only be read.
    """
    if name not in FORMATS.names():
        raise UnknownName(name, writable(), kind="format that can be written")
    if name not in writable():
        hint = "choose one of: " + ", ".join(writable())
        raise UsageError(f"the format {name!r} cannot be written", hint=hint)
    return FORMATS.get(name)()


def read_table(
    path: Path,
    name: str = "auto",
    accepted: tuple[type, ...] = (),
    column: str = "",
    allow_outside: bool = False,
) -> Table:
    """Read the dataset at `path`.

    Args:
        path: A folder, a table or an annotation file.
        name: The format; "auto": the one that fits best, if it is clearly the best.
        accepted: Types of targets that are wanted. Formats that read others are taken only if no
            format reads these.
        column: The column of a table that holds the labels; only formats that take one are tried.
        allow_outside: Whether the data may name images outside of their folder.

    Raises:
        UsageError: The path does not exist, or the format takes no column.
        DataError: No format fits the data, or it is doubtful which; or it cannot be read, or names
            images outside of its folder.
    """
    if not path.exists():
        hint = did_you_mean_path(path) or "give a folder of images, or a table"
        raise UsageError("the path does not exist", where=path, hint=hint)
    with remember_folders():
        if name == "auto":
            choose = partial(_format_with_column, column=column) if column else choose_format
            name = choose(path, accepted)
        format = _with(name, column)
        if column and not format.takes_column:
            hint = "leave it out, or use " + " or ".join(f"--format {n}" for n in _with_column())
            raise UsageError(f"the format {name!r} takes no column", where="data.column", hint=hint)
        return expand_volumes(check_outside(format.read(path), path, allow_outside))


def _with_column() -> list[str]:
    return [name for name in FORMATS.names() if FORMATS.get(name).takes_column]


def _format_with_column(path: Path, accepted: tuple[type, ...], column: str) -> str:
    """The format that reads a column: that of the wanted targets, or else of what it holds."""
    names = _with_column()
    wanted = [name for name in names if FORMATS.get(name).target in accepted]
    if len(wanted) == 1:
        return wanted[0]
    names, readings = wanted or names, dict[str, Reading]()
    for name in names:
        if reading := _with(name, column).sniff(path):
            if not reading.doubts:
                return name
            readings[name] = reading
    if len(readings) > 1:
        raise _doubtful(path, readings, column)
    return names[-1]  # its message says what is amiss


def _with(name: str, column: str) -> Format:
    """A format that reads a column."""
    format = FORMATS.get(name)()
    format.column = column
    return format


def sniff_formats(path: Path) -> dict[str, Reading]:
    """Return how well the formats that fit a path do so, by their names."""
    with remember_folders():
        readings = {name: sniff_format(name, path) for name in FORMATS.names()}
    return {name: reading for name, reading in readings.items() if reading}


def sniff_format(name: str, path: Path) -> Reading | None:
    """Return how well a format fits a path; None if it does not."""
    return remember(("reading", name, path), lambda: FORMATS.get(name)().sniff(path))


def choose_format(path: Path, accepted: tuple[type, ...] = ()) -> str:
    """Return the name of the format that fits a path best.

    Args:
        path: The path.
        accepted: As of `read_table`.

    Raises:
        DataError: None fits, or it is doubtful which.
    """
    readings = sniff_formats(path)
    if not readings:
        raise no_format_fits(path, FORMATS.names())
    wanted = _of_targets(readings, accepted)
    if len(wanted) == 1 and accepted:
        ((name, reading),) = wanted.items()
        if not reading.doubts or _is_settled(name, reading, accepted):
            return name  # what is wanted settles it, whatever speaks for the others
        raise _doubtful(path, readings)  # that it alone is wanted does not make it right
    readings = wanted
    certain = {name: reading.fit for name, reading in readings.items() if not reading.doubts}
    best = [name for name, fit in certain.items() if fit == max(certain.values())]
    doubtful = [reading.fit for reading in readings.values() if reading.doubts]
    if not best or certain[best[0]] < max(doubtful, default=Fit.POSSIBLE):
        raise _doubtful(path, readings)
    chosen = best[0] if len(best) == 1 else _most_complete(path, best)
    if chosen is None:
        raise _doubtful(path, readings)
    return chosen


def _is_settled(name: str, reading: Reading, accepted: tuple[type, ...]) -> bool:
    return reading.settled_by_target and FORMATS.get(name).target in accepted


def _most_complete(path: Path, names: list[str]) -> str | None:
    """The format that states most splits and groups, if all read the same images and targets.

    A folder for each class beside a table of the same labels with groups, for instance. None if
    they differ.
    """
    try:
        tables = {name: FORMATS.get(name)().read(path) for name in names}
    except DataError:
        return None
    contents = [
        {(_place(sample), repr(sample.target)) for sample in table.samples}
        for table in tables.values()
    ]
    if any(content != contents[0] for content in contents):
        return None
    return max(names, key=lambda name: _count_statements(tables[name]))


def _place(sample: Sample) -> Path | StoredImage:
    return sample.path.resolve() if isinstance(sample.path, Path) else sample.path


def _count_statements(table: Table) -> int:
    """How many images have a split, and how many a group."""
    return sum((each.split is not None) + (each.group is not None) for each in table.samples)


def _of_targets(readings: dict[str, Reading], accepted: tuple[type, ...]) -> dict[str, Reading]:
    """The readings with targets that are wanted; all of them, if there are none."""
    targets = {name: FORMATS.get(name).target for name in readings}
    wanted = {
        name: reading
        for name, reading in readings.items()
        if not accepted or targets[name] is None or targets[name] in accepted
    }
    return wanted or readings


def _doubtful(path: Path, readings: Mapping[str, Reading], column: str = "") -> DataError:
    """Which readings fit, what each would mean, and how to choose one."""
    parts = [
        f"--format {name} reads {FORMATS.get(name).summary}: {_describe(path, name, column)}"
        + "".join(f"; but {doubt}" for doubt in reading.doubts)
        for name, reading in sorted(readings.items(), key=lambda item: -item[1].fit)
    ]
    if foreign := find_foreign(path):
        parts.append(f"{foreign.file} is {foreign.what}, which is not read; {foreign.way}")
    why, where = "\n".join(parts), printable(path)
    if len(readings) == 1:
        (only,) = readings
        others = ", ".join(name for name in FORMATS.names() if name != only)
        return DataError(
            f"it is doubtful that this is {FORMATS.get(only).summary}",
            where=where,
            why=why,
            hint=f"--format {only} if it is; other formats are: {others}",
            id="doubtful_format",
        )
    return DataError(
        "the data can be read in several ways",
        where=where,
        why=why,
        hint="choose with " + " or ".join(f"--format {name}" for name in readings),
        id="several_formats_fit",
    )


def _describe(path: Path, name: str, column: str) -> str:
    """What a reading would give: images, classes, and a few examples; or why it fails."""
    try:
        table = _with(name, column).read(path)
    except DataError as error:
        return error.brief
    parts = [counted(len(table.samples), "image", "images")]
    if table.classes:
        names = ", ".join(_short(each) for each in table.classes[:_EXAMPLES])
        more = ", ..." if len(table.classes) > _EXAMPLES else ""
        parts.append(f"{counted(len(table.classes), 'class', 'classes')} ({names}{more})")
    step = max(1, len(table.samples) // _EXAMPLES)
    examples = [describe_sample(sample) for sample in table.samples[::step][:_EXAMPLES]]
    return ", ".join(parts) + "; for example " + ", ".join(examples)


def describe_sample(sample: Sample) -> str:
    """Return the name of an image and what it has, in a few words: "a.png: 2 boxes"."""
    target, name = sample.target, _short(sample.key)
    if isinstance(target, Labels):
        return f"{name}: {_short('|'.join(target.names)) or 'no class'}"
    if isinstance(target, Boxes):
        return f"{name}: {counted(len(target.names), 'box', 'boxes')}"
    if isinstance(target, Number):
        return f"{name}: {target.value:g}"
    if isinstance(target, Text):
        return f"{name}: {_short(target.sentences[0])!r}"
    kinds = {Regions: "a mask", ImagePrediction: "no label"}
    return f"{name}: {kinds.get(type(target), 'no label')}"


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
