"""COCO captions: annotations/captions_train2017.json and the like, one file per split.

DATA is such a file, or a folder that contains some, in it or in annotations/. A folder that also
contains boxes of the same images is read as boxes, unless --format coco_captions is given. Images
are where those of COCO boxes are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from foveate.data.discovery import list_folder, list_subfolders
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._box_table import is_file
from foveate.data.formats._coco_files import (
    annotation_files,
    image_folders,
    read_lists,
    root_of,
    split_of_file,
)
from foveate.data.formats.captions import has_captions_by_name, parse_sentences
from foveate.data.issues import skip_and_record
from foveate.errors import DataError
from foveate.messages import Message
from foveate.predictions import Text
from foveate.types import Issue, IssueKind, Location, Sample, Table
from foveate.utils.paths import printable, relative_name

_STEM = "captions"
_MISSING = IssueKind(
    "missing_images_of_captions", "missing images, dropped with their captions", "error"
)


class CocoCaptions(Format):
    """COCO's annotations of captions."""

    summary: ClassVar[str] = "COCO captions in JSON"
    target: ClassVar[type | None] = Text

    def sniff(self, path: Path) -> Reading | None:
        """Caption files without files of boxes: COCO's own folder has both, and boxes are meant."""
        is_plain = path.is_file() and has_captions_by_name(path)
        only_captions = _caption_files(path) and not annotation_files(path) and not is_plain
        return Reading(Fit.STATED) if only_captions else None

    def read(self, path: Path) -> Table:
        """Read one file, or all files of a folder.

        Raises:
            DataError: A file is not COCO captions, an entry is faulty, or no image has a caption.
        """
        files = _caption_files(path) or [path]
        if path.is_dir() and files == [path]:
            raise DataError(
                "there are no COCO captions in this folder",
                where=printable(path),
                hint="give the .json file itself",
                id="coco_no_captions",
            )
        root = root_of(path)
        samples, notes = dict[str, Sample](), list[Issue]()
        for file in files:
            samples |= _read_file(file, root, notes)
        if not samples:
            why = "; ".join(map(str, notes)) or "there are no annotations"
            raise DataError(
                "no image has a caption", where=printable(path), why=why, id="no_captioned_image"
            )
        ordered = tuple(samples[key] for key in sorted(samples))
        return Table(ordered, (), "coco_captions", root, notes=tuple(notes))


def _caption_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if _is_captions(path) else []
    folders = [path]
    folders += [each for each in list_subfolders(path) if each.name.casefold() == "annotations"]
    return sorted(file for folder in folders for file in list_folder(folder) if _is_captions(file))


def _is_captions(file: Path) -> bool:
    is_json = file.suffix.lower() == ".json" and file.is_file()
    return is_json and file.stem.casefold().startswith(_STEM)


def _read_file(file: Path, root: Path, notes: list[Issue]) -> dict[str, Sample]:
    """The existing images of one file that have a caption, by key."""
    content = read_lists(file, ("images", "annotations"), "captions")
    sentences = _sentences_by_image(content["annotations"], file)
    folders = list(image_folders(file, root))
    samples, missing = dict[str, Sample](), list[Location]()
    for entry in content["images"]:
        id, name = entry.get("id"), str(entry.get("file_name", ""))
        own = sentences.get(id) if isinstance(id, int | str) else None
        paths = (folder / name for folder in folders if name)
        path = next((path for path in paths if is_file(path)), None)
        if path is None:
            missing.append(Location(name))
        elif own:
            key = relative_name(path, root)
            samples[key] = Sample(path, key, Text(tuple(dict.fromkeys(own))), split_of_file(file))
    if missing:
        message = Message(
            "issues.missing_images_of_captions.note",
            "{count} of {total:image|images} of {file} are missing and dropped",
            count=len(missing),
            total=len(content["images"]),
            file=repr(file.name),
        )
        notes.append(Issue(_MISSING, message, len(missing), tuple(missing)))
    return samples


def _sentences_by_image(annotations: list[dict[str, Any]], file: Path) -> dict[Any, list[str]]:
    sentences: dict[Any, list[str]] = {}
    for index, entry in enumerate(annotations):
        where = f"{printable(file)}, annotation {entry.get('id', index)}"
        with skip_and_record():
            id = entry.get("image_id")
            if not isinstance(id, int | str):
                why = f"got {id!r}"[:200]
                raise DataError(
                    "the annotation has no 'image_id'", where=where, why=why, id="coco_no_image_id"
                )
            sentences.setdefault(id, []).extend(parse_sentences(entry.get("caption"), where))
    return sentences
