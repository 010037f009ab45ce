"""What the values or colors of masks mean, inferred from a sample; and reading masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foveate.data.formats._class_lists import ClassList, unpack_color
from foveate.data.issues import skip_and_record
from foveate.errors import BrokenImage, DataError
from foveate.images.codec import read_image, read_index_mask
from foveate.messages import counted, percent
from foveate.predictions import IGNORE_INDEX
from foveate.types import Issue, remark
from foveate.utils.paths import printable

BACKGROUND = "background"
HOW_TO_NAME = (
    "to name the classes, put a file classes.txt beside the folders, with one name per line in the"
    " order of the values (-void to ignore one), or write a dataset config"
)

_MAX_SAMPLE = 64  # masks that are read
_MAX_VALUES = 64  # more different values than these are not classes
_BORDER = 255  # Pascal VOC's value for the borders of objects, which is ignored
_JPEG_SPREAD = 32  # gray levels by which JPEG changes black and white
_LOSSY = frozenset({".jpg", ".jpeg", ".jfif"})
_UNKNOWN = -2  # index of a value without a class

Kind = Literal["values", "colors", "smeared"]
"""What a mask holds: class values; colors; or black and white that JPEG has smeared."""


@dataclass(frozen=True)
class MaskEncoding:
    """How masks are read.

    Attributes:
        classes: The classes.
        indices: Value, or packed color -> class index or IGNORE_INDEX.
        source: The class list, for messages; empty if there is none.
        kind: What a mask holds.
    """

    classes: tuple[str, ...]
    indices: dict[int, int]
    source: str
    kind: Kind = "values"


# --- reading


def read_mask(path: Path, encoding: MaskEncoding) -> np.ndarray:
    """Read a mask as (H, W) int64 class indices.

    Raises:
        BrokenImage: It cannot be decoded.
        DataError: It holds a value that is not a class.
    """
    if encoding.kind == "colors":
        indices = _look_up(_pack(read_image(path)[0]), encoding.indices)
        return np.where(indices == _UNKNOWN, IGNORE_INDEX, indices)
    values = read_index_mask(path)
    if encoding.kind == "smeared":
        values = np.where(values >= 128, 255, 0)
    indices = _look_up(values, encoding.indices)
    if (indices == _UNKNOWN).any():
        raise DataError(
            f"the value {int(values[indices == _UNKNOWN][0])} of the mask is not a class",
            where=printable(path),
            why=None
            if encoding.source
            else f"the classes were inferred from a sample of {_MAX_SAMPLE} masks",
            hint=f"add it to {encoding.source}" if encoding.source else HOW_TO_NAME,
            id="mask_value_no_class",
        )
    return indices


def read_union(paths: tuple[Path, ...], encoding: MaskEncoding) -> np.ndarray:
    """Read the masks of an image, as `read_mask` does; of several the largest class index wins.

    Raises:
        BrokenImage: A mask cannot be decoded.
        DataError: A mask holds a value that is not a class.
    """
    mask = read_mask(paths[0], encoding)
    for path in paths[1:]:
        mask = np.maximum(mask, read_mask(path, encoding))
    return mask


def read_layers(layers: tuple[tuple[int, Path], ...]) -> np.ndarray:
    """Read one binary mask per class as (H, W) int64 class indices.

    Args:
        layers: Class index and file; later ones cover earlier ones.

    Raises:
        BrokenImage: A mask cannot be decoded.
        DataError: The masks differ in size.
    """
    mask: np.ndarray | None = None
    for index, path in layers:
        values = read_index_mask(path)
        inside = values >= 128 if path.suffix.lower() in _LOSSY else values > 0
        mask = np.zeros(inside.shape, dtype=np.int64) if mask is None else mask
        if mask.shape != inside.shape:
            raise DataError(
                "the masks of one image differ in size",
                where=printable(path),
                why=f"it has {_format_size(inside.shape)}, another has {_format_size(mask.shape)}",
                hint="export all masks at the size of the image",
                id="mask_sizes_differ",
            )
        mask[inside] = index
    if mask is None:
        raise ValueError("an image without masks")
    return mask


def _look_up(values: np.ndarray, indices: dict[int, int]) -> np.ndarray:
    """The index of every value; _UNKNOWN for those without one."""
    if values.dtype.itemsize <= 2 and values.size > 65536:
        # a table of all values is faster than a search for every pixel
        table = _look_up(np.arange(np.iinfo(values.dtype).max + 1), indices)
        return np.asarray(table[values])
    keys = np.array(sorted(indices), dtype=np.int64)
    positions = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    by_position = np.array([indices[int(key)] for key in keys], dtype=np.int64)
    return np.where(keys[positions] == values, by_position[positions], _UNKNOWN)


def _pack(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int64, one integer per color, as `pack_color` does."""
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    return np.asarray(red << 16 | green << 8 | blue)


