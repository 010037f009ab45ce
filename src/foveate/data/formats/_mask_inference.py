"""What the values or colors of masks mean, inferred from a sample of them and a class list."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.formats._class_lists import ClassList, unpack_color
from foveate.data.formats._instance_ids import OBJECT, Numbering, find_numbering
from foveate.data.formats._known_lists import known_list
from foveate.data.formats._mask_files import is_lossy, read_layers_of, read_values
from foveate.data.formats._mask_levels import Levels, find_levels, is_anti_aliased
from foveate.data.formats._mask_values import (
    BACKGROUND,
    HOW_TO_NAME,
    MAX_SAMPLE,
    NO_LAYER,
    Kind,
    MaskEncoding,
    pack,
    read_pixels,
)
from foveate.data.issues import skip_and_record
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_image
from foveate.messages import counted, percent
from foveate.predictions import IGNORE_INDEX
from foveate.types import Issue, remark
from foveate.utils.paths import printable

_MAX_VALUES = 64  # more different values than these are not classes
_BORDER = 255  # Pascal VOC's value for the borders of objects, which is ignored
_ENDS = 32  # gray levels by which JPEG changes black and white
_SAMPLE_OF_LEVELS = 12  # masks that are looked at pixel by pixel
_MANY_COLORS = 32  # colors beyond a list from which they may be smeared
_MAX_COUNTED = 200_000  # different colors
_SHOWN_COLORS = 24
_MIN_UNLISTED = 3  # values beyond a list from which they may be smeared

Inferred = tuple[MaskEncoding, tuple[Issue, ...]]


@dataclass
class _Statistics:
    """What a sample of the masks holds.

    Attributes:
        total: Number of all masks.
        paths: The masks in the sample that can be read.
        values: Number of pixels of each value.
        colors: Number of pixels of each packed color.
        first: The first file with a value or color.
        colored: The first mask that is not a grayscale or palette image.
        layers: Number of layers -> the first mask that has so many; of masks with several.
        uncovered: Whether a pixel of such a mask is in no layer.
        overlap: Share of the pixels of such masks that are in several layers.
        lossy: Whether all masks are JPEGs.
    """

    total: int
    paths: list[Path] = field(default_factory=list)
    values: Counter[int] = field(default_factory=Counter)
    colors: Counter[int] = field(default_factory=Counter)
    first: dict[tuple[str, int], Path] = field(default_factory=dict)
    colored: Path | None = None
    layers: dict[int, Path] = field(default_factory=dict)
    uncovered: bool = False
    overlap: float = 0.0
    lossy: bool = True

    @property
    def sample(self) -> str:
        """How large the sample is, for messages."""
        return f"{len(self.paths)} of {counted(self.total, 'mask', 'masks')}"

    def add(self, path: Path, with_colors: bool) -> None:
        """Count a mask. Raises BrokenImage."""
        layers = read_layers_of(path)
        if layers is not None:
            self.layers.setdefault(len(layers), path)
            covered = layers.sum(axis=0)
            self.uncovered = self.uncovered or bool((covered == 0).any())
            self.overlap = max(self.overlap, float((covered > 1).mean()))
        else:
            values = read_values(path)
            if values is None or with_colors:
                self._count("colors", self.colors, pack(read_image(path)[0]), path)
            if values is None:
                self.colored = self.colored or path
            else:
                self._count("values", self.values, values, path)
        self.lossy = self.lossy and is_lossy(path)
        self.paths.append(path)

    def _count(self, kind: str, counts: Counter[int], mask: np.ndarray, path: Path) -> None:
        values, pixels = np.unique(mask, return_counts=True)
        if len(counts) > _MAX_COUNTED:
            return
        for value, count in zip(values.tolist(), pixels.tolist(), strict=True):
            counts[value] += count
            self.first.setdefault((kind, value), path)

    def fits_colors(self, known: ClassList) -> bool:
        """Whether to read the masks by color: colors fit the list, or values do not."""
        return (
            (set(self.colors) <= set(known.colors) and len(self.colors) > 1)
            or self.colored is not None
            or not set(self.values) <= {*known.names, *known.ignored, _BORDER}
        )

    def find_levels(self, channels: int, known: tuple[tuple[int, ...], ...] = ()) -> Levels | str:
        """Return the levels of masks that may be smeared, or what speaks against it."""
        step = -(-len(self.paths) // _SAMPLE_OF_LEVELS)
        pixels = [read_pixels(path, channels) for path in self.paths[::step]]
        return find_levels(pixels, self.lossy, known)


def infer_encoding(masks: list[Path], known: ClassList | None) -> Inferred:
    """Infer what the values of masks mean from a sample of them.

    Args:
        masks: All masks.
        known: The class list, if there is one.

    Returns:
        How to read them, and notes on what was assumed.

    Raises:
        DataError: The masks cannot be read, do not look like classes, or do not fit the list.
    """
    statistics = _read_sample(masks, known is not None and bool(known.colors))
    if statistics.layers:
        return _by_layers(statistics, known)
    if known is not None and known.colors and statistics.fits_colors(known):
        return _by_color(statistics, known)
    if statistics.colored is not None:
        return _by_unlisted_colors(statistics)
    numbering = numbering_of(masks, known) if len(statistics.values) > 2 else None
    if numbering and numbering.certainty == "certain":
        return _by_objects(numbering, known)
    inference = _ValueInference(statistics)
    listed = known or known_list(masks, set(statistics.values))
    return inference.run(listed), tuple(inference.notes)


def numbering_of(masks: list[Path], known: ClassList | None) -> Numbering | None:
    """Return the evidence that values number objects; None where a list names several classes."""
    return find_numbering(masks) if len(_names_of_objects(known)) <= 1 else None


def object_name(known: ClassList | None) -> str:
    """Return what the objects of masks that number them are called."""
    return next(iter(_names_of_objects(known)), OBJECT)


def _names_of_objects(known: ClassList | None) -> list[str]:
    names = [known.names[value] for value in known.kept] if known else []
    return [name for name in names if name.casefold() != BACKGROUND]


def _read_sample(masks: list[Path], with_colors: bool) -> _Statistics:
    statistics, problem = _Statistics(len(masks)), ""
    positions = np.linspace(0, len(masks) - 1, min(len(masks), MAX_SAMPLE))
    indices = sorted({round(position) for position in positions})
    for index in indices:
        try:
            statistics.add(masks[index], with_colors)
        except BrokenImage as error:  # skipped, and counted, when it is needed
            problem = problem or str(error)
    if not statistics.paths:
        raise DataError("none of the masks can be read", why=problem, id="no_readable_mask")
    return statistics


# --- objects and layers


def _by_objects(numbering: Numbering, known: ClassList | None) -> Inferred:
    name = object_name(known)
    text = (
        "the values of the masks number objects (up to {most} in an image): all are read as the"
        " class {name}; to detect single objects, use --format instance_masks"
    )
    note = remark("masks_number_objects", text, most=numbering.most, name=repr(name))
    return MaskEncoding((BACKGROUND, name), {}, known.source if known else "", "objects"), (note,)


def _by_layers(statistics: _Statistics, known: ClassList | None) -> Inferred:
    count = next(iter(statistics.layers))
    names = [known.names[value] for value in known.kept] if known else []
    rest = [BACKGROUND] if statistics.uncovered else []
    if names and names[0].casefold() == BACKGROUND and len(names) == count + len(rest) and rest:
        names, rest = names[1:], [names[0]]
    if known and len(names) != count:
        raise DataError(
            "the masks have another number of layers than the class list has names",
            where=known.source,
            why=f"{printable(statistics.layers[count])} has {count} layers, the list has"
            f" {counted(len(known.kept), 'name', 'names')}",
            hint="name each layer, in their order",
            id="mask_layers_not_listed",
        )
    notes = []
    if not known:
        text = "the masks have {count} layers without names: each is a class; {hint}"
        notes.append(remark("mask_layers_unnamed", text, count=count, hint=HOW_TO_NAME))
        names = [f"class {number}" for number in range(count)]
    if statistics.overlap:
        text = "up to {share} of the pixels of a mask are in several layers: the last one counts"
        share = percent(statistics.overlap, 2)
        notes.append(remark("mask_layers_overlap", text, severity="warning", share=share))
    indices = {number: number + len(rest) for number in range(count)}
    if rest:
        indices[NO_LAYER] = 0
    source = known.source if known else ""
    return MaskEncoding((*rest, *names), indices, source, "layers"), tuple(notes)


# --- colors


def _by_color(statistics: _Statistics, known: ClassList) -> Inferred:
    notes, kept = [], known.kept
    unknown = [color for color in statistics.colors if color not in known.colors]
    levels: Levels | str = ""
    if unknown and (statistics.lossy or len(unknown) >= _MANY_COLORS):
        levels = statistics.find_levels(3, tuple(map(unpack_color, known.colors)))
        if isinstance(levels, Levels):
            notes.append(_smeared_note(statistics, levels, f"the colors in {known.source}"))
        elif statistics.lossy:
            raise _smeared(statistics, levels)
    elif unknown:
        notes.append(_unlisted_colors(statistics, known, unknown))
    if unknown and not notes:
        notes.append(_unlisted_colors(statistics, known, unknown))
    indices = {
        color: kept.index(value) if value in kept else IGNORE_INDEX
        for color, value in known.colors.items()
    }
    classes = tuple(known.names[value] for value in kept)
    kind: Kind = "smeared" if isinstance(levels, Levels) else "colors"
    found = levels if isinstance(levels, Levels) else None
    return MaskEncoding(classes, indices, known.source, kind, found), tuple(notes)


def _unlisted_colors(statistics: _Statistics, known: ClassList, unknown: list[int]) -> Issue:
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


def _by_unlisted_colors(statistics: _Statistics) -> Inferred:
    """Black and one color; other colors are refused, with a list of them to be named."""
    levels = statistics.find_levels(3)
    found = levels.levels if isinstance(levels, Levels) else ()
    shares = _shares_of(statistics.colors, found)
    black = [color for color in shares if max(color) <= (_ENDS if statistics.lossy else 0)]
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
    if len(shares) > _MAX_VALUES:
        why = f"there are {len(statistics.colors)} different colors in {statistics.sample}"
        raise _not_class_masks(statistics.colored, why)
    raise _colors_without_names(statistics, shares)


def _colors_without_names(
    statistics: _Statistics, shares: dict[tuple[int, ...], float]
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


# --- values


def _not_class_masks(where: Path | None, why: str) -> DataError:
    return DataError(
        "the masks do not look like class masks",
        where=printable(where or ""),
        why=why,
        hint="a mask must hold the index of a class in each pixel; save it as PNG",
        id="not_class_masks",
    )


def _smeared(statistics: _Statistics, why: str) -> DataError:
    return DataError(
        "the masks are JPEGs, and their classes cannot be told apart",
        where=printable(statistics.paths[0]),
        why=f"{why} ({statistics.sample})",
        hint="save them as PNG, at best from the tool that made them: JPEG changes values",
        id="masks_smeared_by_jpeg",
    )


def _smeared_note(statistics: _Statistics, levels: Levels, named: str) -> Issue:
    values: dict[str, Any] = {
        "share": percent(levels.between, 2),
        "sample": statistics.sample,
        "levels": named,
    }
    if levels.lossy:
        text = (
            "the masks are JPEGs, which smear values: {share} of the pixels in {sample} lie between"
            " {levels}, and are read as the nearest"
        )
        return remark("masks_jpeg", text, **values)
    text = (
        "the edges in the masks are smoothed: {share} of the pixels in {sample} lie between"
        " {levels}, and are read as the nearest"
    )
    return remark("masks_anti_aliased", text, **values)


class _ValueInference:
    """Infers the classes of masks that hold values; assumptions become notes."""

    def __init__(self, statistics: _Statistics) -> None:
        self.statistics, self.notes = statistics, list[Issue]()
        self.values = set(statistics.values)
        self.kind: Kind = "values"
        self.levels: Levels | None = None

    def run(self, known: ClassList | None) -> MaskEncoding:
        """Return the encoding."""
        self._find_levels(known)
        return self._with_names(known) if known else self._without_names()

    def _find_levels(self, known: ClassList | None) -> None:
        """Find the levels of smeared masks. Raises DataError if they are not clear."""
        counts, lossy = self.statistics.values, self.statistics.lossy
        unlisted = self.values - set(known.names if known else ()) - {_BORDER}
        if len(self.values) <= 2 or (not lossy and len(unlisted) < _MIN_UNLISTED):
            return
        if not lossy and max(self.values) > _BORDER:
            return
        levels = self.statistics.find_levels(1)
        if lossy and not (isinstance(levels, Levels) and len(levels.levels) > 1):
            if not self._is_black_and_white():
                single = f"all values lie between {min(counts)} and {max(counts)}"
                raise _smeared(self.statistics, levels if isinstance(levels, str) else single)
            levels = Levels(((0,), (_BORDER,)), True, self._between(_ENDS), strict=False)
        if isinstance(levels, str) or not (lossy or is_anti_aliased(counts, levels.levels)):
            return
        self._set_levels(levels)

    def _set_levels(self, levels: Levels) -> None:
        low, *_, high = (level[0] for level in levels.levels)
        if len(levels.levels) == 2 and low <= _ENDS and high >= _BORDER - _ENDS:
            levels = Levels(((0,), (_BORDER,)), levels.lossy, levels.between, levels.strict)
        self.kind, self.levels = "smeared", levels
        self.values = {level[0] for level in levels.levels}
        self.notes.append(_smeared_note(self.statistics, levels, _format_values(self.values)))

    def _is_black_and_white(self) -> bool:
        """Whether nearly all pixels are close to black or white, and some to white."""
        return max(self.values) > _BORDER - _ENDS and self._between(_ENDS) <= 0.05

    def _between(self, margin: int) -> float:
        """Share of the pixels that are farther than a margin from black and white."""
        counts = self.statistics.values
        ends = sum(n for value, n in counts.items() if value <= margin or value >= _BORDER - margin)
        return 1 - ends / counts.total()

    def _with_names(self, known: ClassList) -> MaskEncoding:
        kept, file = known.kept, Path(known.source).name
        classes = tuple(known.names[value] for value in kept)
        indices = {
            value: kept.index(value) if value in kept else IGNORE_INDEX
            for value in {*known.names, *known.ignored}
        }
        is_single = len(known.names) == 1 and known.names.get(0) != BACKGROUND
        if is_single and self.values <= {0, 1, 255}:
            text = "the only class {name} is read as everything but 0; 0 is {background}"
            self._note("masks_single_class", text, name=repr(classes[0]), background=BACKGROUND)
            binary = {0: 0, 1: 1, 255: 1}
            return self._encoding((BACKGROUND, *classes), binary, known.source)
        is_binary = sorted(known.names) == [0, 1] and self.values <= {0, 255}
        if is_binary and 255 not in known.ignored:
            indices[255] = indices[1]
        elif _BORDER not in indices:
            indices[_BORDER] = IGNORE_INDEX
            if _BORDER in self.values:
                text = "the value {value} is not in {list} and is ignored, as in Pascal VOC"
                self._note("masks_border_not_listed", text, value=_BORDER, list=file)
        self._refuse_unlisted(set(indices), known)
        return self._encoding(classes, indices, known.source)

    def _refuse_unlisted(self, listed: set[int], known: ClassList) -> None:
        for value in sorted(self.values - listed)[:1]:
            with skip_and_record():
                raise DataError(
                    f"the value {value} of the mask is not in {known.source}",
                    where=printable(self.statistics.first["values", value]),
                    why=f"the list has {counted(len(known.names), 'name', 'names')}, for the values"
                    f" {min(known.names)} to {max(known.names)}",
                    hint="add a line for it, or -void to ignore it",
                    id="mask_value_not_listed",
                )

    def _without_names(self) -> MaskEncoding:
        sample = self.statistics.sample
        if self.values <= {0, 1} or self.values <= {0, 255}:
            text = "the masks hold {values} ({sample}): read as {background} and foreground"
            both = " and ".join(map(str, sorted(self.values)))
            self._note("masks_binary", text, values=both, sample=sample, background=BACKGROUND)
            return self._encoding((BACKGROUND, "foreground"), {0: 0, 1: 1, 255: 1})
        values, indices = self.values, dict[int, int]()
        if _BORDER in values and max(values - {_BORDER}) < _MAX_VALUES and not self.levels:
            text = "the value {value} is ignored, as in Pascal VOC"
            self._note("masks_border", text, value=_BORDER)
            indices, values = {_BORDER: IGNORE_INDEX}, values - {_BORDER}
        if len(values) > _MAX_VALUES or min(values) < 0:
            range_ = f"from {min(values)} to {max(values)}"
            why = f"there are {len(values)} different values in {sample}, {range_}"
            raise _not_class_masks(self.statistics.first["values", max(values)], why)
        class_values = list(range(max(values) + 1) if max(values) < _MAX_VALUES else sorted(values))
        indices |= {value: index for index, value in enumerate(class_values)}
        text = "the classes have no names: the masks hold the values {values} ({sample}); {hint}"
        listed = _format_values(values)
        self._note("masks_unnamed", text, values=listed, sample=sample, hint=HOW_TO_NAME)
        return self._encoding(tuple(f"class {value}" for value in class_values), indices)

    def _encoding(
        self, classes: tuple[str, ...], indices: dict[int, int], source: str = ""
    ) -> MaskEncoding:
        return MaskEncoding(classes, indices, source, self.kind, self.levels)

    def _note(self, id: str, text: str, **values: Any) -> None:
        self.notes.append(remark(id, text, **values))


def _format_values(values: set[int]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]} to {ordered[-1]}" if len(ordered) > 12 else ", ".join(map(str, ordered))
