"""Archives read in place: a .zip or .tar with a folder per class, or WebDataset shards.

Nothing is unpacked, so that no name of a member can lead anywhere. Folders that are named like
splits are splits. In WebDataset shards, members with the same name up to the first dot belong
together: 17.jpg with 17.cls (a class), 17.json (with a label or a caption) or 17.txt (a caption).
A folder of such archives is read as one dataset.
"""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import ClassVar

from foveate.data.discovery import EXTENSIONS, extension_of, list_folder
from foveate.data.foreign_data import way_with_archive
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._folder_names import parse_folder_name
from foveate.data.formats.captions import parse_sentences
from foveate.data.issues import IssueLog, skip_and_record
from foveate.data.records import ALIASES, TEXTS, cell_text
from foveate.data.split_names import is_part_name, split_in_name
from foveate.data.stored_images import walk_members
from foveate.errors import DataError
from foveate.predictions import Labels, Text
from foveate.types import IssueKind, Sample, Split, StoredImage, Table
from foveate.utils.paths import printable

_ARCHIVES = (".zip", ".tar")
_COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_ANNOTATIONS = (".cls", ".json", ".txt")
_OTHER_LABELS = (".xml", ".csv", ".yaml", ".yml", ".jsonl", ".parquet", ".names")
_MAX_ANNOTATION = 1 << 20  # bytes
_OBJECTS = (b'"annotations"', b'"bbox"', b'"segmentation"', b'"shapes"')  # in a JSON with objects
_MAX_SNIFFED = 200  # members of a .tar

_UNLABELED = IssueKind(
    "unlabeled_members", "images in archives without a label, left out", "warning"
)


@dataclass
class _Member:
    """An image in an archive, and the annotations beside it.

    Attributes:
        name: Its path in the archive.
        image: The image.
        annotations: Content by extension.
    """

    name: PurePosixPath
    image: StoredImage
    annotations: dict[str, bytes] = field(default_factory=dict)


class Archive(Format):
    """An archive, or a folder of WebDataset shards."""

    summary: ClassVar[str] = "an archive with a folder per class, or WebDataset shards"

    def sniff(self, path: Path) -> Reading | None:
        """A .zip or .tar with images, or a folder with nothing but such files."""
        try:
            archives = _archives_at(path)
            images = [name for name in _first_names(archives[0]) if _is_image_name(name)]
        except (DataError, OSError, IndexError, tarfile.TarError, zipfile.BadZipFile):
            return None
        if not images:
            return None
        return Reading(Fit.STATED if path.is_file() else Fit.LIKELY, tuple(_doubts(images)))

    def read(self, path: Path) -> Table:
        """Read the names of the members, and their annotations; images are not decoded.

        Raises:
            DataError: An archive cannot be read, or has no labeled images.
        """
        archives = _archives_at(path)
        if not archives:
            raise _not_an_archive(path)
        log, samples = IssueLog(), list[Sample]()
        for archive in archives:
            split = split_in_name(archive.stem) if len(archives) > 1 else None
            prefix = f"{archive.name}/" if len(archives) > 1 else ""
            for sample in _read_archive(archive, split, log):
                samples.append(_with_prefix(sample, prefix))
        if not samples:
            raise DataError(
                "the archive has no images with labels",
                where=printable(path),
                hint="it needs a folder for each class, or .cls, .json or .txt beside the images;"
                " unpack it if it has other annotations",
                id="archive_without_labels",
            )
        names = {
            name
            for sample in samples
            if isinstance(sample.target, Labels)
            for name in sample.target.names
        }
        samples.sort(key=lambda sample: sample.key)
        root = path if path.is_dir() else path.parent
        notes = tuple(log.issues())
        return Table(tuple(samples), tuple(sorted(names)), "archive", root, notes=notes)


def _archives_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() in _ARCHIVES else []
    children = list_folder(path)
    archives = [each for each in children if each.suffix.lower() in _ARCHIVES and each.is_file()]
    others = {extension_of(child.name) for child in children if child not in archives}
    return archives if not others - {".json", ".txt", ".md", ".idx"} else []


def _not_an_archive(path: Path) -> DataError:
    is_compressed = path.name.lower().endswith(_COMPRESSED)
    return DataError(
        "a compressed .tar cannot be read in place"
        if is_compressed
        else "this is neither a .zip nor a .tar, nor a folder of such files",
        where=printable(path),
        why="only a .zip or a plain .tar can be" if is_compressed else None,
        hint=way_with_archive(path) if is_compressed else "give an archive, or a folder of them",
        id="not_an_archive",
    )


def _with_prefix(sample: Sample, prefix: str) -> Sample:
    return Sample(sample.path, prefix + sample.key, sample.target, sample.split, sample.group)


