"""COCO captions: annotations/captions_train2017.json and the like, a file for each split, with their images where COCO's lie.

DATA is such a file, or a folder with one or more, in it or in annotations/; where boxes of the same images lie beside them, it is
read as boxes unless --format coco_captions is said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from foveate.data.discovery import listed
from foveate.data.formats import Format
from foveate.data.formats._boxed import is_there
from foveate.data.formats._coco_files import (
    annotation_files,
    image_folders,
    lists_of,
    root_of,
    split_of,
)
from foveate.data.formats.captions import sentences_of
from foveate.data.issues import Issue, IssueKind, Location, skip_and_record
from foveate.errors import DataError
from foveate.predictions import Text
from foveate.types import Sample, Table
from foveate.utils.paths import printable

_STEM = "captions"
_MISSING = IssueKind("images that are missing, dropped with their sentences", "error")


class CocoCaptions(Format):
    summary: ClassVar[str] = "COCO captions in JSON"

    def sniff(self, path: Path) -> bool:
        """COCO's own folder holds boxes of the same images too: those are meant unless the captions are named."""
        return bool(_files(path)) and not annotation_files(path)

    def read(self, path: Path) -> Table:
        """The table of one file, or of all files of a folder. Raises DataError with the file."""
        files = _files(path) or [path]
        if path.is_dir() and files == [path]:
            raise DataError(
                "there are no COCO captions here",
                where=printable(path),
                hint="give the .json file itself",
            )
        root = root_of(path)
        found, notes = dict[str, Sample](), list[str]()
        for file in files:
            found |= _samples(file, root, notes)
        if not found:
            why = "; ".join(notes) or "no annotations"
            raise DataError(
                "there is no image with a sentence here", where=printable(path), why=why
            )
        return Table(
            tuple(found[key] for key in sorted(found)),
            (),
            "coco_captions",
            root,
            notes=tuple(notes),
        )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if _is_captions(path) else []
    folders = [
        path,
        *(
            child
            for child in listed(path)
            if child.is_dir() and child.name.casefold() == "annotations"
        ),
    ]
    return sorted(file for folder in folders for file in listed(folder) if _is_captions(file))


def _is_captions(file: Path) -> bool:
    return (
        file.suffix.lower() == ".json" and file.is_file() and file.stem.casefold().startswith(_STEM)
    )


def _samples(file: Path, root: Path, notes: list[str]) -> dict[str, Sample]:
    """Key -> the images of one file that are there and have a sentence."""
    content = lists_of(file, ("images", "annotations"), "captions")
    sentences: dict[Any, list[str]] = {}
    for place, entry in enumerate(content["annotations"]):
        where = f"{printable(file)}, annotation {entry.get('id', place)}"
        with skip_and_record():
            image = entry.get("image_id")
            if not isinstance(image, int | str):
                raise DataError(
                    "an entry has no 'image_id'", where=where, why=f"got {image!r}"[:200]
                )
            sentences.setdefault(image, []).extend(sentences_of(entry.get("caption"), where))
    folders, found, missing = list(image_folders(file, root)), dict[str, Sample](), list[Location]()
    for entry in content["images"]:
        number = entry.get("id")
        own, name = (
            sentences.get(number) if isinstance(number, int | str) else None,
            str(entry.get("file_name", "")),
        )
        path = next((folder / name for folder in folders if name and is_there(folder / name)), None)
        missing += [Location(name)] if path is None else []
        if own and path is not None:
            key = printable(path.relative_to(root) if path.is_relative_to(root) else path)
            found[key] = Sample(path, key, Text(tuple(dict.fromkeys(own))), split_of(file))
    if missing:
        told = f"{len(missing)} of {len(content['images'])} images of {file.name} are missing and dropped"
        notes.append(Issue(told, _MISSING, len(missing), tuple(missing)))
    return found