def _format_size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} px"


# --- inferring


@dataclass
class _Statistics:
    """What a sample of the masks holds.

    Attributes:
        total: Number of all masks.
        count: Number of masks in the sample.
        values: Number of pixels of each value.
        colors: Number of pixels of each packed color.
        first: The first file with a value or color.
        colored: The first mask that is not a grayscale or palette image.
        lossy: Whether all masks are JPEGs.
    """

    total: int
    count: int = 0
    values: Counter[int] = field(default_factory=Counter)
    colors: Counter[int] = field(default_factory=Counter)
    first: dict[tuple[str, int], Path] = field(default_factory=dict)
    colored: Path | None = None
    lossy: bool = True

    @property
    def sample(self) -> str:
        """How large the sample is, for messages."""
        return f"{self.count} of {counted(self.total, 'mask', 'masks')}"

    def add(self, path: Path, with_colors: bool) -> None:
        """Count a mask. Raises BrokenImage."""
        try:
            values: np.ndarray | None = read_index_mask(path)
        except BrokenImage:
            values = None  # in color, or broken: the next line finds out
        if values is None or with_colors:
            self._count("colors", self.colors, _pack(read_image(path)[0]), path)
        if values is None:
            self.colored = self.colored or path
        else:
            self._count("values", self.values, values, path)
        self.lossy = self.lossy and path.suffix.lower() in _LOSSY
        self.count += 1

    def _count(self, kind: str, counts: Counter[int], mask: np.ndarray, path: Path) -> None:
        values, pixels = np.unique(mask, return_counts=True)
        for value, count in zip(values.tolist(), pixels.tolist(), strict=True):
            counts[value] += count
            self.first.setdefault((kind, value), path)

    def is_smeared(self) -> bool:
        """Whether the masks are JPEGs of black and white."""
        near_ends = sum(
            pixels
            for value, pixels in self.values.items()
            if value <= _JPEG_SPREAD or value >= 255 - _JPEG_SPREAD
        )
        return (
            self.lossy
            and len(self.values) > 2
            and max(self.values) > 255 - _JPEG_SPREAD
            and near_ends >= 0.95 * self.values.total()
        )

    def fits_colors(self, known: ClassList) -> bool:
        """Whether to read the masks by color: colors fit the list, or values do not."""
        return (
            (set(self.colors) <= set(known.colors) and len(self.colors) > 1)
            or self.colored is not None
            or not set(self.values) <= {*known.names, *known.ignored, _BORDER}
        )


def infer_encoding(
    masks: list[Path], known: ClassList | None
) -> tuple[MaskEncoding, tuple[Issue, ...]]:
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
    if known is not None and known.colors and statistics.fits_colors(known):
        return _by_color(statistics, known)
    if statistics.colored is not None:
        raise DataError(
            "the masks are in color",
            where=printable(statistics.colored),
            hint="name the class of each color in a file class_dict.csv beside the folders:"
            " name,r,g,b in the first line, then lines like sky,128,128,128",
            id="masks_in_color",
        )
    inference = _ValueInference(statistics)
    return inference.run(known), tuple(inference.notes)


def _read_sample(masks: list[Path], with_colors: bool) -> _Statistics:
    statistics, problem = _Statistics(len(masks)), ""
    positions = np.linspace(0, len(masks) - 1, min(len(masks), _MAX_SAMPLE))
    indices = sorted({round(position) for position in positions})
    for index in indices:
        try:
            statistics.add(masks[index], with_colors)
        except BrokenImage as error:  # skipped, and counted, when it is needed
            problem = str(error)
    if statistics.count == 0:
        raise DataError("none of the masks can be read", why=problem, id="no_readable_mask")
    return statistics


