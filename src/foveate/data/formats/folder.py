"""A folder per class, with or without split folders above them.

root/cat/1.jpg, or root/train/cat/1.jpg and root/val/cat/7.jpg.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.discovery import (
    EXTENSIONS,
    extension_of,
    holds_images,
    is_image,
    list_folder,
    list_subfolders,
    walk_folders,
)
from foveate.data.foreign_data import is_bids
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._case_names import are_cases
from foveate.data.formats._folder_export import fold_class_name, write_class_folders
from foveate.data.formats._folder_names import parse_folder_name
from foveate.data.formats._label_names import name_numbers, renamed
from foveate.data.formats._patient_files import are_patients, explain_patient_table
from foveate.data.issues import NO_TRAINING_IMAGES, SIMILAR_NAMES
from foveate.data.records import has_paths, is_table, spelled_columns
from foveate.data.split_names import is_part_name, split_from_name, split_in_name
from foveate.data.survey import (
    MANY_LABELS,
    Survey,
    find_mask_folder,
    masks_by_image,
    survey_folder,
)
from foveate.data.unread_labels import unread_labels
from foveate.errors import DataError
from foveate.messages import Message, counted
from foveate.predictions import Labels
from foveate.types import Issue, IssueKind, Location, Sample, Split, Table
from foveate.utils.paths import printable

# files that describe data in another format
_DESCRIPTIONS = (
    *("data.yaml", "data.yml", "dataset.yaml", "dataset.yml"),
    *("boxes.csv", "_annotations.coco.json"),
)
_DESCRIPTION_EXTENSIONS = (".yaml", ".yml", ".json")
_MANY_MASKS = 0.2  # share of images with a mask beside them
_MANY_CLASSES = 10  # with fewer, a class may well have one image
_MIN_IMAGES_PER_CLASS = 1.5
_MAX_SPLITS = 4  # folders that may be splits in a language that is not known
_MAX_COLUMNS = 200  # characters of the columns of a table in a message
_ORDER: tuple[Split | None, ...] = (None, "train", "val", "test")

_MATCHED = IssueKind(
    "class_name_matched",
    "classes of a split that are spelled differently in an earlier split, taken as the same",
    "warning",
    "classes",
)
_EMPTY = IssueKind("empty_folder", "folders without images, skipped", "warning", "classes")
_EXTRA = IssueKind("extra_folder", "folders beside the split folders, skipped")
_LOOSE = IssueKind("loose_images", "images outside of class folders, skipped", "warning")
_MASKS = IssueKind(
    "masks_beside_images", "masks beside images by their names, not read as images", "warning"
)
_OTHER = IssueKind("other_files", "files in class folders that are not images, skipped")


class Folder(Format):
    """One folder per class."""

    summary: ClassVar[str] = "a folder per class"
    target: ClassVar[type | None] = Labels
    writes: ClassVar[tuple[type, ...]] = (Labels,)

    def sniff(self, path: Path) -> Reading | None:
        """A folder with class folders, or split folders with class folders."""
        if is_bids(path):
            return None
        try:
            parents = _class_parents(path) if path.is_dir() else []
            classes = [folder for parent in parents for folder in parent.classes]
            single = len(classes) == 1
            if _is_described(path, single):
                return None
            if not any(_may_be_class(folder, single) for folder in classes):
                return None
            doubts = tuple(_doubts(path, parents))
            # folders with masks of their images have classes as well; what else speaks against
            # them (labels of objects, names of parts) says that they are none
            settled = doubts == tuple(_doubts_about_masks(survey_folder(path)))
            return Reading(Fit.LIKELY, doubts, settled)
        except DataError:
            return None

    def read(self, path: Path) -> Table:
        """Read the images below `path`.

        Raises:
            DataError: There are none, or the class folders are one level deeper.
        """
        if not path.is_dir():
            hint = "give the folder that contains the class folders"
            raise DataError(
                "this is not a folder", where=printable(path), hint=hint, id="not_a_folder"
            )
        parents = _class_parents(path)
        notes = _skipped_notes(path, parents)
        names = _ClassNames()
        samples = [sample for parent in parents for sample in _read(path, parent, names, notes)]
        samples = _with_names(samples, path, notes)
        targets = {sample.target for sample in samples if isinstance(sample.target, Labels)}
        classes = tuple(sorted({name for target in targets for name in target.names}))
        _require_classes(path, classes)
        return Table(
            samples=tuple(sorted(samples, key=lambda sample: sample.key)),
            classes=classes,
            format="folder",
            root=path,
            notes=(*notes, *names.notes),
        )

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write a folder for each class, in a folder for each split if the data state splits.

        Raises:
            UsageError: An image has several classes or none, or the names of the classes cannot be
                those of folders.
        """
        return write_class_folders(table, folder)


