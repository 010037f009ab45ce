"""The only room that prints: sentences, tables, progress, errors. Plain lines when there is no terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from foveate.errors import FoveateError

_LONGEST = 300  # letters of a value that are said; it is written down as a whole
_EVERY = 10.0  # seconds between lines of progress in a log


@dataclass
class _Mode:
    json: bool = False
    quiet: bool = False


_mode = _Mode()


def setup(*, json: bool = False, quiet: bool = False) -> None:
    """`json`: everything but the last line goes to stderr. `quiet`: nothing is said but errors."""
    _mode.json, _mode.quiet = json, quiet


def say(text: str) -> None:
    if not _mode.quiet:
        _print(text, _stream())


def choice(field: str, value: Any, reason: str) -> None:
    """A decision taken for the user, with its reason."""
    say(f"chosen: {field} = {shortened(value)} ({reason})")


def shortened(value: Any) -> str:
    """A value in words, cut where it would fill a screen."""
    said = str(value)
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."


def warn(text: str) -> None:
    say(f"note: {text}")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows of text, drawn in a terminal, parted by tabs in a pipe."""
    if not _stream().isatty():
        for row in (columns, *rows):
            say("\t".join(row))
        return
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, box=SIMPLE)
    for row in rows:
        drawn.add_row(*(Text(_safe(cell, _stream())) for cell in row))
    _rich(_stream()).print(drawn)


class Bar(ABC):
    """Counts `n` things done; `text` says how it goes."""

    @abstractmethod
    def advance(self, n: int = 1, text: str = "") -> None: ...


@contextmanager
def progress(total: int, label: str) -> Iterator[Bar]:
    """A bar in a terminal; in a log a line every 10 seconds."""
    if _mode.quiet or not sys.stderr.isatty():
        yield _Lines(total, label)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=_rich(sys.stderr), transient=True) as drawn:
        yield _Drawn(drawn, drawn.add_task(label, total=total), label)


class _Drawn(Bar):
    def __init__(self, drawn: Any, task: Any, label: str) -> None:
        self.drawn, self.task, self.label = drawn, task, label

    def advance(self, n: int = 1, text: str = "") -> None:
        self.drawn.update(self.task, advance=n, description=f"{self.label} {text}")


class _Lines(Bar):
    def __init__(self, total: int, label: str) -> None:
        self.total, self.label, self.done, self.said = total, label, 0, time.monotonic()

    def advance(self, n: int = 1, text: str = "") -> None:
        self.done += n
        if time.monotonic() - self.said > _EVERY:
            self.said = time.monotonic()
            say(f"{self.label}: {min(self.done, self.total)}/{self.total} {text}".rstrip())


def error(found: FoveateError) -> None:
    """One box on stderr: what, where, why, what to try."""
    from rich.panel import Panel
    from rich.text import Text

    parts = [found.what, *(f"{word}: {value}" for word, value in _parts(found) if value)]
    box = Panel(
        Text(_safe("\n".join(parts), sys.stderr)),
        title="foveate",
        title_align="left",
        border_style="red",
        expand=False,
    )
    _rich(sys.stderr).print(box)


def _parts(found: FoveateError) -> list[tuple[str, object]]:
    return [("where", found.where), ("why", found.why), ("try", found.hint)]


def final_json(content: dict[str, Any]) -> None:
    """The last line of a verb under --json."""
    lines([json.dumps(content, default=str)])


def lines(texts: Iterable[str]) -> None:
    """Data for other programs, on stdout. A reader that goes away ends the program quietly."""
    try:
        for text in texts:
            _print(text, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or Python complains when it closes stdout
        raise SystemExit(0) from None


def _stream() -> TextIO:
    return sys.stderr if _mode.json else sys.stdout


def _print(text: str, stream: TextIO) -> None:
    print(_safe(text, stream), file=stream, flush=True)


def _safe(text: str, stream: TextIO) -> str:
    """What the stream cannot write is written as \\xNN."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _rich(stream: TextIO) -> Any:
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False)
