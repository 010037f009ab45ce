"""What the values or colors of masks mean, inferred from a sample of them and a class list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveate.data.formats._class_lists import ClassList
from foveate.data.formats._instance_ids import OBJECT, Numbering, find_numbering
from foveate.data.formats._known_lists import known_list
from foveate.data.formats._mask_colors import Inferred, by_color, by_unlisted_colors
from foveate.data.formats._mask_levels import Levels, is_anti_aliased
from foveate.data.formats._mask_sample import (
    BORDER,
    ENDS,
    MAX_VALUES,
    Statistics,
    not_class_masks,
    read_sample,
    smeared_by_jpeg,
    smeared_note,
)
from foveate.data.formats._mask_values import (
    BACKGROUND,
    HOW_TO_NAME,
    NO_LAYER,
    Kind,
    MaskEncoding,
)
from foveate.data.issues import skip_and_record
from foveate.errors import DataError
from foveate.messages import counted, percent
from foveate.predictions import IGNORE_INDEX
from foveate.types import Issue, remark
from foveate.utils.paths import printable

_MIN_UNLISTED = 3  # values beyond a list from which they may be smeared


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
    statistics = read_sample(masks, known is not None and bool(known.colors))
    if statistics.layers:
        return _by_layers(statistics, known)
    if known is not None and known.colors and statistics.fits_colors(known):
        return by_color(statistics, known)
    if statistics.colored is not None:
        return by_unlisted_colors(statistics)
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


# --- objects and layers


def _by_objects(numbering: Numbering, known: ClassList | None) -> Inferred:
    name = object_name(known)
    text = (
        "the values of the masks number objects (up to {most} in an image): all are read as the"
        " class {name}; to detect single objects, use --format instance_masks"
    )
    note = remark("masks_number_objects", text, most=numbering.most, name=repr(name))
    return MaskEncoding((BACKGROUND, name), {}, known.source if known else "", "objects"), (note,)


def _by_layers(statistics: Statistics, known: ClassList | None) -> Inferred:
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


# --- values


class _ValueInference:
    """Infers the classes of masks that hold values; assumptions become notes."""

    def __init__(self, statistics: Statistics) -> None:
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
        unlisted = self.values - set(known.names if known else ()) - {BORDER}
        if len(self.values) <= 2 or (not lossy and len(unlisted) < _MIN_UNLISTED):
            return
        if not lossy and max(self.values) > BORDER:
            return
        levels = self.statistics.find_levels(1)
        if lossy and not (isinstance(levels, Levels) and len(levels.levels) > 1):
            if not self._is_black_and_white():
                single = f"all values lie between {min(counts)} and {max(counts)}"
                why = levels if isinstance(levels, str) else single
                raise smeared_by_jpeg(self.statistics, why)
            levels = Levels(((0,), (BORDER,)), True, self._between(ENDS), strict=False)
        if isinstance(levels, str) or not (lossy or is_anti_aliased(counts, levels.levels)):
            return
        self._set_levels(levels)

    def _set_levels(self, levels: Levels) -> None:
        low, *_, high = (level[0] for level in levels.levels)
        if len(levels.levels) == 2 and low <= ENDS and high >= BORDER - ENDS:
            levels = Levels(((0,), (BORDER,)), levels.lossy, levels.between, levels.strict)
        self.kind, self.levels = "smeared", levels
        self.values = {level[0] for level in levels.levels}
        self.notes.append(smeared_note(self.statistics, levels, _format_values(self.values)))

    def _is_black_and_white(self) -> bool:
        """Whether nearly all pixels are close to black or white, and some to white."""
        return max(self.values) > BORDER - ENDS and self._between(ENDS) <= 0.05

    def _between(self, margin: int) -> float:
        """Share of the pixels that are farther than a margin from black and white."""
        counts = self.statistics.values
        ends = sum(n for value, n in counts.items() if value <= margin or value >= BORDER - margin)
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
        elif BORDER not in indices:
            indices[BORDER] = IGNORE_INDEX
            if BORDER in self.values:
                text = "the value {value} is not in {list} and is ignored, as in Pascal VOC"
                self._note("masks_border_not_listed", text, value=BORDER, list=file)
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
        if BORDER in values and max(values - {BORDER}) < MAX_VALUES and not self.levels:
            text = "the value {value} is ignored, as in Pascal VOC"
            self._note("masks_border", text, value=BORDER)
            indices, values = {BORDER: IGNORE_INDEX}, values - {BORDER}
        if len(values) > MAX_VALUES or min(values) < 0:
            range_ = f"from {min(values)} to {max(values)}"
            why = f"there are {len(values)} different values in {sample}, {range_}"
            raise not_class_masks(self.statistics.first["values", max(values)], why)
        class_values = list(range(max(values) + 1) if max(values) < MAX_VALUES else sorted(values))
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
