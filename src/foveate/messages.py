"""Sentences for the user that reports also give in other languages.

A message has an id, its English text beside the code that reports it, and the values of its
placeholders. Translations are keyed by the id, never by the English text, so that rewording the
English breaks nothing: `translations/LANGUAGE/PART.json` maps the ids that begin with `PART.` to
texts with the same placeholders. Another language is one more folder.

    text = "{seen:image|images} of {count} took part in training"
    Message("caution.seen", text, seen=1, count=20)

`{seen:image|images}` is the number with the right form of the noun ("1 image", "3 images");
translations may write `{seen}`.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from foveate.errors import UnknownName

_FOLDER = Path(__file__).parent / "translations"


class Message:
    """A sentence with an id; `str` gives the English text, `in_language` any other.

    Two messages are equal when their ids and values are.
    """

    def __init__(self, id: str, english: str, **values: Any) -> None:
        self.id, self.english, self.values = id, english, values

    def __str__(self) -> str:
        return self.in_language("en")

    def __repr__(self) -> str:
        return f"Message({self.id!r}, {str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and (self.id, self.values) == (other.id, other.values)

    def __hash__(self) -> int:
        return hash(self.id)

    def in_language(self, language: str) -> str:
        """Return the sentence in `language`; in English if it has no translation.

        Raises:
            UnknownName: There is no such language.
        """
        text = translations(language).get(self.id, self.english)
        return _Sentence(language).vformat(text, (), self.values)

    def row(self) -> dict[str, Any]:
        """Return the message as it is kept in JSON files; `message_from` reads it back."""
        values = {k: v.row() if isinstance(v, Message) else v for k, v in self.values.items()}
        return {"id": self.id, "text": self.english, "values": values}


def message_from(row: dict[str, Any]) -> Message:
    """Return the message of a row that `Message.row` made."""
    values = {k: message_from(v) if isinstance(v, dict) else v for k, v in row["values"].items()}
    return Message(row["id"], row["text"], **values)


def languages() -> list[str]:
    """Return the codes of the languages of reports, English first."""
    return ["en", *sorted(entry.name for entry in _FOLDER.iterdir() if entry.is_dir())]


@cache
def translations(language: str) -> dict[str, str]:
    """Return texts by message id; none for English, whose texts are in the code.

    Raises:
        UnknownName: There is no such language.
    """
    if language not in languages():
        raise UnknownName(language, languages(), kind="language", where="lang")
    texts: dict[str, str] = {}
    for file in sorted((_FOLDER / language).glob("*.json")):
        texts |= json.loads(file.read_text(encoding="utf-8"))
    return texts


def translator(language: str) -> Callable[..., str]:
    """Return `translate(id, english, **values)`, which gives templates the text in `language`."""

    def translate(id: str, english: str, **values: Any) -> str:
        return Message(id, english, **values).in_language(language)

    return translate


def counted(number: int, one: str, many: str) -> str:
    """Return a number with the right form of its noun: counted(1, "class", "classes")."""
    return f"{number:,} {one if number == 1 else many}"


def percent(share: float, digits: int = 0) -> str:
    """Return a share as a percentage, as in "95 % interval": percent(0.944, 1) is "94.4 %"."""
    return f"{100 * share:.{digits}f} %"


class _Sentence(string.Formatter):
    """str.format, with `{n:image|images}`, and with messages as values in the same language."""

    def __init__(self, language: str) -> None:
        self.language = language

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Message):
            return value.in_language(self.language)
        if "|" in format_spec:
            return counted(value, *format_spec.split("|"))
        return str(super().format_field(value, format_spec))
