"""YOLO datasets without a data.yaml: a list of class names, and labels as text files.

classes.txt  images/1.jpg  labels/1.txt        Label Studio, labelImg
obj.names  obj.data  train.txt  obj_train_data/1.jpg  obj_train_data/1.txt     CVAT, Darknet
batch_1/classes.txt  batch_1/1.jpg  batch_1/1.txt    in several folders
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from foveate.data.discovery import any_ends_in, is_image, list_folder, walk_folders
from foveate.data.split_names import split_in_folders, split_in_name
from foveate.errors import DataError
from foveate.types import Split
from foveate.utils.paths import printable

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
_MAX_LABEL_BYTES = 65_536  # that are read to recognize a label
_SAMPLE = 5  # labels that are opened to recognize the format


@dataclass(frozen=True)
class PlainYolo:
    """Such a dataset.

    Attributes:
        root: Its folder.
        name_file: The list of class names; None if there is none.
        pairs: Each image with its label file; None without one.
    """

    root: Path
    name_file: Path | None
    pairs: list[tuple[Path, Path | None]]

    def class_names(self) -> dict[int, str]:
        """Class index -> name. Raises DataError without a list of names."""
        if self.name_file is None:
            raise DataError(
                "the labels are YOLO's, but their classes have no names",
                where=printable(self.root),
                hint="write classes.txt: one name per line, in the order of the indices",
                id="yolo_plain_no_names",
            )
        lines = self.name_file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        return dict(enumerate(line.strip() for line in lines if line.strip()))

    def splits(self) -> dict[Path, Split]:
        """Image -> split, by lists such as train.txt, or else by the names of folders."""
        listed = dict(_listed_splits(self.root, [image for image, _ in self.pairs]))
        if listed:
            return listed
        stated = {
            image: split_in_folders(image.relative_to(self.root).parts[:-1])
            for image, _ in self.pairs
        }
        return {image: split for image, split in stated.items() if split}


def find_plain_yolo(root: Path) -> PlainYolo | None:
    """Return the dataset in a folder; None if no image has a label of YOLO.

    Raises:
        DataError: A folder cannot be listed, or there are different lists of class names.
    """
    listed = list(walk_folders(root))
    if not any(any_ends_in(names, (".txt",)) for _, names in listed):
        return None  # without paths of all images, which take ten times as long
    texts, images, name_files = dict[Path, Path](), list[Path](), list[Path]()
    for folder, names in listed:
        files = [folder / name for name in names]
        name_files += [file for file in files if file.name in NAME_FILES]
        images += [file for file in files if is_image(file)]
        texts |= {file.with_suffix(""): file for file in files if _may_be_label(file.name)}
    pairs = [(image, _label_of(image, texts)) for image in images]
    labels = [label for _, label in pairs if label is not None]
    if 2 * len(labels) < len(pairs) or not _are_yolo(labels):
        return None
    return PlainYolo(root, _one_of(name_files), pairs)


def _may_be_label(name: str) -> bool:
    return name.lower().endswith(".txt") and name not in NAME_FILES


def default_label_file(image: Path) -> Path:
    """Return the label file of an image: a/images/b/1.jpg -> a/labels/b/1.txt.

    The last folder `images` counts, as in Ultralytics.
    """
    parts = list(image.parts)
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _label_of(image: Path, texts: dict[Path, Path]) -> Path | None:
    """The label beside an image, or in the folder `labels` for its folder `images`."""
    stems = image.with_suffix(""), default_label_file(image).with_suffix("")
    return next((texts[stem] for stem in stems if stem in texts), None)


def _are_yolo(labels: list[Path]) -> bool:
    """Whether the first labels that are not empty hold a class index and at least four numbers."""
    checked = 0
    for label in labels:
        with label.open("rb") as file:
            line = file.read(_MAX_LABEL_BYTES).decode("utf-8", "replace").strip().partition("\n")[0]
        if line and not _is_label(line):
            return False
        checked += bool(line)
        if checked == _SAMPLE:
            break
    return checked > 0


def _is_label(line: str) -> bool:
    words = line.split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return False
    return len(numbers) >= 5 and words[0].isdecimal()


def _one_of(name_files: list[Path]) -> Path | None:
    """The list of class names: all that there are have to say the same."""
    contents = {
        tuple(file.read_text(encoding="utf-8-sig", errors="replace").split("\n")): file
        for file in reversed(name_files)
    }
    if len({tuple(line.strip() for line in each if line.strip()) for each in contents}) > 1:
        first, second, *_ = sorted(contents.values())
        raise DataError(
            "two lists of class names differ",
            where=printable(second),
            why=f"{printable(first)} has other names, or another order",
            hint="keep one, or read the folders one by one",
            id="yolo_plain_names_differ",
        )
    return min(name_files, default=None)


def _listed_splits(root: Path, images: list[Path]) -> Iterator[tuple[Path, Split]]:
    """The splits of images that lists in the root give: train.txt, Validation.txt."""
    by_name: dict[str, list[Path]] = {}
    for image in images:
        by_name.setdefault(image.name, []).append(image)
    for file in list_folder(root):
        split = split_in_name(file.stem) if file.suffix.lower() == ".txt" else None
        if split is None or file.name in NAME_FILES:
            continue
        for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            path = PurePosixPath(line.strip().replace("\\", "/"))
            same = by_name.get(path.name, [])
            parents = [image for image in same if image.parent.name == path.parent.name]
            for image in parents or same if len(same) == 1 else parents:
                yield image, split
