"""What the numbers and colours of masks mean: class lists on disk, and the values that a sample of the masks holds.

A class list lies in the root of the data:

    classes.txt, codes.txt   a name a line, the first is value 0; a line that starts with '-' is ignored (-void)
    classes.json             ["sky", "road"] or {"0": "sky", "7": "road"}
    labelmap.txt             name:r,g,b:: a line (CVAT), for masks in colour
    class_dict.csv           name,r,g,b with that header, for masks in colour

Classes called void, ignore or unlabelled are ignored too: their pixels teach nothing and count nowhere.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from foveate.data.issues import skip_and_record
from foveate.errors import BrokenImage, DataError
from foveate.images import codec as images
from foveate.predictions import IGNORE_INDEX
from foveate.utils.paths import printable

BACKGROUND = "background"
HOW_TO_NAME = "name them in a card, or in a file classes.txt beside the folders: a name a line by value, -void to ignore one"

_VOID = frozenset({"void", "ignore", "ignored", "unlabelled", "unlabeled"})
_SAMPLE = 64  # masks that are looked into
_FEW = 64  # values; more of them are no classes
_EDGE = 255  # the value of VOC's object borders, which nobody has to get right
_SMEAR = 32  # grey levels that JPEG moves black and white
_LOSSY = frozenset({".jpg", ".jpeg", ".jfif"})


@dataclass(frozen=True)
class ClassList:
    """Names by value, ignored ones among them. `colours`: packed colour -> value, empty where values are the classes."""

    names: dict[int, str]
    ignored: frozenset[int]
    source: str
    colours: dict[int, int] = field(default_factory=dict)

    @property
    def kept(self) -> list[int]:
        """The values that are classes, in order."""
        return [value for value in sorted(self.names) if value not in self.ignored]


@dataclass(frozen=True)
class Meaning:
    """How a mask is read. `places`: value, or packed colour, -> place in `classes`; IGNORED where nobody cares."""

    classes: tuple[str, ...]
    places: dict[int, int]
    source: str
    kind: Literal["values", "colours", "smeared"] = "values"


def read_mask(path: Path, meaning: Meaning) -> np.ndarray:
    """(H, W) int64 places. Raises BrokenImage, and DataError for a value that is no class."""
    if meaning.kind == "colours":
        found = _placed(_packed(images.read_image(path)[0]), meaning.places)
        return np.where(found == _UNKNOWN, IGNORE_INDEX, found)
    values = images.read_index_mask(path)
    if meaning.kind == "smeared":
        values = _sharpened(values)
    found = _placed(values, meaning.places)
    if (found == _UNKNOWN).any():
        raise _no_class(int(values[found == _UNKNOWN][0]), path, meaning.source)
    return found


def read_layers(layers: tuple[tuple[int, Path], ...]) -> np.ndarray:
    """(H, W) int64: one binary mask a class, as (place, file); later ones win, pixels of none are place 0."""
    mask: np.ndarray | None = None
    for place, path in layers:
        values = images.read_index_mask(path)
        inside = values >= 128 if path.suffix.lower() in _LOSSY else values > 0
        mask = np.zeros(inside.shape, dtype=np.int64) if mask is None else mask
        if mask.shape != inside.shape:
            why = f"{_size(inside.shape)}, and another of the same image is {_size(mask.shape)}"
            raise DataError("the masks of one image differ in size", where=printable(path), why=why)
        mask[inside] = place
    if mask is None:
        raise ValueError("an image without a mask was not dropped")
    return mask


_UNKNOWN = -2


def _placed(values: np.ndarray, places: dict[int, int]) -> np.ndarray:
    """The place of every value, _UNKNOWN where it has none."""
    if (
        values.dtype.itemsize <= 2 and values.size > 65536
    ):  # a table is faster than a search for each pixel
        return np.asarray(_placed(np.arange(np.iinfo(values.dtype).max + 1), places)[values])
    keys = np.array(sorted(places), dtype=np.int64)
    found = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    targets = np.array([places[int(key)] for key in keys], dtype=np.int64)
    return np.where(keys[found] == values, targets[found], _UNKNOWN)


def _packed(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int64, a number a colour."""
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    return np.asarray(red << 16 | green << 8 | blue)


