"""Images, and masks of the same names, that give the class of every pixel.

    images/1.jpg      masks/1.png          side by side; also image, imgs, jpegimages and mask,
                                           labels, annotations, gt, ...
    train/1.jpg       trainannot/1.png     with the split before or after the word,
    train/image/1.jpg train/label/1.png    above it
    images/train/1.jpg masks/train/1.png   or below it
    images/1.jpg      masks/cat/1.png      a folder of binary masks per class; later classes win
    train/1.jpg       train/1_mask.png     in one folder, by a suffix; 1_mask_1.png adds to it

A mask is a grayscale or palette image (PNG): value 3 is class 3, and 255 is ignored as in Pascal
VOC. A class list in the root names the values, or the colors of masks in color (`_class_lists`):
classes.txt, labelmap.txt, class_dict.csv, ... For data in a read-only folder, a config states all
of it (`_mask_config`): `foveate fit camvid.yaml`. A mask may be called 1_mask.png.
ImageSets/Segmentation/train.txt gives splits, as in Pascal VOC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from foveate.data.discovery import find_images, is_image, list_folder, walk_folders
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._class_lists import ClassList, find_class_list
from foveate.data.formats._folder_names import Role, parse_folder_name
from foveate.data.formats._mask_config import ImageFile, MaskConfig, is_config, read_config
from foveate.data.formats._mask_values import (
    BACKGROUND,
    MaskEncoding,
    infer_encoding,
    read_layers,
    read_union,
)
from foveate.data.issues import counted_issue, skip_and_record
from foveate.data.split_names import is_part_name, split_in_folders
from foveate.data.survey import MASK_SUFFIX, masks_by_image
from foveate.errors import BrokenImage, DataError, did_you_mean
from foveate.images.codec import read_size
from foveate.predictions import Regions
from foveate.types import Issue, IssueKind, Location, Sample, Split, Table, remark
from foveate.utils.paths import printable

_CAMERA = re.compile(r"_leftimg8bit$", re.IGNORECASE)  # of images, Cityscapes
_OTHER_SUFFIX = re.compile(r"_(?:gt(?:fine|coarse)_label(?:train)?ids|l)$", re.IGNORECASE)
_MAX_DEPTH = 3  # of folders below the root whose names count: data/train/images
_SPLITS: tuple[Split, ...] = ("train", "val", "test")

_NO_MASK = IssueKind("image_without_mask", "images without a mask, dropped", "warning")
_NO_IMAGE = IssueKind("mask_without_image", "masks without an image, skipped", "warning")
_SECOND_MASK = IssueKind(
    "second_mask", "images with several masks of several classes; the first is read", "warning"
)
_UNION = IssueKind("union_of_masks", "images with several masks, which are read as one")


class Masks(Format):
    """Images and masks in folders."""

    summary: ClassVar[str] = "images and masks with the same names"
    target: ClassVar[type | None] = Regions

    def sniff(self, path: Path) -> Reading | None:
        """A config, or a folder in which some image has a mask."""
        try:
            if is_config(path):
                return Reading(Fit.STATED)
            config = _scan(path) if path.is_dir() else MaskConfig(path, [], [])
            if not _pair(config).pairs:
                return None
        except DataError:
            return None
        folders = {mask.parts[0] for mask in config.masks if len(mask.parts) > 1}
        words = sorted(name for name in folders if _may_be_class(name))
        if not _is_beside(config) or len(words) < 2 or len(words) < len(folders):
            return Reading(Fit.STATED)
        doubt = f"the folders may be classes: {', '.join(map(printable, words[:3]))}"
        return Reading(Fit.LIKELY, (doubt,))

    def read(self, path: Path) -> Table:
        """Read the pairs below a folder, or of a config: headers, and a sample of the masks.

        Raises:
            DataError: No image has a mask, a mask has another size than its image, or the values
                of the masks are not classes.
        """
        config = read_config(path) if path.is_file() else _scan(path)
        pairing = _pair(config)
        if not pairing.pairs:
            raise DataError(
                "no image has a mask",
                where=printable(path),
                why=f"no image has the name of a mask (images: {len(config.images)}, masks: "
                f"{len(config.masks)})",
                hint="name them alike: images/1.jpg and masks/1.png",
                id="no_image_has_mask",
            )
        notes = [*pairing.notes, *_require_equal_sizes(pairing.pairs)]
        folders = dict.fromkeys(
            [config.root, *(pair.masks[0].path.parent for pair in pairing.pairs)]
        )
        class_list = config.class_list or next(filter(None, map(find_class_list, folders)), None)
        if pairing.is_per_class:
            classes, targets = _layered_targets(pairing.pairs, class_list)
        else:
            masks = [mask.path for pair in pairing.pairs for mask in pair.masks]
            encoding, assumptions = infer_encoding(masks, class_list)
            classes, targets = encoding.classes, _single_targets(pairing.pairs, encoding, notes)
            notes += assumptions
        splits = _read_splits(config.root)
        samples = [
            Sample(
                pair.image.path,
                _key(pair.image.path, config.root),
                target,
                pair.image.split or splits.get(pair.image.parts[-1]),
            )
            for pair, target in zip(pairing.pairs, targets, strict=True)
        ]
        ordered = tuple(sorted(samples, key=lambda sample: sample.key))
        return Table(ordered, classes, "masks", config.root, notes=tuple(notes))


def _is_beside(config: MaskConfig) -> bool:
    """Whether the masks are in the folders of their images."""
    return {mask.path.parent for mask in config.masks} <= {
        each.path.parent for each in config.images
    }


def _may_be_class(folder: str) -> bool:
    """Whether a folder may be a class, rather than a split, a part, or a case with a number."""
    known = parse_folder_name(folder) or is_part_name(folder)
    return not known and not any(letter.isdecimal() for letter in folder)


def _key(path: Path, root: Path) -> str:
    return printable(path.relative_to(root) if path.is_relative_to(root) else path)


# --- folders -> images and masks


def _scan(root: Path) -> MaskConfig:
    """The config that the names of the folders imply; a folder without masks is not searched."""
    if not root.is_dir():
        raise DataError(
            "this is neither a folder nor a dataset config",
            where=printable(root),
            hint="give the folder that contains the images and masks",
            id="not_a_mask_dataset",
        )
    folders = list(_named_folders(root, None, None, _MAX_DEPTH))
    if not any(role == "mask" for _, _, role in folders):
        return _scan_beside(root)
    by_role: dict[Role | None, list[ImageFile]] = {"image": [], "mask": [], None: []}
    for folder, split, role in folders:
        inner = {other for other, _, _ in folders if folder in other.parents}
        by_role[role] += _files_of(folder, split, role is None, inner)
    # images beside the folders count only if no folder is said to hold the images of their split
    splits = {image.split for image in by_role["image"]}
    others = [
        image for image in by_role[None] if image.split is not None and image.split not in splits
    ]
    images = by_role["image"] + others
    return MaskConfig(root, images or by_role[None], by_role["mask"])


def _scan_beside(root: Path) -> MaskConfig:
    """The config of images that have their masks in the same folder: a.jpg and a_mask.png."""
    images, masks = list[ImageFile](), list[ImageFile]()
    for folder, names in walk_folders(root):
        by_image = masks_by_image(names)
        of_images = {mask for own in by_image.values() for mask in own}
        relative = folder.relative_to(root).parts
        split = split_in_folders(relative)
        for name in names if by_image else ():
            file = folder / name
            if is_image(file):
                entry = ImageFile(file, split, (*relative, file.stem))
                (masks if name in of_images else images).append(entry)
    return MaskConfig(root, images, masks)


def _named_folders(
    folder: Path, split: Split | None, role: Role | None, depth: int
) -> Iterator[tuple[Path, Split | None, Role | None]]:
    """Yield folders with the split and the role that their names, and those above them, state."""
    yield folder, split, role
    for child in list_folder(folder) if depth else []:
        parsed = parse_folder_name(child.name) if child.is_dir() else None
        if parsed is None:
            continue
        own_split, own_role = parsed
        if not (own_split and split) and not (own_role and role):  # a class may be called 'label'
            yield from _named_folders(child, own_split or split, own_role or role, depth - 1)


def _files_of(
    folder: Path, split: Split | None, flat: bool, inner: set[Path]
) -> Iterator[ImageFile]:
    """Yield the images of a folder, without those of the `inner` folders, which have a role."""
    if flat:
        files = iter([file for file in list_folder(folder) if is_image(file) and file.is_file()])
    else:
        files = find_images(folder)
    for file in files:
        if not inner.intersection(file.parents):
            yield ImageFile(file, split, file.relative_to(folder).with_suffix("").parts)


def _read_splits(root: Path) -> dict[str, Split]:
    """Stem -> split, from Pascal VOC's lists for segmentation."""
    splits: dict[str, Split] = {}
    for split in _SPLITS:
        file = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            splits |= dict.fromkeys(text.split(), split)
    return splits