def _first_names(archive: Path) -> list[str]:
    """The names of the first members; of a .zip, which has a table of contents, those of all."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as file:
            return file.namelist()
    with tarfile.open(archive, "r:") as members:
        return [member.name for member in islice(members, _MAX_SNIFFED)]


def _is_image_name(name: str) -> bool:
    return extension_of(name) in EXTENSIONS and not _is_clutter(PurePosixPath(name))


def _doubts(images: list[str]) -> Iterator[str]:
    """What speaks against folders of these images as classes."""
    folders = {part for name in images for part in PurePosixPath(name).parts[:-1]}
    roles = {name: parsed[1] for name in folders if (parsed := parse_folder_name(name))}
    if {"image", "mask"} <= set(roles.values()):
        names = " and ".join(sorted(name for name, role in roles.items() if role))
        yield f"it has folders called {names}, as data with masks or boxes do"
    parts = sorted(filter(is_part_name, folders))
    if parts:
        yield f"its folder {parts[0]} is named like a part of a dataset"


def _read_archive(archive: Path, split: Split | None, log: IssueLog) -> Iterator[Sample]:
    members = _read_members(archive)
    folders = [member.name.parts[:-1] for member in members]
    shared = _shared_depth(folders)
    without_classes = all(
        len(own) == shared + 1 and split_in_name(own[shared]) for own in folders
    )  # train/1.jpg and test/2.jpg
    has_annotations = any(member.annotations for member in members)  # then folders are no classes
    for member in members:
        own = member.name.parts[shared:-1]
        stated = split_in_name(own[0]) if own else None
        has_splits = stated is not None and len(own) > 1
        target = None
        with skip_and_record():
            target = _target_of(member, archive)
        names = own[1:] if has_splits else own
        if target is None and names and not (has_annotations or without_classes):
            target = Labels((names[0],))
        if target is None:
            log.add(_UNLABELED, printable(str(member.name)))
            continue
        key = printable("/".join((*own, member.name.name)))
        yield Sample(member.image, key, target, stated if has_splits else split)


def _shared_depth(folders: list[tuple[str, ...]]) -> int:
    """How many folders all of them begin with; the class folders are never shared."""
    if not folders:
        return 0
    depth, first = 0, folders[0]
    while all(len(each) > depth + 1 and each[depth] == first[depth] for each in folders):
        depth += 1
    return depth


def _target_of(member: _Member, archive: Path) -> Labels | Text | None:
    """What the annotations beside an image say.

    Raises:
        DataError: They cannot be read.
    """
    where = f"{printable(archive)}: {printable(str(member.name))}"
    if ".cls" in member.annotations:
        label = member.annotations[".cls"].decode("utf-8", "replace").strip()
        return Labels((label,)) if label else None
    if ".json" in member.annotations:
        return _target_of_json(member.annotations[".json"], where)
    if ".txt" in member.annotations:
        text = member.annotations[".txt"].decode("utf-8", "replace")
        return Text(parse_sentences(text, where))
    return None


def _target_of_json(content: bytes, where: str) -> Labels | Text | None:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "the annotation of a member is not valid JSON",
            where=where,
            why=str(error),
            id="member_invalid_json",
        ) from None
    if not isinstance(values, dict):
        return None
    by_folded = {str(name).casefold(): value for name, value in values.items()}
    for name in ALIASES["label"]:
        if isinstance(by_folded.get(name), str | int) and cell_text(by_folded[name]):
            return Labels((cell_text(by_folded[name]),))
    for name in TEXTS:
        if by_folded.get(name):
            return Text(parse_sentences(by_folded[name], where))
    return None


# --- members


def _read_members(archive: Path) -> list[_Member]:
    """The images of an archive with their annotations.

    Raises:
        DataError: It cannot be read, or has annotations of objects.
    """
    images, annotations = list[_Member](), list[tuple[PurePosixPath, StoredImage]]()
    for text, stored, size in walk_members(archive):
        name = PurePosixPath(text)
        if _is_clutter(name):
            continue
        extension = extension_of(name.name)
        _refuse_other_labels(name, extension, archive)
        if extension in EXTENSIONS:
            images.append(_Member(name, stored))
        elif extension in _ANNOTATIONS and size <= _MAX_ANNOTATION:
            annotations.append((name, stored))
    by_stem = {_stem(member.name): member for member in images}
    for name, annotation in annotations:
        member, content = by_stem.get(_stem(name)), annotation.content()
        assert isinstance(content, bytes)  # a member of an archive is no file
        if member is not None:
            member.annotations[extension_of(name.name)] = content
        elif extension_of(name.name) == ".json" and any(word in content for word in _OBJECTS):
            raise _has_annotations(name, archive)
    return images


def _stem(name: PurePosixPath) -> str:
    """The path up to the first dot of its last part, by which WebDataset groups members."""
    return str(name.with_name(name.name.partition(".")[0] or name.name))


def _is_clutter(name: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def _refuse_other_labels(name: PurePosixPath, extension: str, archive: Path) -> None:
    if extension in _OTHER_LABELS:
        raise _has_annotations(name, archive)


def _has_annotations(name: PurePosixPath, archive: Path) -> DataError:
    return DataError(
        "the archive has annotations that are not read in place",
        where=printable(archive),
        why=f"it contains {printable(str(name))}",
        hint="unpack it, and give the folder",
        id="archive_with_annotations",
    )