def _sharpened(values: np.ndarray) -> np.ndarray:
    return np.where(values >= 128, 255, 0)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} px"


def _no_class(value: int, path: Path, source: str) -> DataError:
    hint = (
        f"list it in {source}" if source else "masks beyond the sample hold it too: " + HOW_TO_NAME
    )
    return DataError(
        f"the value {value} of this mask is no class", where=printable(path), hint=hint
    )


# --- class lists


def class_list(
    names: dict[int, str],
    source: str,
    ignored: Iterable[int] = (),
    colours: Iterable[tuple[int, int, int]] = (),
) -> ClassList:
    """Names by value, checked. Those that start with '-', or mean void, are ignored, and so are the values `ignored`."""
    bare = {value: name.strip().removeprefix("-").strip() for value, name in names.items()}
    skipped = {
        value
        for value, name in names.items()
        if name.strip().startswith("-") or bare[value].casefold() in _VOID
    }
    kept = [name for value, name in bare.items() if value not in {*skipped, *ignored}]
    if not kept or not all(kept):
        raise DataError(
            "this class list is empty" if not kept else "a class has no name", where=source
        )
    if twice := [name for name, count in Counter(kept).items() if count > 1]:
        raise DataError(f"two classes are called {twice[0]!r}", where=source)
    packed = {
        red << 16 | green << 8 | blue: value
        for value, (red, green, blue) in zip(names, colours, strict=False)
    }
    return ClassList(bare, frozenset({*skipped, *ignored}), source, packed)


def find_class_list(root: Path) -> ClassList | None:
    """The class list that lies in `root`, the ones with colours first; None when there is none."""
    for name, reader in _READERS.items():
        if (root / name).is_file():
            try:
                return reader(root / name)
            except (
                OSError,
                ValueError,
                csv.Error,
                RecursionError,
            ) as error:  # ValueError: JSON, bytes that are no UTF-8, numbers
                raise DataError(
                    "this class list cannot be read", where=printable(root / name), why=str(error)
                ) from None
    return None


def _from_lines(path: Path) -> ClassList:
    lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    return class_list(dict(enumerate(lines)), printable(path))


def _from_json(path: Path) -> ClassList:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return class_list(dict(enumerate(content)), printable(path))
    if isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
        return class_list({int(value): name for value, name in content.items()}, printable(path))
    raise ValueError('wanted is ["sky", "road"] or {"0": "sky", "7": "road"}')


def _from_labelmap(path: Path) -> ClassList:
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    rows = [line.split(":") for line in lines if line and not line.startswith("#")]
    if not all(len(row) >= 2 for row in rows):
        raise ValueError("a line reads name:r,g,b::")
    return _coloured([row[0] for row in rows], [row[1].split(",") for row in rows], path)


def _from_csv(path: Path) -> ClassList:
    rows = [
        row
        for row in csv.reader(
            path.read_text(encoding="utf-8-sig").splitlines(), skipinitialspace=True
        )
        if any(row)
    ]
    if not rows or [cell.strip().casefold() for cell in rows[0][:4]] != ["name", "r", "g", "b"]:
        raise ValueError("its first line reads name,r,g,b")
    return _coloured([row[0] for row in rows[1:]], [row[1:4] for row in rows[1:]], path)


def _coloured(names: list[str], cells: list[list[str]], path: Path) -> ClassList:
    colours = [tuple(int(cell) for cell in row) for row in cells]
    for name, colour in zip(names, colours, strict=True):
        if len(colour) != 3 or not all(0 <= channel <= 255 for channel in colour):
            raise ValueError(f"the colour of {name!r} is not three numbers from 0 to 255")
    if twice := [colour for colour, count in Counter(colours).items() if count > 1]:
        raise ValueError(f"two classes have the colour {twice[0]}")
    return class_list(
        dict(enumerate(names)),
        printable(path),
        colours=[(red, green, blue) for red, green, blue in colours],
    )