@dataclass(frozen=True)
class _ClassParent:
    """A folder whose children are class folders.

    Attributes:
        folder: The folder.
        split: The split that it stands for.
        classes: Its children with images.
        empty: Its children without images.
        loose: Number of images beside the class folders.
    """

    folder: Path
    split: Split | None
    classes: list[Path]
    empty: list[Path]
    loose: int


def _class_parents(root: Path) -> list[_ClassParent]:
    """The root itself, or its split folders in the order train, val, test.

    Names of splits count if every child with images has one, or if there are two different ones:
    a single 'train' among 'bus' and 'car' is a vehicle. Names that only speak of a split, such as
    'training_set', count if these folders have the same classes.
    """
    children = [child for child in list_subfolders(root) if holds_images(child)]
    splits = _split_folders(children)
    if not splits:
        return [_class_parent(root, None)]
    parents = [_class_parent(_unwrap(child), split) for child, split in splits.items()]
    return sorted(parents, key=lambda parent: _ORDER.index(parent.split))


def _split_folders(folders: list[Path]) -> dict[Path, Split]:
    """The folders that stand for a split; empty if that is not what they are."""
    named = {folder: split for folder in folders if (split := split_from_name(folder.name))}
    if named and len(named) == len(folders):
        return named
    speaking = {folder: split for folder in folders if (split := split_in_name(folder.name))}
    stated = named if len(set(named.values())) > 1 else {}
    if len(speaking) > max(len(stated), 1) and _have_same_classes(speaking):
        return speaking
    return stated


def _have_same_classes(folders: Iterable[Path]) -> bool:
    """Whether the folders contain class folders, and each shares at least half with the largest."""
    names = [{child.name for child in _class_parent(_unwrap(f), None).classes} for f in folders]
    largest = max(names, key=len)
    return len(largest) > 1 and all(2 * len(own & largest) >= len(own) > 0 for own in names)


def _unwrap(folder: Path) -> Path:
    """The only folder in `folder`, if it speaks of the same split: seg_train/seg_train."""
    children = list_folder(folder)
    split = split_in_name(folder.name)
    if len(children) == 1 and children[0].is_dir() and split_in_name(children[0].name) == split:
        return children[0]
    return folder


def _class_parent(folder: Path, split: Split | None) -> _ClassParent:
    children = list_folder(folder)
    folders = [child for child in children if child.is_dir()]
    classes = [child for child in folders if holds_images(child)]
    return _ClassParent(
        folder=folder,
        split=split,
        classes=classes,
        empty=[child for child in folders if child not in set(classes)],
        loose=_count_images(children),
    )


def _count_images(paths: list[Path]) -> int:
    return sum(is_image(path) and path.is_file() for path in paths)


def _is_described(root: Path, single: bool) -> bool:
    """Whether a file gives the folders another meaning.

    `single`: there is only one folder of images; then any YAML or JSON file does.
    """
    return any(
        file.name.lower() in _DESCRIPTIONS
        or (single and (file.suffix.lower() in _DESCRIPTION_EXTENSIONS or _lists_images(file)))
        for file in list_folder(root)
        if file.is_file()
    )


def _lists_images(file: Path) -> bool:
    return is_table(file) and has_paths(file)


def _may_be_class(folder: Path, single: bool) -> bool:
    """Whether a folder with images may be a class.

    By its name: train2017 holds COCO's training images. If it is the only one, also by its
    content: a folder with nothing but JPEGImages is the root of data in another format.
    """
    name = folder.name.casefold()
    if _has_role(name) or (name[-4:].isdecimal() and split_from_name(name[:-4])):
        return False
    if not single:
        return True
    inner = _class_parent(folder, None)
    return inner.loose > 0 or any(not _has_role(child.name) for child in inner.classes)


def _doubts(root: Path, parents: list[_ClassParent]) -> Iterator[str]:
    """What speaks against classes: label files, masks, and names or numbers of the folders."""
    survey = survey_folder(root)
    images = counted(survey.images, "image", "images")
    for extension, beside in survey.labels.items():
        if survey.share(beside) >= MANY_LABELS:
            yield (
                f"{beside.count} of {images} have a {extension} file of the same name beside them"
                f" ({beside.file}), as labels of objects do"
            )
    yield from _doubts_about_masks(survey)
    for parent in parents:
        pair = find_mask_folder(parent.classes)
        if pair:
            yield f"{printable(pair[1].name)!r} holds masks of the images in {pair[0].name!r}"
    yield from unread_labels(root)
    yield from _doubts_about_names(parents, survey.images)
    yield from _doubts_about_cases(root, parents)
    yield from _doubts_about_splits(parents)
    yield from _doubts_about_tables(root, parents)


