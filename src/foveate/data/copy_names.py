"""What file names tell: copies that tools made of one image, and images that belong to a sequence.

Names are evidence, not proof: `photo (1).jpg` may be a copy or the first of many photos. So names
that could mean either count only where the pixels do not speak against them.

Letters: N images, P pairs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foveate.data.split_names import split_from_name

MAX_COPIES = 20  # of one image; more files of one name are rather different images

# image_jpg.rf.0123456789abcdef.jpg: Roboflow
_EXPORTED = re.compile(r"(?P<base>.+)\.rf\.[0-9A-Za-z]{6,}")
# class_original_image.jpg_01234567-89ab-...: Augmentor
_AUGMENTOR = re.compile(
    r"(?:.*_)?original_(?P<base>.+)_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
_EDITS = (
    "aug|augment|augmented|augmentation|flip|flipped|hflip|vflip|fliplr|flipud|flip[hvxy]|flip_[hvxy]"
    "|mirror|mirrored|rot|rotate|rotated|rotation|crop|cropped|shift|shifted|translate|translated"
    "|zoom|zoomed|scaled|rescaled|shear|sheared|blur|blurred|noise|noisy|bright|brightness|brighter"
    "|dark|darker|contrast|hue|saturation|jitter|gray|grayscale|cutout|transformed|resized"
)
_EDITED = re.compile(rf"(?P<base>.+?)[ _.-]+(?P<edit>{_EDITS})(?:[ _-]?-?\d{{1,4}}(?:deg)?)?", re.I)
_COPIED = re.compile(
    r"(?:copy of )?(?P<base>.+?)(?: ?\(\d{1,3}\)| - copy(?: ?\(\d+\))?|[ _-]copy(?:[ _]?\d+)?)?",
    re.I,
)
_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d{1,18})\)?")


class Family(NamedTuple):
    """Images that their names call copies of one image.

    Attributes:
        members: Their indices; the original, if it is there, comes first.
        certain: Whether nothing else is meant by such names.
    """

    members: tuple[int, ...]
    certain: bool


class _Name(NamedTuple):
    base: str
    edit: str  # what was done; empty for an original
    kind: str


def name_families(keys: Sequence[str]) -> list[Family]:
    """Find images that were copied, augmented or exported several times, by their names.

    Args:
        keys: Names of the images with their folders, as in Sample.
    """
    families: dict[tuple[str, str], dict[int, _Name]] = defaultdict(dict)
    for index, key in enumerate(keys):
        folder, stem = _folder(key), _stem(key)
        families[folder, stem.casefold()].setdefault(index, _Name(stem, "", "original"))
        name = _parse(stem)
        if name is not None:
            families[folder, name.base.casefold()][index] = name
    found = [family for names in families.values() if (family := _family(names)) is not None]
    return sorted(found)


def _family(names: dict[int, _Name]) -> Family | None:
    kinds = {name.kind for name in names.values()}
    if len(names) < 2 or kinds == {"original"}:
        return None
    has_original = "original" in kinds
    members = tuple(sorted(names, key=lambda index: (names[index].kind != "original", index)))
    few = len(names) <= MAX_COPIES
    if "exported" in kinds:
        return Family(members, few)
    several = len({name.edit for name in names.values() if name.kind == "edited"}) > 1
    if "edited" in kinds and (has_original or several):
        return Family(members, few)
    # numbers in brackets without an original are the numbers of photos
    return Family(members, False) if has_original and few else None


def _parse(stem: str) -> _Name | None:
    """The name of the image that a file is a copy of, by its name; None if it states none."""
    for pattern in (_EXPORTED, _AUGMENTOR):
        if found := pattern.fullmatch(stem):
            return _Name(found["base"], stem, "exported")
    base, edits = stem, []
    while found := _EDITED.fullmatch(base):
        base = found["base"]
        edits.append(found["edit"].casefold())
    if edits:
        return _Name(base, " ".join(edits), "edited")
    found = _COPIED.fullmatch(stem)
    if found and found["base"] != stem:
        return _Name(found["base"], stem, "copied")
    return None


# --- sequences


@dataclass(frozen=True)
class Numbered:
    """Images of a folder whose names differ in a number only, by that number.

    Attributes:
        folder: Their folder.
        name: What their names begin with.
        members: Their indices.
    """

    folder: str
    name: str
    members: np.ndarray


def numbered_names(keys: Sequence[str]) -> list[Numbered]:
    """Find images that are numbered: frame_0001.png, frame_0002.png, ...

    Of exported copies the original name counts.
    """
    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for index, key in enumerate(keys):
        stem = _stem(key)
        if exported := _EXPORTED.fullmatch(stem):
            stem = re.sub(r"_(?:jpe?g|png|bmp|tiff?|webp)$", "", exported["base"], flags=re.I)
        if numbered := _NUMBERED.fullmatch(stem):
            found[_folder(key), numbered["prefix"]].append((int(numbered["number"]), index))
    return [
        Numbered(folder, prefix, np.array([index for _, index in sorted(members)]))
        for (folder, prefix), members in sorted(found.items())
    ]


def _folder(key: str) -> str:
    """The folders of an image without those that name a split."""
    parts = key.split("/")[:-1]
    return "/".join(part for part in parts if split_from_name(part) is None)


def _stem(key: str) -> str:
    name = key.rpartition("/")[2]
    return name.rpartition(".")[0] or name