_READERS: dict[str, Callable[[Path], ClassList]] = {
    "class_dict.csv": _from_csv,
    "labelmap.txt": _from_labelmap,
    "classes.txt": _from_lines,
    "codes.txt": _from_lines,
    "classes.json": _from_json,
}


# --- masks -> what they mean


@dataclass
class _Seen:
    """What a sample of the masks holds: pixels of each value and colour, and the first file that has it."""

    count: int = 0
    values: Counter[int] = field(default_factory=Counter)
    colours: Counter[int] = field(default_factory=Counter)
    first: dict[tuple[str, int], Path] = field(default_factory=dict)
    in_colour: Path | None = None
    lossy: bool = True

    def add(self, path: Path, coloured: bool) -> None:
        try:
            values: np.ndarray | None = images.read_index_mask(path)
        except BrokenImage:
            values = None  # in colour, or broken: the next line tells
        if values is None or coloured:
            self._count("colours", self.colours, _packed(images.read_image(path)[0]), path)
        if values is None:
            self.in_colour = self.in_colour or path
        else:
            self._count("values", self.values, values, path)
        self.lossy = self.lossy and path.suffix.lower() in _LOSSY
        self.count += 1

    def _count(self, kind: str, counts: Counter[int], found: np.ndarray, path: Path) -> None:
        for value, pixels in zip(
            *(part.tolist() for part in np.unique(found, return_counts=True)), strict=True
        ):
            counts[value] += pixels
            self.first.setdefault((kind, value), path)


def learn(masks: list[Path], known: ClassList | None) -> tuple[Meaning, list[str]]:
    """What the values of these masks mean, and notes on what was taken for granted. Raises DataError."""
    seen = _seen(masks, known is not None and bool(known.colours))
    about = f"{seen.count} of {len(masks)} masks"
    if known is not None and known.colours and _by_colours(seen, known):
        return _colours(seen, known, about)
    if seen.in_colour is not None:
        hint = "say which colour is which class in a file class_dict.csv beside the folders: name,r,g,b, then sky,128,128,128"
        raise DataError("these masks are in colour", where=printable(seen.in_colour), hint=hint)
    kind: Literal["values", "smeared"] = "smeared" if _is_smeared(seen) else "values"
    notes = [
        "the masks are JPEGs, which smear the values: brighter than 127 counts as 255, the rest as 0"
    ] * (kind == "smeared")
    values = {0, 255} if kind == "smeared" else set(seen.values)
    return (
        _named(seen, values, known, kind, notes)
        if known
        else _unnamed(seen, values, kind, notes, about)
    )


def _seen(masks: list[Path], coloured: bool) -> _Seen:
    seen, problem = _Seen(), ""
    places = sorted(
        {round(place) for place in np.linspace(0, len(masks) - 1, min(len(masks), _SAMPLE))}
    )
    for place in places:
        try:
            seen.add(masks[place], coloured)
        except BrokenImage as error:  # is skipped, and counted, when its turn comes
            problem = str(error)
    if seen.count == 0:
        raise DataError(f"none of {len(places)} masks can be read", why=problem)
    return seen


def _is_smeared(seen: _Seen) -> bool:
    """Whether these are JPEGs of black and white."""
    ends = sum(
        pixels for value, pixels in seen.values.items() if value <= _SMEAR or value >= 255 - _SMEAR
    )
    return (
        seen.lossy
        and len(seen.values) > 2
        and max(seen.values) > 255 - _SMEAR
        and ends >= 0.95 * seen.values.total()
    )


def _by_colours(seen: _Seen, known: ClassList) -> bool:
    """Whether the masks speak in colours: they fit the colour map, or they do not fit as values."""
    fit = set(seen.colours) <= set(known.colours) and len(seen.colours) > 1
    return (
        fit
        or seen.in_colour is not None
        or not set(seen.values) <= {*known.names, *known.ignored, _EDGE}
    )


