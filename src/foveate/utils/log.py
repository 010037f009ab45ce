"""What the library reports while it works: records of the logger "foveate".

The command line prints them (`foveate.utils.console`). In Python, warnings go to stderr as those of
any library, and `logging.basicConfig(level="INFO")` shows the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_LONGEST_NUMBER = 8  # characters of a number that is written as it is
_LONGEST = 300  # characters of a value in a message; choices.json has it in full

logger = logging.getLogger("foveate")


def info(message: object) -> None:
    """Report progress or a result."""
    logger.info("%s", message)


def warning(message: object) -> None:
    """Report something that the user should know and that does not stop the work."""
    logger.warning("%s", message)


def choice(field: str, value: Any, reason: object) -> None:
    """Report a setting that was chosen for the user, with the reason."""
    info(f"chosen: {field} = {shorten(value)} ({reason})")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Report rows of text; a handler can draw them from the record's `columns` and `rows`."""
    text = "\n".join("\t".join(row) for row in (columns, *rows))
    logger.info("%s", text, extra={"columns": columns, "rows": rows})


def shorten(value: Any) -> str:
    """Return a value as text of at most 300 characters; long numbers with 4 digits."""
    text = str(value)
    if isinstance(value, float) and len(text) > _LONGEST_NUMBER:
        text = f"{value:.4g}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


@contextmanager
def errors_only() -> Iterator[None]:
    """Report nothing in this block but errors, as in all but the first of several processes."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
