"""What the colors of masks mean: by a class list, or refused with a list to fill in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from foveate.data.formats._class_lists import ClassList, unpack_color
from foveate.data.formats._mask_levels import Levels
from foveate.data.formats._mask_sample import (
    ENDS,
    MAX_VALUES,
    Statistics,
    not_class_masks,
    smeared_by_jpeg,
    smeared_note,
)
from foveate.data.formats._mask_values import BACKGROUND, Kind, MaskEncoding
from foveate.errors import DataError
from foveate.messages import counted, percent
from foveate.predictions import IGNORE_INDEX
from foveate.types import Issue, remark
from foveate.utils.paths import printable

_MANY_COLORS = 32  # colors beyond a list from which they may be smeared
_SHOWN_COLORS = 24

Inferred = tuple[MaskEncoding, tuple[Issue, ...]]


def by_color(statistics: Statistics, known: ClassList) -> Inferred:
    """Return how to read masks in the colors of a list, and notes on what was assumed.

    Raises:
        DataError: They have other colors, or JPEG has mixed them.
    """
    notes, kept, levels = list[Issue](), known.kept, None
    unknown = [color for color in statistics.colors if color not in known.colors]
    if unknown and (statistics.lossy or len(unknown) >= _MANY_COLORS):
        found = statistics.find_levels(3, tuple(map(unpack_color, known.colors)))
        if isinstance(found, Levels):
            levels = found
        elif statistics.lossy:
            raise smeared_by_jpeg(statistics, found)
    if levels:
        notes.append(smeared_note(statistics, levels, f"the colors in {known.source}"))
    elif unknown:
        notes.append(_unlisted_colors(statistics, known, unknown))
    indices = {
        color: kept.index(value) if value in kept else IGNORE_INDEX
        for color, value in known.colors.items()
    }
    classes = tuple(known.names[value] for value in kept)
    kind: Kind = "smeared" if levels else "colors"
    return MaskEncoding(classes, indices, known.source, kind, levels), tuple(notes)


def _unlisted_colors(statistics: Statistics, known: ClassList, unknown: list[int]) -> Issue:
    share = sum(statistics.colors[color] for color in unknown) / statistics.colors.total()
    most = max(unknown, key=lambda color: statistics.colors[color])
    if share > 0.5:
        raise DataError(
            "the colors of the masks are not those of the class list",
            where=known.source,
            why=f"{percent(share)} of the pixels in {statistics.sample} have other colors, such"
            f" as {unpack_color(most)}",
            id="mask_colors_unknown",
        )
    text = (
        "{count:color|colors} ({share} of the pixels in {sample}) not in {list}: ignored"
        " ({example} in {file}, ...)"
    )
    return remark(
        "mask_colors_ignored",
        text,
        count=len(unknown),
        share=percent(share, 2),
        sample=statistics.sample,
        list=Path(known.source).name,
        example=str(unpack_color(most)),
        file=repr(printable(statistics.first["colors", most].name)),
    )


def by_unlisted_colors(statistics: Statistics) -> Inferred:
    """Return how to read masks of black and one color, and a note on it.

    Raises:
        DataError: They have other colors; it lists them, to be named.
    """
    levels = statistics.find_levels(3)
    found = levels.levels if isinstance(levels, Levels) else ()
    shares = _shares_of(statistics.colors, found)
    black = [color for color in shares if max(color) <= (ENDS if statistics.lossy else 0)]
    if isinstance(levels, Levels) and len(shares) == 2 and len(black) == 1:
        (other,) = set(shares) - set(black)
        text = "the masks hold black and {color} ({sample}): read as {background} and foreground"
        note = remark(
            "masks_two_colors",
            text,
            color=str(other),
            sample=statistics.sample,
            background=BACKGROUND,
        )
        indices = {_packed(color): int(color == other) for color in found}
        classes = (BACKGROUND, "foreground")
        return MaskEncoding(classes, indices, "", "smeared", levels), (note,)
    if len(shares) > MAX_VALUES:
        why = f"there are {len(statistics.colors)} different colors in {statistics.sample}"
        raise not_class_masks(statistics.colored, why)
    raise _colors_without_names(statistics, shares)


def _colors_without_names(
    statistics: Statistics, shares: dict[tuple[int, ...], float]
) -> DataError:
    ordered = sorted(shares, key=lambda color: -shares[color])
    shown = ", ".join(f"{color} {percent(shares[color], 1)}" for color in ordered[:_SHOWN_COLORS])
    more = f", and {len(ordered) - _SHOWN_COLORS} more" if len(ordered) > _SHOWN_COLORS else ""
    lines = [f"class{i},{','.join(map(str, color))}" for i, color in enumerate(ordered)]
    return DataError(
        "the masks are in color",
        where=printable(statistics.colored or ""),
        why=f"{statistics.sample} hold {counted(len(ordered), 'color', 'colors')}: {shown}{more}",
        hint="save these lines as class_dict.csv beside the folders, with the right names (a name"
        " that begins with - is ignored):\nname,r,g,b\n" + "\n".join(lines),
        id="masks_in_color",
    )


def _shares_of(
    colors: Counter[int], levels: tuple[tuple[int, ...], ...]
) -> dict[tuple[int, ...], float]:
    """The share of the pixels of each level; without levels, of each color."""
    total = colors.total()
    if not levels:
        return {unpack_color(color): count / total for color, count in colors.items()}
    packed = np.array(list(colors))
    pixels = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1)
    distances = [np.abs(pixels - np.array(level)).max(axis=1) for level in levels]
    nearest = np.argmin(distances, axis=0)
    counts = np.bincount(nearest, weights=list(colors.values()), minlength=len(levels))
    return {level: float(count) / total for level, count in zip(levels, counts, strict=True)}


def _packed(color: tuple[int, ...]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
