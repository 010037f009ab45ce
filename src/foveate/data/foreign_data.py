"""Data of other tools that no format reads: what they are, and the way to have them read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foveate.data.discovery import extension_of, list_subfolders, walk_folders
from foveate.errors import DataError
from foveate.images.readers import ARCHIVE_EXTENSIONS, VIDEO_EXTENSIONS
from foveate.utils.paths import printable

_HEAD = 65_536  # bytes by which a file is recognized
_MAX_FILES = 200  # that are opened
_COMPRESSED_TAR = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_MODALITIES = frozenset({"anat", "func", "dwi", "fmap", "perf", "pet", "eeg", "meg"})  # of BIDS
_FOLDERS = "save each image as PNG into a folder with the name of its class"
_IMAGE_FILES = f"{_FOLDERS}, or write a table with the columns path and label"


@dataclass(frozen=True)
class Foreign:
    """Data of another tool.

    Attributes:
        file: The file that shows it, as messages name it.
        what: What it is, with an article: "an export of Kili".
        way: What to do to have it read.
    """

    file: str
    what: str
    way: str

    def error(self, where: Path) -> DataError:
        """Return the error that refuses it."""
        return DataError(
            f"this is {self.what}, which Foveate does not read",
            where=printable(where),
            why=f"recognized by {self.file}",
            hint=self.way,
            id="foreign_data",
        )


@dataclass(frozen=True)
class _Signature:
    """How the data of a tool are recognized: by the names of files, and how one is written."""

    what: str
    names: re.Pattern[str]
    words: tuple[bytes, ...]
    way: str
    beginning: re.Pattern[bytes] = re.compile(rb"")


def _named(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_JSON = _named(r"\.(json|jsonl|ndjson)$")
_SIGNATURES = (
    _Signature(
        "an export of Kili",
        _JSON,
        (b'"jsonResponse"',),
        "export from Kili as COCO, YOLO or Pascal VOC",
    ),
    _Signature(
        "a file of Prodigy",
        _JSON,
        (b'"_input_hash"', b'"answer"'),
        "write a table with the columns path and label from the rows whose answer is accept; for"
        " boxes with path, label, x0, y0, x1 and y1 from their spans",
    ),
    _Signature(
        "a data set of FiftyOne",
        _JSON,
        (b'"_cls"', b'"sample'),
        "export from FiftyOne with dataset_type=fiftyone.types.COCODetectionDataset, or"
        " ImageClassificationDirectoryTree for classes",
    ),
    _Signature(
        "an export of Azure Machine Learning",
        _JSON,
        (b'"image_url"', b'"label"'),
        "export from Azure Machine Learning as COCO",
    ),
    _Signature(
        "a project of Azure Custom Vision",
        _JSON,
        (b'"tagName"', b'"regions"'),
        "write a table with the columns path, label, x0, y0, x1 and y1: its regions are left, top,"
        " width and height as fractions of the image",
    ),
    _Signature(
        "a CSV of Make Sense",
        _named(r"\.csv$"),
        (),
        "export from Make Sense as YOLO, Pascal VOC or COCO",
        re.compile(rb"[^,\n]+(?:,\d+){4},[^,\n]+\.\w+,\d+,\d+\s*(?:\n|$)"),
    ),
    _Signature(
        "a CSV of Label Studio",
        _named(r"\.csv$"),
        (b"annotation_id", b"annotator", b"lead_time"),
        "export from Label Studio as JSON or JSON-MIN",
        re.compile(rb"[^\n]*\blead_time\b"),
    ),
    _Signature(
        "a TFRecord",
        _named(r"\.tfrec(ord)?s?(-\d+-of-\d+)?$"),
        (),
        "download the data set as COCO or YOLO where it comes from a platform such as Roboflow;"
        f" otherwise {_IMAGE_FILES}",
    ),
    _Signature(
        "a data set that Hugging Face saved to disk",
        _named(r"\.arrow$"),
        (),
        'write it as Parquet: datasets.load_from_disk(FOLDER).to_parquet("data.parquet")',
    ),
    _Signature(
        "a set of images in arrays",
        _named(r"\.(h5|hdf5|mat|pkl|pickle|mdb|rec)$|idx\d-ubyte(\.gz)?$|^data_batch_\d$"),
        (),
        _IMAGE_FILES,
    ),
)


def find_foreign(path: Path) -> Foreign | None:
    """Return what tool the data at a path are of, if it is one that no format reads.

    Args:
        path: A file, or a folder.
    """
    if path.is_dir() and is_bids(path):
        return Foreign(
            printable(list_subfolders(path)[0].name),
            "a data set in BIDS",
            "write a table with the columns path, label and group, and a row for each image, such"
            " as sub-01/anat/sub-01_T1w.nii.gz,patient,sub-01: the classes are mostly in"
            " participants.tsv",
        )
    for file in _files(path):
        if found := foreign_file(file):
            return found
    return None


def foreign_file(file: Path) -> Foreign | None:
    """Return what tool a file is of, if it is one that no format reads."""
    signatures = [each for each in _SIGNATURES if each.names.search(file.name)]
    head = _head(file) if signatures else b""
    for each in signatures:
        if all(word in head for word in each.words) and each.beginning.match(head):
            return Foreign(printable(file.name), each.what, each.way)
    return None


def is_bids(folder: Path) -> bool:
    """Whether a folder is a data set in BIDS: sub-01/anat or sub-01/ses-1/anat."""
    try:
        subjects = [each for each in list_subfolders(folder) if each.name.startswith("sub-")]
        inner = [each for subject in subjects[:3] for each in list_subfolders(subject)]
        sessions = [each for each in inner[:3] if each.name.startswith("ses-")]
        inner += [each for session in sessions for each in list_subfolders(session)]
    except DataError:
        return False
    return any(each.name in _MODALITIES for each in inner)


def way_with_packed(folder: Path) -> str | None:
    """Return what to do with a folder that has archives or videos; None if it has neither.

    Raises:
        DataError: A folder in it cannot be listed.
    """
    if archive := _first(folder, ARCHIVE_EXTENSIONS):
        return way_with_archive(archive)
    if _first(folder, VIDEO_EXTENSIONS):
        return (
            "take images out of the videos, one a second for instance: ffmpeg -i VIDEO -vf fps=1"
            " FOLDER/%05d.jpg"
        )
    return None


def way_with_archive(archive: Path) -> str:
    """Return how to have an archive read that is not read as it is."""
    name, folder = shlex.quote(printable(archive)), shlex.quote(printable(archive.parent / "data"))
    lower = archive.name.lower()
    if lower.endswith(".zip"):
        return f"unpack it, and give the new folder: unzip {name} -d {folder}"
    if lower.endswith((".tar", *_COMPRESSED_TAR)):
        return f"unpack it, and give the new folder: mkdir {folder}; tar -xf {name} -C {folder}"
    return f"unpack {name}, and give the new folder"


def _first(root: Path, extensions: tuple[str, ...]) -> Path | None:
    """The first file below a folder with one of some extensions."""
    found = (
        folder / name
        for folder, names in walk_folders(root)
        for name in names
        if extension_of(name) in extensions
    )
    return next(found, None)


def _files(path: Path) -> Iterator[Path]:
    """The file, or the first few of each folder."""
    if path.is_file():
        yield path
        return
    count = 0
    for folder, names in walk_folders(path):
        matching = (name for name in names if any(s.names.search(name) for s in _SIGNATURES))
        for _, name in zip(range(3), matching, strict=False):
            count += 1
            if count > _MAX_FILES:
                return
            yield folder / name


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_HEAD)
    except OSError:
        return b""
