"""Rendering of pages: one HTML file that needs no other file, no network and no script."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from foveate.images.encoding import to_data_uri
from foveate.messages import Message, translator
from foveate.reporting.metric_names import corruption_name, metric_name
from foveate.utils.files import write_text

Thumbnail = tuple[str, np.ndarray]
"""Key of an image, and (H, W, 3) uint8."""
Text = Message | str
"""What a page shows; a str is the same in every language."""

# a command, its options, and arguments in capitals or with a slash
_COMMAND = re.compile(r"(foveate [a-z]+(?: (?:--[a-z-]+|[A-Z]{2,}|[\w.~-]*/[\w./-]+))*)")


class Page(Protocol):
    """What all pages have: the code of their language, such as "zh"."""

    @property
    def lang(self) -> str: ...


def render(template: str, path: Path, page: Page, **content: Any) -> None:
    """Write a page, complete or not at all.

    Templates get `page`, the `content`, and in the language of the page:

    - `t(id, english, **values)`: a translated sentence;
    - `text(value)`: a Message, or a str as it is;
    - `prose(value)`: the same with its commands set as code;
    - `metric(name)` and `corruption(name)`: the name as reports write it;
    - `uri(pixels)`: a `data:` URI of (H, W, 3) uint8.

    Args:
        template: File name in the folder of templates.
        path: File to write.
        page: What it shows.
        content: What it shows besides.

    Raises:
        UnknownName: There is no such language.
    """
    rendered = _environment(page.lang).get_template(template).render(page=page, **content)
    write_text(path, rendered)


@cache
def _environment(language: str) -> Any:
    """The templates for a language; to compile them takes a tenth of a second."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "t": translator(language),
        "text": lambda value: in_language(value, language),
        "prose": lambda value: _with_code(in_language(value, language)),
        "metric": _translated(metric_name, language),
        "corruption": _translated(corruption_name, language),
        "uri": to_data_uri,
    }
    return environment


def in_language(text: Text, language: str) -> str:
    """Return a text in a language."""
    return text.in_language(language) if isinstance(text, Message) else text


def _with_code(text: str) -> Any:
    """The text as HTML, with commands such as "foveate evaluate RUN" set as code."""
    from markupsafe import Markup, escape

    parts = _COMMAND.split(text)  # the commands are every second part
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def _translated(name_of: Callable[[str], Message], language: str) -> Callable[[str], str]:
    return lambda name: name_of(name).in_language(language)
