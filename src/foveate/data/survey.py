"""How a folder is meant, by its files: label files and masks beside images, masks in a folder of
their own.

What is found here speaks against reading the folders as classes, and for other formats.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np

from foveate.data.discovery import EXTENSIONS, any_ends_in, extension_of, remember, walk_folders
from foveate.errors import BrokenImage
from foveate.images.codec import read_image, read_index_mask

LABEL_EXTENSIONS = (".txt", ".xml", ".json")
MASK_SUFFIX = re.compile(
    r"[ _.-](?:(?:cp_)?masks?|seg|segmentation|gt|ground[ _-]?truth|label(?:s|led|ed)?|annotation"
    r"|annot|lesion|manual|1stho|l)(?:[ _-]?\d{1,3})?$",
    re.IGNORECASE,
)
_HAS_MASK_SUFFIX = re.compile(
    MASK_SUFFIX.pattern.removesuffix("$") + r"\.", re.IGNORECASE
)  # in any of several names, before the extension
IMAGE_SUFFIX = re.compile(
    r"[ _.-](?:sat|img|image|rgb|leftimg8bit|training|test)$", re.IGNORECASE
)  # of images whose masks have another one: 1_sat.jpg and 1_mask.png
MANY_LABELS = 0.5  # share of images with a label file beside them from which these are labels
_MAX_COMPARED = 8  # folders that may be masks of each other
_SAMPLE = 6  # pairs of images that are opened
_COMMON = 0.8  # share of names that an image folder and its mask folder have in common
_MAX_MASK_VALUES = 32  # different values in a mask
_MIN_IMAGE_VALUES = 64  # different values in a photograph; drawings may have fewer


@dataclass
class Beside:
    """How many images have a certain file beside them, and the first such pair."""

    count: int = 0
    image: str = ""
    file: str = ""

    def add(self, image: Path, file: Path, root: Path) -> None:
        """Count an image and the file beside it."""
        self.count += 1
        if self.count == 1:
            self.image, self.file = (path.relative_to(root).as_posix() for path in (image, file))


@dataclass
class Survey:
    """What lies beside the images of a folder.

    Attributes:
        images: Number of images that are no masks of others.
        labels: By extension, the images with a file of the same name and this extension.
        masks: The images with a mask of nearly the same name: a.jpg and a_mask.png.
    """

    images: int = 0
    labels: dict[str, Beside] = field(
        default_factory=lambda: {extension: Beside() for extension in LABEL_EXTENSIONS}
    )
    masks: Beside = field(default_factory=Beside)

    def share(self, beside: Beside) -> float:
        """Share of the images that have such a file, in [0, 1]."""
        return beside.count / max(self.images, 1)


def survey_folder(root: Path) -> Survey:
    """Survey the images below a folder; no file is opened.

    Raises:
        DataError: A folder cannot be listed.
    """
    return remember(("survey", root), lambda: _survey(root))


def _survey(root: Path) -> Survey:
    survey = Survey()
    for folder, names in walk_folders(root):
        _survey_names(folder, names, root, survey)
    return survey


def _survey_names(folder: Path, names: Sequence[str], root: Path, survey: Survey) -> None:
    stems = list(_image_stems(names))
    masks = masks_by_image(names)
    survey.images += len(stems) - sum(map(len, masks.values()))
    for image, own in masks.items():
        survey.masks.add(folder / image, folder / own[0], root)
    if not any_ends_in(names, LABEL_EXTENSIONS):
        return
    images = dict(stems)
    for name in names:
        stem, dot, extension = name.rpartition(".")
        beside = survey.labels.get(dot + extension.lower())
        if beside is not None and stem in images:
            beside.add(folder / images[stem], folder / name, root)


def masks_by_image(
    names: Iterable[str], others: Collection[str] = frozenset()
) -> dict[str, list[str]]:
    """Return which files of a folder are masks of its images by their names.

    Args:
        names: The names of its files.
        others: Extensions of masks other than those of images.

    Returns:
        The name of an image -> names of its masks: {'a.jpg': ['a_mask.png', 'a_mask_1.png']}.
    """
    names = list(names)
    if not may_have_mask_suffix(names):
        return {}
    by_stem = dict(_image_stems(names))
    by_base = {IMAGE_SUFFIX.sub("", stem): name for stem, name in by_stem.items()} | by_stem
    masks: dict[str, list[str]] = {}
    for stem, name in (*by_stem.items(), *_stems_of(names, others)):
        base = MASK_SUFFIX.sub("", stem)
        if base != stem and by_base.get(base, name) != name:
            masks.setdefault(by_base[base], []).append(name)
    return masks


def may_have_mask_suffix(names: Iterable[str]) -> bool:
    """Whether any of the names of files may have a suffix of masks."""
    return bool(_HAS_MASK_SUFFIX.search("\n".join(names)))  # at once: folders can be large


def _image_stems(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the images among file names, after their names without extension."""
    return _stems_of(names, EXTENSIONS)


def _stems_of(names: Iterable[str], extensions: Collection[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        extension = extension_of(name)
        if extension in extensions:
            yield name[: len(name) - len(extension)], name


def find_mask_folder(folders: Sequence[Path]) -> tuple[Path, Path] | None:
    """Return a folder of images and one of their masks among folders that may be classes.

    Their files have the same names and sizes, and those of one hold few different values, while
    those of the other look like photographs. A few pairs are opened.
    """
    if not 2 <= len(folders) <= _MAX_COMPARED:
        return None
    stems = {folder: remember(("stems", folder), partial(_stems, folder)) for folder in folders}
    for images, masks in permutations(folders, 2):
        common = sorted(stems[images].keys() & stems[masks].keys())
        most = max(len(stems[images]), len(stems[masks]))
        if len(common) >= max(2, _COMMON * most):
            step = max(1, len(common) // _SAMPLE)
            pairs = [(stems[images][stem], stems[masks][stem]) for stem in common[::step]]
            if all(_is_mask_of(masks / mask, images / image) for image, mask in pairs[:_SAMPLE]):
                return images, masks
    return None


def _stems(folder: Path) -> dict[str, str]:
    """The images below a folder, by their paths without extension and mask suffix."""
    stems = dict[str, str]()
    for inner, names in walk_folders(folder):
        prefix = "" if inner == folder else f"{inner.relative_to(folder).as_posix()}/"
        for stem, name in _image_stems(names):
            stems[prefix + MASK_SUFFIX.sub("", stem)] = prefix + name
    return stems


def _is_mask_of(mask: Path, image: Path) -> bool:
    try:
        pixels = read_image(image)[0]
        values = _mask_values(mask)
    except BrokenImage:
        return False
    return (
        values.shape == pixels.shape[:2]
        and len(np.unique(values)) <= _MAX_MASK_VALUES
        and len(np.unique(pixels)) >= _MIN_IMAGE_VALUES
    )


def _mask_values(mask: Path) -> np.ndarray:
    try:
        return read_index_mask(mask)
    except BrokenImage:  # in color
        red, green, blue = np.moveaxis(read_image(mask)[0].astype(np.int64), -1, 0)
        return np.asarray(red << 16 | green << 8 | blue)
