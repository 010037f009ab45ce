"""TODO-DOC foveate.images.text."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

Color = tuple[int, int, int]


Rectangle = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole pixels; x1 and y1 are the first ones outside"""


_VARIANTS = frozenset(
    map(chr, range(0xFE00, 0xFE10))
)  # selectors: the emoji's or the text's form of the sign before


WHITE, TEXT_COLOR, LABEL_COLOR = (255, 255, 255), (34, 34, 34), (255, 255, 255)


def draw_text_rows(
    draw: ImageDraw.ImageDraw,
    spot: Rectangle,
    rows: list[tuple[str, Color]],
    letters: int,
    swatch: bool = False,
) -> None:
    """Rows of text on a filled rectangle: in the colour of the row, or white with a swatch of it."""
    x0, y0, x1, y1 = spot
    height = (y1 - y0) / len(rows)
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=LABEL_COLOR if swatch else rows[0][1])
    for number, (text, ground) in enumerate(rows):
        middle, start = y0 + (number + 0.5) * height, x0 + _margin(letters)
        if swatch:
            half = round(0.4 * letters)
            draw.rectangle(
                (start, round(middle) - half, start + 2 * half, round(middle) + half), fill=ground
            )
            start += round(1.2 * letters)
        draw.text(
            (start, middle),
            text,
            TEXT_COLOR if swatch else contrasting_color(ground),
            font_for(text, letters),
            anchor="lm",
        )


def _margin(letters: int) -> int:
    return max(2, round(letters / 4))


def text_extent(texts: list[str], letters: int) -> tuple[int, int]:
    """Width and height in pixels of rows of text with their margins."""
    width = max(math.ceil(font_for(text, letters).getlength(text)) for text in texts)
    return width + 2 * _margin(letters), math.ceil(1.35 * letters) * len(texts)


def fit_text(text: str, letters: int, width: int) -> str:
    """One line of text that can be drawn, cut to so many pixels with an ellipsis; '' when not even a letter fits."""
    line = _drawable(" ".join(text.split()))
    if not line or text_extent([line], letters)[0] <= width:
        return line
    low, high = 0, len(line) - 1  # the most letters that fit, by halving
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_extent([line[:middle] + "…"], letters)[0] <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    return line[:low].rstrip() + "…" if low else ""


def contrasting_color(ground: Color) -> Color:
    """Black or white, whichever stands out more (WCAG 2.1: relative luminance, of which 0.179 is equally far from both)."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (part / 255 for part in ground)
    ]
    return (
        (0, 0, 0)
        if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179
        else (255, 255, 255)
    )


@dataclass(frozen=True)
class _Face:
    """A font file and the code points that it can draw."""

    path: str
    glyphs: frozenset[int]


def _drawable(text: str) -> str:
    """The text with code points that no font here has written out (\\u732b); joiners and the like, which show nothing, left out."""
    glyphs = _face(text).glyphs
    unseen = {
        char
        for char in text
        if (unicodedata.category(char) == "Cf" or char in _VARIANTS) and ord(char) not in glyphs
    }
    fine = {
        char
        for char in text
        if char == " " or (ord(char) in glyphs and unicodedata.category(char) != "Cc")
    }
    parts = (
        char if char in fine else char.encode("unicode_escape").decode()
        for char in text
        if char not in unseen
    )
    return "".join(parts)


def font_for(text: str, letters: int) -> ImageFont.FreeTypeFont:
    return _opened(_face(text).path, letters)


@lru_cache(maxsize=64)
def _opened(path: str, letters: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, letters)


@lru_cache(maxsize=4096)
def _face(text: str) -> _Face:
    """The first font that has every letter of the text, matplotlib's own before the system's; else the one that lacks fewest."""
    wanted = {ord(char) for char in text} - {32}
    best, lacking = _faces(0), len(wanted)
    for number in range(len(_font_files())):
        face = _faces(number)
        if face is None:
            continue
        lacks = len(wanted - face.glyphs)
        if lacks == 0:
            return face
        if best is None or lacks < lacking:
            best, lacking = face, lacks
    assert best is not None, "matplotlib brings DejaVu Sans"
    return best


@lru_cache(maxsize=1)
def _font_files() -> tuple[str, ...]:
    """DejaVu Sans, which matplotlib brings, then the system's fonts: upright sans ones of ordinary weight first."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager

    own = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    entries = [
        entry for entry in fontManager.ttflist if "LastResort" not in entry.fname
    ]  # it draws boxes for all letters
    entries.sort(
        key=lambda entry: (
            entry.style != "normal",
            str(entry.weight) not in ("400", "normal", "regular"),
            entry.fname,
        )
    )
    return tuple(dict.fromkeys([own, *(entry.fname for entry in entries)]))


@cache
def _faces(number: int) -> _Face | None:
    """A font's letters; None for one that Pillow cannot draw at any size (bitmap emoji), or that is gone."""
    from matplotlib.ft2font import FT2Font

    path = _font_files()[number]
    try:
        _opened(path, 16).getlength("x")
        return _Face(path, frozenset(FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return None