def _colours(seen: _Seen, known: ClassList, about: str) -> tuple[Meaning, list[str]]:
    notes, kept = [], known.kept
    if odd := [colour for colour in seen.colours if colour not in known.colours]:
        share = sum(seen.colours[colour] for colour in odd) / seen.colours.total()
        rgb = (odd[0] >> 16, odd[0] >> 8 & 255, odd[0] & 255)
        if share > 0.5:
            why = f"{share:.0%} of the pixels of {about} have colours that are not on the list, such as {rgb}"
            raise DataError(
                "these colours are not those of the class list", where=known.source, why=why
            )
        notes.append(
            f"{len(odd)} colours ({share:.2%} of the pixels in {about}) are not in {Path(known.source).name} and are ignored: "
            f"{rgb} in {printable(seen.first['colours', odd[0]].name)!r}, ..."
        )
    places = {
        colour: kept.index(value) if value in kept else IGNORE_INDEX
        for colour, value in known.colours.items()
    }
    return Meaning(
        tuple(known.names[value] for value in kept), places, known.source, "colours"
    ), notes


def _named(
    seen: _Seen,
    values: set[int],
    known: ClassList,
    kind: Literal["values", "smeared"],
    notes: list[str],
) -> tuple[Meaning, list[str]]:
    kept = known.kept
    classes = tuple(known.names[value] for value in kept)
    places = {
        value: kept.index(value) if value in kept else IGNORE_INDEX
        for value in {*known.names, *known.ignored}
    }
    if len(known.names) == 1 and values <= {0, 1, 255} and known.names.get(0) != BACKGROUND:
        notes.append(f"the one class {classes[0]!r} is what is not 0; 0 is {BACKGROUND!r}")
        return Meaning((BACKGROUND, *classes), {0: 0, 1: 1, 255: 1}, known.source, kind), notes
    if sorted(known.names) == [0, 1] and values <= {0, 255} and 255 not in known.ignored:
        places[255] = places[1]
    elif _EDGE not in places:
        places[_EDGE] = IGNORE_INDEX
        if _EDGE in values:
            notes.append(
                f"the value {_EDGE} is not in {Path(known.source).name} and is ignored, as in Pascal VOC"
            )
    if odd := sorted(values - set(places)):
        where = printable(seen.first["values", odd[0]])
        hint = (
            f"add a line for it, or -void to ignore it: the list has {len(known.names)} names, for the values "
            + (f"{min(known.names)} to {max(known.names)}")
        )
        with skip_and_record():
            raise DataError(
                f"the value {odd[0]} of this mask is not in {known.source}", where=where, hint=hint
            )
    return Meaning(classes, places, known.source, kind), notes


def _unnamed(
    seen: _Seen, values: set[int], kind: Literal["values", "smeared"], notes: list[str], about: str
) -> tuple[Meaning, list[str]]:
    if values <= {0, 1} or values <= {0, 255}:
        notes.append(
            f"the masks hold {' and '.join(map(str, sorted(values)))} ({about}): read as {BACKGROUND} and foreground"
        )
        return Meaning((BACKGROUND, "foreground"), {0: 0, 1: 1, 255: 1}, "", kind), notes
    places: dict[int, int] = {}
    if _EDGE in values and max(values - {_EDGE}) < _FEW:
        notes.append(f"the value {_EDGE} is ignored, as in Pascal VOC")
        places, values = {_EDGE: IGNORE_INDEX}, values - {_EDGE}
    if len(values) > _FEW or min(values) < 0:
        why = f"{about} hold {len(values)} different values, from {min(values)} to {max(values)}"
        hint = "a mask is a PNG that holds the number of a class in each pixel; one mask for each object is not read here"
        where = printable(seen.first["values", max(values)])
        raise DataError("these masks do not look like classes", where=where, why=why, hint=hint)
    shown = range(max(values) + 1) if max(values) < _FEW else sorted(values)
    places |= {value: place for place, value in enumerate(shown)}
    notes.append(
        f"the classes have no names: the masks hold the values {_listed(values)} ({about}); {HOW_TO_NAME}"
    )
    return Meaning(tuple(f"class {value}" for value in shown), places, "", kind), notes


def _listed(values: set[int]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]} to {ordered[-1]}" if len(ordered) > 12 else ", ".join(map(str, ordered))
