"""What --help takes from the docstring of a public function (Google style)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Examples?):$", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\*{0,2}\w+): ", re.MULTILINE)


@dataclass(frozen=True)
class Docstring:
    """A parsed docstring.

    Attributes:
        summary: The first line.
        description: All paragraphs before the first section, the summary included.
        parameters: The text of each parameter in the section Args.
    """

    summary: str
    description: str
    parameters: dict[str, str]


def parse_docstring(function: Callable[..., object]) -> Docstring:
    """Parse the docstring of a function."""
    text = inspect.cleandoc(function.__doc__ or "")
    description, *sections = _SECTION.split(text)
    arguments = dict(zip(sections[::2], sections[1::2], strict=True)).get("Args", "")
    _, *entries = _ENTRY.split(arguments)
    parameters = {
        name.lstrip("*"): " ".join(about.split())
        for name, about in zip(entries[::2], entries[1::2], strict=True)
    }
    return Docstring(description.partition("\n")[0], description.strip(), parameters)
