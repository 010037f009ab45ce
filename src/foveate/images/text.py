"""Text in images: fonts, sizes, truncation and contrast."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

Color = tuple[int, int, int]
"""RGB, 0 to 255."""
Rectangle = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole pixels; x1 and y1 are the first ones outside."""
WHITE: Color = (255, 255, 255)
TEXT_COLOR: Color = (34, 34, 34)
# code points that choose between the emoji and the text form of the character before
_VARIATION_SELECTORS = frozenset(map(chr, range(0xFE00, 0xFE10)))


def draw_text_rows(
    draw: ImageDraw.ImageDraw,
    area: Rectangle,
    rows: list[tuple[str, Color]],
    font_size: int,
    swatch: bool = False,
) -> None:
    """Draw rows of text on a filled rectangle.

    Args:
        draw: Where to draw.
        area: The rectangle.
        rows: Text and color of each row.
        font_size: Pixels.
        swatch: Whether to show the colors in swatches on white; else the rectangle is filled with
            the color of the first row.
    """
    x0, y0, x1, y1 = area
    height = (y1 - y0) / len(rows)
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=WHITE if swatch else rows[0][1])
    for number, (text, color) in enumerate(rows):
        middle, start = y0 + (number + 0.5) * height, x0 + _margin(font_size)
        if swatch:
            half = round(0.4 * font_size)
            square = (start, round(middle) - half, start + 2 * half, round(middle) + half)
            draw.rectangle(square, fill=color)
            start += round(1.2 * font_size)
        ink = TEXT_COLOR if swatch else contrasting_color(color)
        draw.text((start, middle), text, ink, font_for(text, font_size), anchor="lm")


def _margin(font_size: int) -> int:
    return max(2, round(font_size / 4))


def text_extent(texts: list[str], font_size: int) -> tuple[int, int]:
    """Return the width and height in pixels of rows of text with their margins."""
    width = max(math.ceil(font_for(text, font_size).getlength(text)) for text in texts)
    return width + 2 * _margin(font_size), math.ceil(1.35 * font_size) * len(texts)


def fit_text(text: str, font_size: int, width: int) -> str:
    """Return one line that can be drawn, cut to `width` pixels with an ellipsis.

    It is '' when not even one character fits.
    """
    line = _drawable(" ".join(text.split()))
    if not line or text_extent([line], font_size)[0] <= width:
        return line
    low, high = 0, len(line) - 1  # the number of characters that fit, by bisection
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_extent([line[:middle] + "…"], font_size)[0] <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    return line[:low].rstrip() + "…" if low else ""


def contrasting_color(background: Color) -> Color:
    """Return black or white, whichever has the higher contrast.

    By the relative luminance of WCAG 2.1; 0.179 has the same contrast to both.
    """
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in background)
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (0, 0, 0) if luminance > 0.179 else WHITE


# --- fonts


@dataclass(frozen=True)
class _Face:
    """A font file and the code points that it can draw."""

    path: str
    glyphs: frozenset[int]


def _drawable(text: str) -> str:
    """The text with code points that no font has written out (\\u732b).

    Joiners and the like, which have no shape, are left out.
    """
    glyphs = _face(text).glyphs
    return "".join(_drawable_character(character, glyphs) for character in text)


def _drawable_character(character: str, glyphs: frozenset[int]) -> str:
    category, known = unicodedata.category(character), ord(character) in glyphs
    if not known and (category == "Cf" or character in _VARIATION_SELECTORS):
        return ""
    if character == " " or (known and category != "Cc"):
        return character
    return character.encode("unicode_escape").decode()


def font_for(text: str, font_size: int) -> ImageFont.FreeTypeFont:
    """Return a font that can draw the text, or most of it."""
    return _load(_face(text).path, font_size)


@lru_cache(maxsize=64)
def _load(path: str, font_size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, font_size)


@lru_cache(maxsize=4096)
def _face(text: str) -> _Face:
    """The first font that has every character of the text; else the one that lacks fewest.

    Matplotlib's own font comes before those of the system.
    """
    wanted = {ord(character) for character in text} - {32}
    best, fewest = _load_face(0), len(wanted)
    for number in range(len(_font_files())):
        face = _load_face(number)
        if face is None:
            continue
        missing = len(wanted - face.glyphs)
        if missing == 0:
            return face
        if best is None or missing < fewest:
            best, fewest = face, missing
    assert best is not None, "matplotlib brings DejaVu Sans"
    return best


@lru_cache(maxsize=1)
def _font_files() -> tuple[str, ...]:
    """DejaVu Sans, which matplotlib brings, then the system's fonts, upright regular ones first."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import FontEntry, fontManager

    def rank(entry: FontEntry) -> tuple[bool, bool, str]:
        regular = str(entry.weight) in ("400", "normal", "regular")
        return entry.style != "normal", not regular, entry.fname

    own = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    # LastResort draws boxes for all characters
    entries = [entry for entry in fontManager.ttflist if "LastResort" not in entry.fname]
    return tuple(dict.fromkeys([own, *(entry.fname for entry in sorted(entries, key=rank))]))


@cache
def _load_face(number: int) -> _Face | None:
    """A font by its index; None if Pillow cannot draw it at any size (bitmap emoji), or it is
    gone."""
    from matplotlib.ft2font import FT2Font

    path = _font_files()[number]
    try:
        _load(path, 16).getlength("x")
        return _Face(path, frozenset(FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return None
