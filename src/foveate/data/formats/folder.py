"""A folder per class, with or without split folders above: root/cat/1.jpg, or root/train/cat/1.jpg and root/val/cat/7.jpg."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from foveate.data.discovery import find_files, holds_images, is_image, listed
from foveate.data.formats import Format
from foveate.data.formats._roles import said_by
from foveate.data.issues import TWINS, UNTAUGHT, Issue, IssueKind, Location
from foveate.data.splits import split_from_name
from foveate.errors import DataError
from foveate.predictions import Labels
from foveate.types import Sample, Split, Table
from foveate.utils.paths import printable

_DESCRIPTIONS = (
    "data.yaml",
    "data.yml",
    "dataset.yaml",
    "dataset.yml",
    "boxes.csv",
    "_annotations.coco.json",
)
_CARDS = (".yaml", ".yml", ".json")
_TAKEN = IssueKind(
    "classes of a split that are spelt otherwise than in the split before it, taken for the same",
    "warning",
    "classes",
)
_EMPTY = IssueKind("folders without pictures, skipped", "warning", "classes")
_LOOSE = IssueKind("pictures in no class folder, skipped", "warning")
_UNNAMED = IssueKind("files in class folders that are not named like a picture, skipped")
_ORDER: tuple[Split | None, ...] = (None, "train", "val", "test")


class Folder(Format):
    summary: ClassVar[str] = "a folder per class"

    def sniff(self, path: Path) -> bool:
        try:
            places = _places(path) if path.is_dir() else []
            classes = [folder for place in places for folder in place.classes]
            alone = len(classes) == 1
            return not _is_described(path, alone) and any(
                _is_class(folder, alone) for folder in classes
            )
        except DataError:
            return False

    def read(self, path: Path) -> Table:
        """The table of the pictures under `path`. Raises DataError when there are none, or when the class folders lie deeper."""
        if not path.is_dir():
            raise DataError(
                "this is not a folder",
                where=printable(path),
                hint="give the folder above the class folders",
            )
        places = _places(path)
        notes = _beside(path, places)
        spelling = _Spelling()
        samples = [sample for place in places for sample in _samples(path, place, spelling, notes)]
        classes = sorted(
            {
                name
                for sample in samples
                if isinstance(sample.target, Labels)
                for name in sample.target.names
            }
        )
        _refuse_too_few(path, classes)
        return Table(
            samples=tuple(sorted(samples, key=lambda sample: sample.key)),
            classes=tuple(classes),
            format="folder",
            root=path,
            notes=(*notes, *spelling.notes),
        )


@dataclass(frozen=True)
class _Place:
    """A folder whose children are class folders, and the split that it stands for."""

    folder: Path
    split: Split | None
    classes: list[Path]
    empty: list[Path]
    loose: int  # pictures that lie beside the class folders


def _places(root: Path) -> list[_Place]:
    """Where the class folders lie: in the root, or in its split folders, in the order train, val, test.

    Split names count when every child with pictures has one, or when two different ones meet: a lone 'train' among 'bus' and
    'car' is a vehicle.
    """
    bearing = [child for child in listed(root) if child.is_dir() and _bears(child)]
    splits = {child: split for child in bearing if (split := split_from_name(child.name))}
    if splits and (len(splits) == len(bearing) or len(set(splits.values())) > 1):
        return sorted(
            (_place(child, split) for child, split in splits.items()),
            key=lambda place: _ORDER.index(place.split),
        )
    return [_place(root, None)]


def _place(folder: Path, split: Split | None) -> _Place:
    children = listed(folder)
    folders = [child for child in children if child.is_dir()]
    classes = [child for child in folders if _bears(child)]
    return _Place(
        folder=folder,
        split=split,
        classes=classes,
        empty=[child for child in folders if child not in set(classes)],
        loose=sum(is_image(child) and child.is_file() for child in children),
    )


def _is_described(root: Path, alone: bool) -> bool:
    """Whether a file says what the folders mean, so that they are no classes; beside a lone folder any such file does."""
    files = [file for file in listed(root) if file.is_file()]
    return any(
        file.name.lower() in _DESCRIPTIONS or (alone and file.suffix.lower() in _CARDS)
        for file in files
    )


def _is_class(folder: Path, alone: bool) -> bool:
    """Whether a folder of pictures may be a class, by its name (train2017 is COCO's training images), or, where there is no
    other, by what it holds: a folder that holds nothing but JPEGImages is the root of other data."""
    name = folder.name.casefold()
    if _holds_other(name) or (name[-4:].isdecimal() and split_from_name(name[:-4])):
        return False
    if not alone:
        return True
    inner = _place(folder, None)
    return inner.loose > 0 or any(not _holds_other(child.name) for child in inner.classes)


def _holds_other(name: str) -> bool:
    """Whether folders of this name hold pictures or masks in other layouts; as classes they would make no sense."""
    said = said_by(name)
    return said is not None and said[1] is not None


def _bears(folder: Path) -> bool:
    return holds_images(folder)


def _samples(root: Path, place: _Place, spelling: _Spelling, notes: list[str]) -> Iterator[Sample]:
    names = {
        folder: spelling.of(printable(folder.name), place.split, own)
        for folder, own in _owned(place)
    }
    spelling.close()
    for folder in place.classes:
        others, truth = 0, Labels((names[folder],))  # one for all: there may be a million of them
        for file in find_files(folder):
            if is_image(file):
                key = printable(file.relative_to(root))
                yield Sample(path=file, key=key, target=truth, split=place.split)
            else:
                others += 1
        if others:
            name = printable(folder.relative_to(root))
            told = f"{_files(others)} in {name} skipped: not named like a picture"
            notes.append(Issue(told, _UNNAMED, others, (Location(name),)))


def _owned(place: _Place) -> Iterator[tuple[Path, frozenset[str]]]:
    """Each class folder with all the names in its place, which are never mapped onto each other."""
    names = frozenset(printable(folder.name) for folder in place.classes)
    return ((folder, names) for folder in place.classes)


class _Spelling:
    """One spelling for each class: that of the first split (train, if there is one) which has it."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._known: set[str] = set()  # the names of the splits before this one
        self._fresh: set[str] = set()  # those of this split
        self._folded: dict[str, str] = {}

    def of(self, name: str, split: Split | None, beside: frozenset[str]) -> str:
        known = self._folded.get(_fold(name))
        if name in self._known or name in self._fresh:
            return name
        if known is not None and known not in beside:
            self._note(_TAKEN, f"the class {name!r} in {split} is taken for {known!r}", name)
            return known
        if known is not None:
            self._note(
                TWINS,
                f"{known!r} and {name!r} differ in case or spaces only, and are kept as two classes",
                name,
            )
        elif self._known:
            told = f"the class {name!r} is in {split} but not in the splits before it: it cannot be learnt there"
            self._note(UNTAUGHT, told, name)
        self._fresh.add(name)
        self._folded.setdefault(_fold(name), name)
        return name

    def _note(self, kind: IssueKind, sentence: str, name: str) -> None:
        self.notes.append(Issue(sentence, kind, 1, (Location(name, sentence),)))

    def close(self) -> None:
        """Ends a split: its names are known to the next one."""
        self._known |= self._fresh
        self._fresh = set()


def _fold(name: str) -> str:
    return "".join(name.split()).casefold()


def _beside(root: Path, places: list[_Place]) -> list[str]:
    """Notes on what lies beside the class folders."""
    notes = []
    if places[0].split is not None:
        used = {place.folder for place in places}
        extra = [
            printable(child.name) for child in listed(root) if child.is_dir() and child not in used
        ]
        notes += [f"the folder {name!r} beside the split folders is skipped" for name in extra]
        notes += _loose(sum(is_image(child) and child.is_file() for child in listed(root)), root)
    for place in places:
        empty = [printable(folder.relative_to(root)) for folder in place.empty]
        notes += [
            Issue(
                f"the folder {name!r} is skipped: it holds no pictures", _EMPTY, 1, (Location(name),)
            )
            for name in empty
        ]
        notes += _loose(place.loose, place.folder)
    return notes


def _loose(count: int, folder: Path) -> list[str]:
    told = f"{_files(count)} skipped: directly in {printable(folder.name)!r}, in no class folder"
    return [Issue(told, _LOOSE, count, (Location(printable(folder.name)),))] if count else []


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _refuse_too_few(root: Path, classes: list[str]) -> None:
    where = printable(root)
    if not classes:
        hint = "put the pictures of each class into a folder with its name"
        why = (
            "it holds pictures, but in no class folders"
            if _bears(root)
            else "no file in it is named like a picture"
        )
        raise DataError(
            "there are no labelled images in this folder", where=where, why=why, hint=hint
        )
    inner = listed(root) if len(classes) == 1 else []
    inner = [child for child in inner if child.is_dir() and len(_place(child, None).classes) > 1]
    if inner:
        hint = f"did you mean {printable(inner[0])!r}?"
        raise DataError(f"only one class has images: {classes[0]!r}", where=where, hint=hint)