# --- images and masks -> pairs


@dataclass(frozen=True)
class _Pair:
    """An image and its mask, or one mask for each of its classes."""

    image: ImageFile
    masks: tuple[ImageFile, ...]


@dataclass
class _Pairing:
    pairs: list[_Pair]
    is_per_class: bool
    notes: list[Issue] = field(default_factory=list)


def _pair(config: MaskConfig) -> _Pairing:
    """Pair images with a mask each, or with masks per class, whichever gives more pairs.

    Notes tell what remains.
    """
    single = _match(config, [(mask, mask.parts) for mask in config.masks])
    in_folders = [(mask, mask.parts[1:]) for mask in config.masks if len(mask.parts) > 1]
    per_class = _match(config, in_folders) if in_folders else []
    is_per_class = len(per_class) > len(single)
    chosen = per_class if is_per_class else single
    paired = {pair.image for pair in chosen}
    matched = {mask for pair in chosen for mask in pair.masks}
    notes = []
    for kind, files in (
        (_NO_MASK, [image for image in config.images if image not in paired]),
        (_NO_IMAGE, [mask for mask in config.masks if mask not in matched]),
    ):
        if files:
            locations = [Location(_key(file.path, config.root)) for file in files]
            notes.append(counted_issue(kind, locations))
    return _Pairing(chosen, is_per_class, notes)