def _doubts_about_masks(survey: Survey) -> Iterator[str]:
    if survey.share(survey.masks) >= _MANY_MASKS:
        images = counted(survey.images, "image", "images")
        yield f"{survey.masks.count} of {images} have a mask beside them ({survey.masks.file})"


def _doubts_about_names(parents: list[_ClassParent], images: int) -> Iterator[str]:
    names = sorted({printable(folder.name) for parent in parents for folder in parent.classes})
    parts = [name for name in names if split_in_name(name) or is_part_name(name)]
    if len(parts) > 1 and 2 * len(parts) > len(names):
        yield f"the folders are named like parts of a dataset: {', '.join(parts[:3])}"
    elif len(parts) == len(names) == 1:
        yield f"the only folder is named like a part of a dataset: {parts[0]}"
    if len(names) >= _MANY_CLASSES and not images:  # those without an extension are not counted
        yield f"there are {len(names)} folders of files without an extension, as of patients"
    elif len(names) >= _MANY_CLASSES and images < _MIN_IMAGES_PER_CLASS * len(names):
        yield f"there are {len(names)} folders for {images} images, hardly more than one each"


def _doubts_about_cases(root: Path, parents: list[_ClassParent]) -> Iterator[str]:
    """Folders for patients, such as patient00001, whose labels are elsewhere."""
    names = sorted({folder.name for parent in parents for folder in parent.classes})
    if not are_cases(names):
        if len(names) == 1 or are_patients(names, root):
            yield from explain_patient_table(root)
        return
    tables = [file.name for file in list_folder(root) if is_table(file) and has_paths(file)]
    hint = f"; {printable(tables[0])} may hold their labels: give it as the data" if tables else ""
    yield f"the folders are named like patients or cases: {', '.join(names[:3])}{hint}"
    yield from explain_patient_table(root)


def _doubts_about_splits(parents: list[_ClassParent]) -> Iterator[str]:
    """Folders that all have the same folders in them, as splits have the same classes."""
    folders = parents[0].classes if len(parents) == 1 and parents[0].split is None else []
    if not 1 < len(folders) <= _MAX_SPLITS:
        return
    shared, *others = ({child.name for child in list_subfolders(each)} for each in folders)
    if len(shared) > 1 and all(shared == each for each in others):
        names = " and ".join(printable(folder.name) for folder in folders)
        examples = ", ".join(sorted(map(printable, shared))[:3])
        yield (
            f"{names} hold folders of the same names ({examples}), as splits do: call them train,"
            " val and test if they are splits"
        )


def _doubts_about_tables(root: Path, parents: list[_ClassParent]) -> Iterator[str]:
    """Tables beside a single folder: they may have the labels, though they name no image."""
    names = {folder.name for parent in parents for folder in parent.classes}
    tables = [file for file in list_folder(root) if is_table(file)] if len(names) == 1 else []
    if tables:
        columns = ", ".join(map(printable, spelled_columns(tables[0])))[:_MAX_COLUMNS]
        yield (
            f"{printable(min(names))!r} is the only folder, and {printable(tables[0].name)} beside"
            f" it may hold the labels, but none of its columns ({columns}) leads to images"
        )


def _has_role(name: str) -> bool:
    """Whether folders of this name hold images or masks in other formats, and are not classes."""
    parsed = parse_folder_name(name)
    return parsed is not None and parsed[1] is not None


def _read(
    root: Path, parent: _ClassParent, class_names: _ClassNames, notes: list[Issue]
) -> Iterator[Sample]:
    """Yield the samples of one split; add notes on files that are not images."""
    targets = class_names.of_split(parent)
    for folder in parent.classes:
        target = Labels((targets[folder],))  # one object for maybe a million images
        others, masks, name = 0, 0, printable(folder.relative_to(root))
        for inner, names in walk_folders(folder):
            of_images = {mask for own in masks_by_image(names).values() for mask in own}
            masks += len(of_images)
            prefix = inner.relative_to(root).as_posix()  # per file it would take most of the time
            for each in (each for each in names if each not in of_images):
                file = inner / each
                if extension_of(each) in EXTENSIONS or is_image(file):
                    key = printable(f"{prefix}/{each}")
                    yield Sample(path=file, key=key, target=target, split=parent.split)
                else:
                    others += 1
        if others:
            text = "{count:file|files} in {folder} skipped: not an image file"
            notes.append(_note(_OTHER, text, name, count=others, folder=name))
        if masks:
            text = "{count:file|files} in {folder} skipped: by their names masks of other images"
            notes.append(_note(_MASKS, text, name, count=masks, folder=name))


