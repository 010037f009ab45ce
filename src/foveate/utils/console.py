"""All terminal output: messages, tables, progress, errors. Plain lines where there is no terminal.

Only this module prints. The library reports through `foveate.utils.log`; on the command line
`command_line` prints its records.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TextIO

from foveate.errors import FoveateError
from foveate.utils import log
from foveate.utils.paths import without_surrogates

_GAP = 2  # characters between two columns of a table
_INTERVAL = 10.0  # seconds between progress lines in a log


@dataclass
class _Mode:
    json: bool = False


_mode = _Mode()


def setup(*, json: bool = False) -> None:
    """Send messages to stdout, or with `json` to stderr, because stdout holds only data then."""
    _mode.json = json


@contextmanager
def command_line() -> Iterator[None]:
    """Print what the library reports, in this block; one inside another changes nothing."""
    logger, handler = log.logger, _Handler()
    if any(isinstance(each, _Handler) for each in logger.handlers):
        yield
        return
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # whatever a dependency has set up, each record is printed once
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _Handler(logging.Handler):
    """Prints records as lines, and those that carry a table as a table."""

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "columns"):
            table(record.columns, record.rows)  # type: ignore[attr-defined]
        elif record.levelno >= logging.WARNING:
            say(f"note: {record.getMessage()}")
        else:
            say(record.getMessage())


def say(text: str) -> None:
    """Print a line for the user."""
    _print(text, _stream())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text: drawn in a terminal, separated by tabs in a pipe.

    A terminal that is too narrow even for the longest words gets a block of lines for each row, so
    that no text is lost, and paths and commands stay whole.
    """
    stream = _stream()
    if not stream.isatty():
        for row in (columns, *rows):
            say("\t".join(row))
        return
    cells = [[_encodable(cell, stream) for cell in row] for row in rows]
    console = _rich(stream)
    widths = _column_widths([columns, *cells], console.width - 1 - _GAP * len(columns))
    if widths is None:
        for row in cells:
            for column, cell in zip(columns, row, strict=True):
                if cell:
                    say(f"{column}: {cell}")
            say("")
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), show_edge=False, pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        drawn.add_column(column, width=width)
    for row in cells:
        drawn.add_row(*map(Text, row))
    console.print(drawn)


def _column_widths(rows: Sequence[Sequence[str]], total: int) -> list[int] | None:
    """Widths of columns of together at most `total`, none narrower than its longest word.

    None if there are no such widths.
    """
    from rich.cells import cell_len

    least = [
        max(cell_len(word) for cell in column for word in cell.split() or [""])
        for column in zip(*rows, strict=True)
    ]
    full = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    spare = total - sum(least)
    if spare < 0:
        return None
    share = min(1.0, spare / max(1, sum(full) - sum(least)))
    return [low + int(share * (high - low)) for low, high in zip(least, full, strict=True)]


class Bar(ABC):
    """Counts `n` steps done; `text` describes the state."""

    @abstractmethod
    def advance(self, n: int = 1, text: str = "") -> None: ...


@contextmanager
def progress(total: int, label: str) -> Iterator[Bar]:
    """Show progress: a bar in a terminal or notebook, elsewhere a report every 10 seconds."""
    quiet = not log.logger.isEnabledFor(logging.WARNING)
    if quiet or not (sys.stderr.isatty() or _in_notebook()):
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


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel that can draw a bar."""
    shell = sys.modules.get("IPython")
    kernel = shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
    return kernel and find_spec("ipywidgets") is not None


class _Drawn(Bar):
    def __init__(self, drawn: Any, task: Any, label: str) -> None:
        self.drawn, self.task, self.label = drawn, task, label

    def advance(self, n: int = 1, text: str = "") -> None:
        self.drawn.update(self.task, advance=n, description=f"{self.label} {text}")


class _Lines(Bar):
    def __init__(self, total: int, label: str) -> None:
        self.total, self.label, self.done, self.reported = total, label, 0, time.monotonic()

    def advance(self, n: int = 1, text: str = "") -> None:
        self.done += n
        if time.monotonic() - self.reported > _INTERVAL:
            self.reported = time.monotonic()
            log.info(f"{self.label}: {min(self.done, self.total)}/{self.total} {text}".rstrip())


def error(raised: FoveateError) -> None:
    """Print an error on stderr: what, where, why, and what to try.

    Each part is one line that is never wrapped or framed, so that paths and commands can be
    searched and copied; a terminal wraps long ones itself.
    """
    parts = (("where", raised.where), ("why", raised.why), ("try", raised.hint))
    # of several lines, the later ones stand below the first
    texts = [f"{name}: {value}".replace("\n", "\n    ") for name, value in parts if value]
    lines = [raised.what, *(f"  {text}" for text in texts)]
    text = _encodable("\n".join(lines), sys.stderr)
    if not sys.stderr.isatty():
        _print(f"error: {text}", sys.stderr)
        return
    from rich.text import Text

    _rich(sys.stderr).print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


def final_json(content: dict[str, Any]) -> None:
    """Print the last line of a command under --json."""
    import json

    lines([json.dumps(content, default=str)])


def lines(texts: Iterable[str]) -> None:
    """Print data for other programs on stdout. A reader that goes away ends the program quietly."""
    try:
        for text in texts:
            _print(text, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        # or Python complains when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def _stream() -> TextIO:
    return sys.stderr if _mode.json else sys.stdout


def _print(text: str, stream: TextIO) -> None:
    print(_encodable(text, stream), file=stream, flush=True)


def _encodable(text: str, stream: TextIO) -> str:
    """The text with what the stream cannot write as \\xNN."""
    encoding = stream.encoding or "utf-8"
    return without_surrogates(text).encode(encoding, "backslashreplace").decode(encoding)


def _rich(stream: TextIO) -> Any:
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False)
