"""Labels that class folders would leave out: label files elsewhere, annotation files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from foveate.data.discovery import EXTENSIONS, any_ends_in, extension_of, walk_folders
from foveate.data.foreign_data import foreign_file
from foveate.data.survey import LABEL_EXTENSIONS, MANY_LABELS
from foveate.messages import counted
from foveate.utils.paths import printable

_ANNOTATIONS = (".json", ".jsonl", ".ndjson", ".xml", ".manifest")
_KINDS = (*LABEL_EXTENSIONS, *_ANNOTATIONS)
_OBJECTS = re.compile(
    rb"bbox|bounding|annotation|objects|segmentation|polygon|rectangle|points|\"labels?\"", re.I
)
_HEAD = 2**20  # bytes of an annotation file that are searched for names of images
_SAMPLE = 20  # names that are looked for


def unread_labels(root: Path) -> Iterator[str]:
    """Yield what speaks against class folders, each as a clause.

    Label files with the names of the images in other folders than theirs (KITTI, Supervisely), and
    annotation files beside the folders that name the images.
    """
    labels, images, folders = dict[str, str](), list[str](), dict[str, set[str]]()
    top: list[str] = []
    listed = list(walk_folders(root))
    if not any(any_ends_in(names, _KINDS) for _, names in listed):
        return
    for folder, names in listed:
        top = names if folder == root else top
        inside = folder.relative_to(root).as_posix()
        for name in names:
            extension = extension_of(name)
            if extension in LABEL_EXTENSIONS:
                stem = name[: -len(extension)]
                inner = extension_of(stem)
                stem = stem[: -len(inner)] if inner in EXTENSIONS else stem
                labels.setdefault(stem, f"{inside}/{name}")
                folders.setdefault(stem, set()).add(inside)
            elif extension in EXTENSIONS:
                images.append(f"{inside}/{name}")
    yield from _labels_elsewhere(labels, folders, images)
    yield from _annotations_of(root, top, images)


def _labels_elsewhere(
    labels: dict[str, str], folders: dict[str, set[str]], images: list[str]
) -> Iterator[str]:
    if not labels:
        return
    found = []
    for image in images:
        folder, _, name = image.rpartition("/")
        stem = name[: len(name) - len(extension_of(name))]
        if stem in labels and folder not in folders[stem]:
            found.append(labels[stem])
    if found and len(found) >= MANY_LABELS * len(images):
        total = counted(len(images), "image", "images")
        example = printable(found[0])
        yield f"{len(found)} of {total} have a label file of their name elsewhere ({example})"


def _annotations_of(root: Path, names: list[str], images: list[str]) -> Iterator[str]:
    wanted = images[:: max(1, len(images) // _SAMPLE)][:_SAMPLE]
    short = [image.rpartition("/")[2].encode("utf-8", "surrogateescape") for image in wanted]
    for name in names:
        if extension_of(name) not in _ANNOTATIONS:
            continue
        try:
            with (root / name).open("rb") as file:
                content = file.read(_HEAD)
        except OSError:
            continue
        named = sum(each in content for each in short)
        if named and _OBJECTS.search(content) and 2 * named >= len(short):
            foreign = foreign_file(root / name)
            tool = f" ({foreign.what}; {foreign.way})" if foreign else ""
            yield f"{printable(name)}{tool} holds annotations of these images, and is not read"
