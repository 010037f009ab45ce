"""The words of reports in other languages: sentences of ours -> theirs, where {} stands for what
differs from case to case."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from foveate.errors import UnknownName

_FOLDER = Path(__file__).parent / "words"  # a file for each language: another one is one more file
_GAP = re.compile(r"\\\{\\\}")


def languages() -> list[str]:
    return ["en", *sorted(file.stem for file in _FOLDER.glob("*.json"))]


def speaker(language: str) -> Callable[..., str]:
    """say(sentence, *values): the sentence in that language, its gaps filled; in English what the
    language has no words for.

    A sentence that comes with its values in it already is found by what stands between them. Raises
    UnknownName."""
    if language not in languages():
        raise UnknownName(language, languages(), kind="language", where="lang")
    known = {} if language == "en" else _known(language)
    patterns = [] if language == "en" else _patterns(language)

    def say(sentence: str, *values: object) -> str:
        if values:
            return known.get(sentence, sentence).format(*values)
        if sentence in known:
            return known[sentence]
        for pattern, other in patterns:
            found = pattern.fullmatch(sentence)
            if found:
                return other.format(*(known.get(part, part) for part in found.groups()))
        return sentence

    return say


@cache
def _known(language: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return found


@cache
def _patterns(language: str) -> list[tuple[re.Pattern[str], str]]:
    """Those with gaps, the longest first: it says most."""
    gapped = sorted(
        (each for each in _known(language).items() if "{}" in each[0]),
        key=lambda each: -len(each[0]),
    )
    return [
        (re.compile(_GAP.sub("(.+?)", re.escape(ours)), re.DOTALL), theirs)
        for ours, theirs in gapped
    ]