def _with_names(samples: list[Sample], root: Path, notes: list[Issue]) -> list[Sample]:
    """The samples with the names of numbered folders, where a file beside these has them."""
    targets = {each.target for each in samples if isinstance(each.target, Labels)}
    names = name_numbers((name for each in targets for name in each.names), [root], notes)
    if not names:
        return samples
    named = {each: Labels(tuple(renamed(name, names) for name in each.names)) for each in targets}
    return [
        replace(sample, target=named[sample.target])
        if isinstance(sample.target, Labels)
        else sample
        for sample in samples
    ]


def _note(kind: IssueKind, text: str, name: str, count: int = 1, **values: Any) -> Issue:
    """An issue at one location, with a sentence of its own."""
    message = Message(f"issues.{kind.id}.note", text, count=count, **values)
    return Issue(kind, message, count, (Location(name, str(message)),))


class _ClassNames:
    """One spelling for each class: that of the first split (train, if there is one) that has it."""

    def __init__(self) -> None:
        self.notes: list[Issue] = []
        self._earlier: set[str] = set()  # names of the earlier splits
        self._by_folded: dict[str, str] = {}

    def of_split(self, parent: _ClassParent) -> dict[Path, str]:
        """Return the class of each class folder of the next split."""
        own = {folder: printable(folder.name) for folder in parent.classes}
        new: set[str] = set()
        classes = {
            folder: self._resolve(name, parent.split, own.values(), new)
            for folder, name in own.items()
        }
        self._earlier |= new
        return classes

    def _resolve(
        self, name: str, split: Split | None, siblings: Collection[str], new: set[str]
    ) -> str:
        """Return the class of a folder; classes of the same split are never matched."""
        if name in self._earlier or name in new:
            return name
        known = self._by_folded.get(fold_class_name(name))
        if known is not None and known not in siblings:
            text = "the class {class_name} in {split} is taken as {known}"
            self._add(_MATCHED, text, name, split=split, known=repr(known))
            return known
        if known is not None:
            text = (
                "{known} and {class_name} differ only in case or spaces and are kept as two classes"
            )
            self._add(SIMILAR_NAMES, text, name, known=repr(known))
        elif self._earlier:
            text = (
                "the class {class_name} is in {split} but in no earlier split: it cannot be learned"
            )
            self._add(NO_TRAINING_IMAGES, text, name, split=split)
        new.add(name)
        self._by_folded.setdefault(fold_class_name(name), name)
        return name

    def _add(self, kind: IssueKind, text: str, name: str, **values: Any) -> None:
        self.notes.append(_note(kind, text, name, class_name=repr(name), **values))


def _skipped_notes(root: Path, parents: list[_ClassParent]) -> list[Issue]:
    """Notes on what is skipped beside the class folders."""
    notes = []
    if parents[0].split is not None:
        used = {parent.folder for parent in parents}
        used |= {folder.parent for folder in used}  # a split folder may be wrapped in another
        children = list_folder(root)
        for child in children:
            if child.is_dir() and child not in used:
                name = printable(child.name)
                text = "the folder {folder} beside the split folders is skipped"
                notes.append(_note(_EXTRA, text, name, folder=repr(name)))
        notes += _loose_note(_count_images(children), root)
    for parent in parents:
        for folder in parent.empty:
            if not os.access(folder, os.R_OK | os.X_OK):  # reported by whoever tried to list it
                continue
            name = printable(folder.relative_to(root))
            text = "the folder {folder} is skipped: it contains no images"
            notes.append(_note(_EMPTY, text, name, folder=repr(name)))
        notes += _loose_note(parent.loose, parent.folder)
    return notes


def _loose_note(count: int, folder: Path) -> list[Issue]:
    if not count:
        return []
    name = printable(folder.name)
    text = "{count:image|images} in {folder} skipped: not in a class folder"
    return [_note(_LOOSE, text, name, count=count, folder=repr(name))]


def _require_classes(root: Path, classes: tuple[str, ...]) -> None:
    """Refuse data without classes, and data whose classes are one level deeper."""
    if not classes:
        raise DataError(
            "there are no labeled images in this folder",
            where=printable(root),
            why="its images are not in class folders"
            if holds_images(root)
            else "it contains no image files",
            hint="put the images of each class into a folder with its name",
            id="no_labeled_images",
        )
    children = list_folder(root) if len(classes) == 1 else []
    deeper = [
        child
        for child in children
        if child.is_dir() and len(_class_parent(child, None).classes) > 1
    ]
    if deeper:
        raise DataError(
            f"only one class has images: {classes[0]!r}",
            where=printable(root),
            hint=f"did you mean {printable(deeper[0])!r}?",
            id="only_one_class",
        )
