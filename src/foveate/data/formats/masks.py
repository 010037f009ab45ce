"""Images, and masks of the same names, that give the class of every pixel.

    images/1.jpg      masks/1.png          side by side; also image, imgs, jpegimages and mask,
                                           labels, annotations, gt, ...
    train/1.jpg       trainannot/1.png     with the split before or after the word,
    train/image/1.jpg train/label/1.png    above it
    images/train/1.jpg masks/train/1.png   or below it
    images/1.jpg      masks/cat/1.png      a folder of binary masks per class; later classes win
    train/1.jpg       train/1_mask.png     in one folder, by a suffix; 1_mask_1.png adds to it
    a/1.jpg           b/1_mask.png         in folders of any name, by a suffix
    7/images/7.png    7/masks/x.png, y.png a folder per image, and a mask per object

A mask is a grayscale or palette image (PNG): value 3 is class 3, and 255 is ignored as in Pascal
VOC. It may be an array as well (.npy, .npz), with a layer per class, or a TIFF with a page per
class. A class list in the root names the values, or the colors of masks in color (`_class_lists`):
classes.txt, labelmap.txt, class_dict.csv, ... For data in a read-only folder, a config states all
of it (`_mask_config`): `foveate fit camvid.yaml`. A mask may be called 1_mask.png.
Lists such as ImageSets/Segmentation/train.txt give splits, as in Pascal VOC.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._class_lists import ClassList, find_class_list
from foveate.data.formats._folder_names import parse_folder_name
from foveate.data.formats._good_images import find_good_images, with_good_images
from foveate.data.formats._instance_ids import Numbering
from foveate.data.formats._mask_config import MaskConfig, is_config
from foveate.data.formats._mask_export import write_masks
from foveate.data.formats._mask_files import is_lossy, mask_size, read_values
from foveate.data.formats._mask_inference import infer_encoding, numbering_of
from foveate.data.formats._mask_pairs import Pair, Pairing, find_pairs, key_of, read_splits
from foveate.data.formats._mask_values import BACKGROUND, MaskEncoding, read_layers, read_union
from foveate.data.formats._volume_masks import slices_of
from foveate.data.issues import IssueLog, counted_issue, skip_and_record
from foveate.data.split_names import is_part_name
from foveate.errors import BrokenImage, DataError, did_you_mean
from foveate.images.codec import read_size
from foveate.images.nifti import is_volume
from foveate.predictions import Regions
from foveate.types import Issue, IssueKind, Location, Sample, Table, remark
from foveate.utils.paths import printable

_SAMPLE = 8  # masks of folders per class that are looked at
_BINARY = ({0, 1}, {0, 255})
_SECOND_MASK = IssueKind(
    "second_mask", "images with several masks of several classes; the first is read", "warning"
)
_UNION = IssueKind("union_of_masks", "images with several masks, which are read as one")


class Masks(Format):
    """Images and masks in folders."""

    summary: ClassVar[str] = "images and masks with the same names"
    target: ClassVar[type | None] = Regions
    writes: ClassVar[tuple[type, ...]] = (Regions,)

    def sniff(self, path: Path) -> Reading | None:
        """A config, or a folder in which some image has a mask."""
        try:
            if is_config(path):
                return Reading(Fit.STATED)
            if not path.is_dir():
                return None
            pairing = find_pairs(path)
            if pairing.layout == "per_object":
                return Reading(Fit.POSSIBLE)
        except DataError:
            return None
        numbering = numbering_in(pairing)
        if numbering and numbering.certainty == "certain":
            return Reading(Fit.POSSIBLE)
        doubts = [f"the values may number objects, up to {numbering.most}"] if numbering else []
        is_settled = not doubts  # by the task: masks beside images may well be in class folders
        doubts += _doubts_about_folders(pairing.config)
        return Reading(Fit.LIKELY if doubts else Fit.STATED, tuple(doubts), is_settled)

    def read(self, path: Path) -> Table:
        """Read the pairs below a folder, or of a config: headers, and a sample of the masks.

        Raises:
            DataError: No image has a mask, a mask has another size than its image, or the values
                of the masks are not classes.
        """
        pairing = find_pairs(path)
        notes = _require_equal_sizes(pairing.pairs)
        class_list = class_list_of(pairing)
        if pairing.layout == "per_class" and _are_layers(pairing):
            classes, targets = _layered_targets(pairing.pairs, class_list)
            samples = _samples(pairing, targets)
        else:
            encoding, assumptions = infer_encoding(pairing.masks, class_list)
            classes, targets = encoding.classes, _single_targets(pairing.pairs, encoding, notes)
            notes += assumptions
            samples = _with_slices(_samples(pairing, targets), pairing, encoding, notes)
        good = find_good_images(pairing) if classes[0] == BACKGROUND else []
        samples = with_good_images(samples, good, pairing.config.root, notes)
        notes = [*pairing.notes(good), *notes]
        ordered = tuple(sorted(samples, key=lambda sample: sample.key))
        return Table(ordered, classes, "masks", pairing.config.root, notes=tuple(notes))

    def write(self, table: Table, folder: Path) -> tuple[Issue, ...]:
        """Write images/, masks/ and classes.json, with a folder for each split in the first two.

        Raises:
            UsageError: A class has a name that would be read as that of ignored pixels.
        """
        return write_masks(table, folder)


def _samples(pairing: Pairing, targets: list[Regions]) -> list[Sample]:
    splits, root = read_splits(pairing), pairing.config.root
    return [
        Sample(
            pair.image.path,
            key_of(pair.image.path, root),
            target,
            splits.get(pair.image.path.stem) or pair.image.split,
        )
        for pair, target in zip(pairing.pairs, targets, strict=True)
    ]


def _with_slices(
    samples: list[Sample], pairing: Pairing, encoding: MaskEncoding, notes: list[Issue]
) -> list[Sample]:
    """The samples, volumes as their slices."""
    log, result = IssueLog(), list[Sample]()
    for sample, pair in zip(samples, pairing.pairs, strict=True):
        if is_volume(sample.file):
            result += slices_of(sample, pair.masks[0].path, encoding, log)
        else:
            result.append(sample)
    notes += log.issues()
    return result


def class_list_of(pairing: Pairing) -> ClassList | None:
    """Return the class list of a config, or the one nearest to the root or the masks.

    Raises:
        DataError: It cannot be read.
    """
    stated = pairing.config.class_list
    return stated or next(filter(None, map(find_class_list, pairing.folders)), None)


def numbering_in(pairing: Pairing) -> Numbering | None:
    """Return the evidence that masks number objects; none where a class list has a fault."""
    if pairing.layout != "single":
        return None
    try:
        return numbering_of(pairing.masks, class_list_of(pairing))
    except DataError:
        return None


def _doubts_about_folders(config: MaskConfig) -> list[str]:
    """Why the folders may be classes, where the masks are in the folders of their images."""
    folders = {mask.parts[0] for mask in config.masks if len(mask.parts) > 1}
    words = sorted(name for name in folders if _may_be_class(name))
    is_beside = {mask.path.parent for mask in config.masks} <= {
        each.path.parent for each in config.images
    }
    if not is_beside or len(words) < 2 or len(words) < len(folders):
        return []
    return [f"the folders may be classes: {', '.join(map(printable, words[:3]))}"]


def _may_be_class(folder: str) -> bool:
    """Whether a folder may be a class, rather than a split, a part, or a case with a number."""
    known = parse_folder_name(folder) or is_part_name(folder)
    return not known and not any(letter.isdecimal() for letter in folder)


def _require_equal_sizes(pairs: list[Pair]) -> list[Issue]:
    """Refuse the first mask of another size than its image; note pairs that cannot be opened."""
    broken = 0
    for pair in pairs:
        if is_volume(pair.image.path):  # its slices are compared when they are counted
            continue
        try:
            image_size = read_size(pair.image.path)
            mask_sizes = [mask_size(mask.path) for mask in pair.masks]
        except BrokenImage:  # skipped, and named, when it is read
            broken += 1
            continue
        for mask, own_size in zip(pair.masks, mask_sizes, strict=True):
            with skip_and_record():
                require_equal_size(pair.image.path, image_size, mask.path, own_size)
    text = "{count:image or its mask|images or their masks} cannot be opened"
    return [remark("unreadable_pairs", text, count=broken)] if broken else []


def require_equal_size(
    image: Path, image_size: tuple[int, int], mask: Path, mask_size: tuple[int, int]
) -> None:
    """Raise DataError if a mask does not have the (H, W) of its image."""
    if mask_size != image_size:
        raise DataError(
            "the mask does not have the size of its image",
            where=printable(mask),
            why=f"the mask has {mask_size[1]} x {mask_size[0]} px, the image"
            f" {printable(image.name)!r} has {image_size[1]} x {image_size[0]} px",
            hint="export masks at the size of the images, or resize them by nearest neighbor",
            id="mask_size_differs",
        )


# --- targets


def _single_targets(pairs: list[Pair], encoding: MaskEncoding, notes: list[Issue]) -> list[Regions]:
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


def _are_layers(pairing: Pairing) -> bool:
    """Whether the folders of masks are classes: their masks are black and white.

    A single folder of other masks is just that, such as annotations/trimaps.

    Raises:
        DataError: There are several folders, and a mask is not black and white.
    """
    masks = pairing.masks
    for mask in masks[:: -(-len(masks) // _SAMPLE)]:
        try:
            values = read_values(mask)
        except BrokenImage:
            continue
        numbers = set() if values is None else set(np.unique(values).tolist())
        if values is not None and (is_lossy(mask) or len(numbers) <= 1 or numbers in _BINARY):
            continue
        folders = sorted({each.parts[0] for pair in pairing.pairs for each in pair.masks})
        if len(folders) == 1:
            return False
        names = ", ".join(map(printable, folders[:5]))
        raise DataError(
            "a mask in a folder for each class is not black and white",
            where=printable(mask),
            why=f"it holds {'colors' if values is None else f'{len(numbers)} values'}; the folders"
            f" are: {names}",
            hint="if the folders are forms of the same masks, name one of them in a dataset config:"
            " images: images, masks: masks/FOLDER",
            id="class_mask_not_binary",
        )
    return True


def _layered_targets(
    pairs: list[Pair], class_list: ClassList | None
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