def _match(config: MaskConfig, masks: Sequence[tuple[ImageFile, tuple[str, ...]]]) -> list[_Pair]:
    """Match images with masks of the same split and name.

    A mask without a split serves all splits. `masks`: each with the name that counts.
    """
    by_name: dict[tuple[Split | None, tuple[str, ...]], list[ImageFile]] = {}
    for mask, parts in masks:
        for name in dict.fromkeys((parts, _without_suffix(parts))):
            by_name.setdefault((mask.split, name), []).append(mask)
    pairs = []
    for image in config.images:
        parts = (*image.parts[:-1], _CAMERA.sub("", image.parts[-1]))
        own = by_name.get((image.split, parts)) or by_name.get((None, parts))
        if own:
            pairs.append(_Pair(image, tuple(own)))
    return pairs


def _without_suffix(parts: tuple[str, ...]) -> tuple[str, ...]:
    """'1_mask' -> '1'."""
    name = parts[-1]
    suffix = _OTHER_SUFFIX.search(name) or MASK_SUFFIX.search(name)
    return (*parts[:-1], name[: suffix.start()]) if suffix else parts


def _require_equal_sizes(pairs: list[_Pair]) -> list[Issue]:
    """Refuse the first mask of another size than its image; note pairs that cannot be opened."""
    broken = 0
    for pair in pairs:
        try:
            image_size = read_size(pair.image.path)
            mask_sizes = [read_size(mask.path) for mask in pair.masks]
        except BrokenImage:  # skipped, and named, when it is read
            broken += 1
            continue
        for mask, mask_size in zip(pair.masks, mask_sizes, strict=True):
            with skip_and_record():
                _require_equal_size(pair.image.path, image_size, mask.path, mask_size)
    text = "{count:image or its mask|images or their masks} cannot be opened"
    return [remark("unreadable_pairs", text, count=broken)] if broken else []


def _require_equal_size(
    image: Path, image_size: tuple[int, int], mask: Path, mask_size: tuple[int, int]
) -> None:
    if mask_size != image_size:
        raise DataError(
            "the mask does not have the size of its image",
            where=printable(mask),
            why=f"the mask has {mask_size[1]} x {mask_size[0]} px, the image"
            f" {printable(image.name)!r} has {image_size[1]} x {image_size[0]} px",
            hint="export masks at the size of the images, or resize them by nearest neighbor",
            id="mask_size_differs",
        )


def _single_targets(
    pairs: list[_Pair], encoding: MaskEncoding, notes: list[Issue]
) -> list[Regions]:
    """Targets of one mask per image; of several binary ones the union. Add a note on these."""
    several = [Location(printable(pair.image.path.name)) for pair in pairs if len(pair.masks) > 1]
    is_binary = len(encoding.classes) == 2 and encoding.classes[0] == BACKGROUND
    if several:
        notes.append(counted_issue(_UNION if is_binary else _SECOND_MASK, several))
    return [
        Regions(
            partial(
                read_union,
                tuple(mask.path for mask in (pair.masks if is_binary else pair.masks[:1])),
                encoding,
            )
        )
        for pair in pairs
    ]


def _layered_targets(
    pairs: list[_Pair], class_list: ClassList | None
) -> tuple[tuple[str, ...], list[Regions]]:
    """The classes, background first, and targets that are made of one mask per class."""
    folders = sorted({mask.parts[0] for pair in pairs for mask in pair.masks})
    if class_list:
        names = [class_list.names[value] for value in class_list.kept]
    else:
        names = [printable(folder) for folder in folders]
    classes = [BACKGROUND, *(name for name in names if name != BACKGROUND)]
    for name in map(printable, folders):
        if class_list and name not in classes:
            hint = did_you_mean(name, classes) or "add it; the classes are: " + ", ".join(classes)
            raise DataError(
                f"the folder {name!r} is not in the class list",
                where=class_list.source,
                hint=hint,
                id="mask_folder_not_listed",
            )
    targets = []
    for pair in pairs:
        layers = sorted((classes.index(printable(mask.parts[0])), mask.path) for mask in pair.masks)
        targets.append(Regions(partial(read_layers, tuple(layers))))
    return tuple(classes), targets