def _by_color(statistics: _Statistics, known: ClassList) -> tuple[MaskEncoding, tuple[Issue, ...]]:
    notes, kept = [], known.kept
    unknown = [color for color in statistics.colors if color not in known.colors]
    if unknown:
        share = sum(statistics.colors[color] for color in unknown) / statistics.colors.total()
        example = unpack_color(unknown[0])
        if share > 0.5:
            raise DataError(
                "the colors of the masks are not those of the class list",
                where=known.source,
                why=f"{percent(share)} of the pixels in {statistics.sample} have other colors, such"
                f" as {example}",
                id="mask_colors_unknown",
            )
        text = (
            "{count:color|colors} ({share} of the pixels in {sample}) not in {list}: ignored"
            " ({example} in {file}, ...)"
        )
        note = remark(
            "mask_colors_ignored",
            text,
            count=len(unknown),
            share=percent(share, 2),
            sample=statistics.sample,
            list=Path(known.source).name,
            example=str(example),
            file=repr(printable(statistics.first["colors", unknown[0]].name)),
        )
        notes.append(note)
    indices = {
        color: kept.index(value) if value in kept else IGNORE_INDEX
        for color, value in known.colors.items()
    }
    classes = tuple(known.names[value] for value in kept)
    return MaskEncoding(classes, indices, known.source, "colors"), tuple(notes)


class _ValueInference:
    """Infers the classes of masks that hold values; assumptions become notes."""

    def __init__(self, statistics: _Statistics) -> None:
        self.statistics, self.notes = statistics, list[Issue]()
        self.kind: Kind = "smeared" if statistics.is_smeared() else "values"
        self.values = {0, 255} if self.kind == "smeared" else set(statistics.values)

    def run(self, known: ClassList | None) -> MaskEncoding:
        """Return the encoding."""
        if self.kind == "smeared":
            text = (
                "the masks are JPEGs, which smear values: above 127 is read as 255, the rest as 0"
            )
            self._note("masks_jpeg", text)
        return self._with_names(known) if known else self._without_names()

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
            return MaskEncoding((BACKGROUND, *classes), binary, known.source, self.kind)
        is_binary = sorted(known.names) == [0, 1] and self.values <= {0, 255}
        if is_binary and 255 not in known.ignored:
            indices[255] = indices[1]
        elif _BORDER not in indices:
            indices[_BORDER] = IGNORE_INDEX
            if _BORDER in self.values:
                text = "the value {value} is not in {list} and is ignored, as in Pascal VOC"
                self._note("masks_border_not_listed", text, value=_BORDER, list=file)
        self._refuse_unlisted(set(indices), known)
        return MaskEncoding(classes, indices, known.source, self.kind)

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
            binary = {0: 0, 1: 1, 255: 1}
            return MaskEncoding((BACKGROUND, "foreground"), binary, "", self.kind)
        values, indices = self.values, dict[int, int]()
        if _BORDER in values and max(values - {_BORDER}) < _MAX_VALUES:
            text = "the value {value} is ignored, as in Pascal VOC"
            self._note("masks_border", text, value=_BORDER)
            indices, values = {_BORDER: IGNORE_INDEX}, values - {_BORDER}
        if len(values) > _MAX_VALUES or min(values) < 0:
            raise DataError(
                "the masks do not look like class masks",
                where=printable(self.statistics.first["values", max(values)]),
                why=f"there are {len(values)} different values in {sample}, from {min(values)} to"
                f" {max(values)}",
                hint="a mask must be a PNG that holds the index of a class in each pixel; one mask"
                " per object is not supported",
                id="not_class_masks",
            )
        class_values = list(range(max(values) + 1) if max(values) < _MAX_VALUES else sorted(values))
        indices |= {value: index for index, value in enumerate(class_values)}
        text = "the classes have no names: the masks hold the values {values} ({sample}); {hint}"
        listed = _format_values(values)
        self._note("masks_unnamed", text, values=listed, sample=sample, hint=HOW_TO_NAME)
        return MaskEncoding(
            tuple(f"class {value}" for value in class_values), indices, "", self.kind
        )

    def _note(self, id: str, text: str, **values: Any) -> None:
        self.notes.append(remark(id, text, **values))


def _format_values(values: set[int]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]} to {ordered[-1]}" if len(ordered) > 12 else ", ".join(map(str, ordered))
