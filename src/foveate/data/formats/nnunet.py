"""nnU-Net: dataset.json with imagesTr and labelsTr.

    dataset.json              {"channel_names": {"0": "T2"}, "labels": {"background": 0, "PZ": 1},
                               "file_ending": ".png", ...}
    imagesTr/case1_0000.png   the image; _0001 and so on are its other channels, which become bands
    labelsTr/case1.png        the class of every pixel
    imagesTs, labelsTs        the same for testing

The axial slices of NIfTI volumes are images, and those of a volume form a group. Both versions of
dataset.json are understood. `ignore` is ignored. Of overlapping regions (whole tumor: [1, 2, 3])
the smallest one that holds a value gives its class. splits_final.json gives training and validation
images: the first of its folds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from foveate.data.channel_files import stack_channels
from foveate.data.discovery import extension_of, is_image, list_folder
from foveate.data.formats import Fit, Format, Reading
from foveate.data.formats._box_table import is_file
from foveate.data.formats._mask_pairs import key_of
from foveate.data.formats._mask_values import MaskEncoding, read_mask
from foveate.data.formats._volume_masks import slices_of
from foveate.data.formats.masks import require_equal_size
from foveate.data.issues import IssueLog, counted_issue, quoted, skip_and_record
from foveate.data.stored_images import ChannelStack
from foveate.errors import BrokenImage, DataError
from foveate.images import nifti
from foveate.images.codec import read_size
from foveate.predictions import IGNORE_INDEX, Regions
from foveate.types import Issue, IssueKind, Location, Sample, Split, Table, remark
from foveate.utils.paths import printable

_CHANNEL = re.compile(r"_(\d{4})$")
_FOLDERS: tuple[tuple[str, str, Split | None], ...] = (
    ("imagesTr", "labelsTr", None),
    ("imagesTs", "labelsTs", "test"),
)
_OTHER_VOLUMES = (".nrrd", ".mha", ".mhd", ".npz", ".b2nd")
_MAX_BYTES = 100_000_000

_NO_LABEL = IssueKind("nnunet_without_label", "images without a label file, dropped", "warning")


class NnUnet(Format):
    """nnU-Net's folders of raw data."""

    summary: ClassVar[str] = "nnU-Net's imagesTr and labelsTr"
    target: ClassVar[type | None] = Regions

    def sniff(self, path: Path) -> Reading | None:
        """A folder with dataset.json, imagesTr and labelsTr."""
        names = ("imagesTr", "labelsTr")
        try:
            fits = (path / "dataset.json").is_file() and all((path / n).is_dir() for n in names)
        except OSError:
            return None
        return Reading(Fit.STATED) if fits else None

    def read(self, path: Path) -> Table:
        """Read the images and labels; of both only headers.

        Raises:
            DataError: dataset.json is faulty, there are no images, or they are volumes.
        """
        content = _read_json(path / "dataset.json")
        where, notes = printable(path / "dataset.json"), list[Issue]()
        refuse_volumes(path, content.get("file_ending"))
        classes, indices = _parse_labels(content.get("labels"), where, notes)
        encoding = MaskEncoding(classes, indices, where)
        splits = _read_folds(path, notes)
        channels = _channels(path, notes, content)
        samples = list(_samples(path, encoding, splits, channels, notes))
        if not samples:
            raise DataError(
                "no image has a label file",
                where=printable(path),
                why="; ".join(map(str, notes)) or None,
                hint="images are called imagesTr/CASE_0000.png, their labels labelsTr/CASE.png",
                id="nnunet_no_images",
            )
        ordered = tuple(sorted(samples, key=lambda sample: sample.key))
        return Table(ordered, classes, "nnunet", path, notes=tuple(notes))


def refuse_volumes(path: Path, ending: object) -> None:
    """Raise DataError for volumes in other formats than NIfTI.

    Args:
        path: The dataset.
        ending: The ending of its files, as dataset.json states it; None: it states none.
    """
    first = next((file.name for file in list_folder(path / "imagesTr")), "")
    found = ending if isinstance(ending, str) else first
    if found.lower().endswith(_OTHER_VOLUMES):
        raise DataError(
            "the images are volumes that cannot be read",
            where=printable(path / "imagesTr"),
            why=f"they are files such as {first!r}",
            hint='save them as NIfTI, and write "file_ending": ".nii.gz" in dataset.json',
            id="nnunet_volumes",
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "the file is not valid JSON", where=printable(file), why=str(error), id="invalid_json"
        ) from None
    if not isinstance(content, dict):
        raise DataError(
            "the file does not describe a dataset of nnU-Net",
            where=printable(file),
            hint='it needs "labels": {"background": 0, "tumor": 1}',
            id="nnunet_labels",
        )
    return content


# --- labels


def _parse_labels(
    labels: object, where: str, notes: list[Issue]
) -> tuple[tuple[str, ...], dict[int, int]]:
    """The classes, and value -> class index or IGNORE_INDEX."""
    if isinstance(labels, dict) and all(isinstance(name, str) for name in labels.values()):
        labels = {name: int(value) for value, name in labels.items() if value.isdecimal()}
    values = {}
    if isinstance(labels, dict):
        values = {str(name): _values(value) for name, value in labels.items()}
    if not values or None in values.values():
        raise DataError(
            "the file does not describe a dataset of nnU-Net",
            where=where,
            why=f"its labels are {str(labels)[:120]}",
            hint='it needs "labels": {"background": 0, "tumor": 1}',
            id="nnunet_labels",
        )
    stated = {name: each for name, each in values.items() if each is not None}
    ignored = {value for name, own in stated.items() if name == "ignore" for value in own}
    kept = {name: own for name, own in stated.items() if name != "ignore"}
    smallest = dict[int, str]()
    for name, own in sorted(kept.items(), key=lambda item: -len(item[1])):
        smallest |= dict.fromkeys(own, name)
    classes = tuple(name for name in kept if name in smallest.values())
    indices = {value: classes.index(name) for value, name in smallest.items()}
    if any(len(own) > 1 for own in kept.values()):
        notes.append(_regions_note(kept, classes))
    return classes, indices | dict.fromkeys(ignored, IGNORE_INDEX)


def _values(stated: object) -> tuple[int, ...] | None:
    values: list[Any] = stated if isinstance(stated, list) else [stated]
    whole = all(type(value) is int and 0 <= value < 65536 for value in values)
    return tuple(values) if values and whole else None


def _regions_note(kept: dict[str, tuple[int, ...]], classes: tuple[str, ...]) -> Issue:
    text = (
        "regions of several values overlap: each value has the class of the smallest region with it"
        " ({classes}); {lost:region|regions} left out"
    )
    names = ", ".join(classes)
    return remark(
        "nnunet_regions", text, severity="warning", classes=names, lost=len(kept) - len(classes)
    )


# --- images


def _samples(
    path: Path,
    encoding: MaskEncoding,
    splits: dict[str, Split],
    channels: dict[Path, tuple[Path, ...]],
    notes: list[Issue],
) -> Iterator[Sample]:
    """`channels`: the files of all bands of an image, by its first one."""
    without, log = list[Location](), IssueLog()
    for images, labels, split in _FOLDERS:
        of_case = {_stem(file): file for file in _images_in(path / labels)}
        for image in _images_in(path / images):
            channel = _CHANNEL.search(_stem(image))
            if channel and channel[1] != "0000":
                continue
            case = _stem(image)[: channel.start()] if channel else _stem(image)
            label, key = of_case.get(case), key_of(image, path)
            own_split = split or splits.get(case)
            if label is None:
                without.append(Location(key))
            elif nifti.is_volume(image):
                sample = Sample(image, key, None, own_split)
                yield from slices_of(sample, label, encoding, log, channels.get(image, ()))
            else:
                _check_size(image, label)
                target = Regions(partial(read_mask, label, encoding))
                bands = channels.get(image)
                yield Sample(ChannelStack(bands) if bands else image, key, target, own_split)
    notes += log.issues()
    if without:
        notes.append(counted_issue(_NO_LABEL, without))


def _stem(file: Path) -> str:
    return file.name[: len(file.name) - len(extension_of(file.name))]


def _images_in(folder: Path) -> list[Path]:
    return [file for file in list_folder(folder) if is_image(file)] if folder.is_dir() else []


def _check_size(image: Path, label: Path) -> None:
    try:
        image_size, own_size = read_size(image), read_size(label)
    except BrokenImage:  # skipped, and counted, when it is read
        return
    with skip_and_record():
        require_equal_size(image, image_size, label, own_size)


def _channels(
    path: Path, notes: list[Issue], content: dict[str, Any]
) -> dict[Path, tuple[Path, ...]]:
    """The files of all channels of each image, by the first one; none where they are not bands.

    They are where every image has the same channels.
    """
    files = list[Path]()
    for images, labels, _ in _FOLDERS:
        cases = {_stem(file) for file in _images_in(path / labels)}
        inside = _images_in(path / images)
        files += [file for file in inside if _CHANNEL.sub("", _stem(file)) in cases]
    stacks = {
        stack[0]: stack
        for sample in stack_channels(Sample(file, file.as_posix()) for file in files)
        if isinstance(sample.path, ChannelStack) and (stack := sample.path.files)
    }
    numbers = sorted({channel[1] for file in files if (channel := _CHANNEL.search(_stem(file)))})
    others = [number for number in numbers if number != "0000"]
    if not others:
        return {}
    firsts = [file for file in files if _stem(file).endswith("_0000")]
    are_bands = all(len(stacks.get(first, ())) == len(numbers) for first in firsts)
    notes.append(_channels_note(numbers, content, are_bands))
    return stacks if are_bands else {}


def _channels_note(numbers: list[str], content: dict[str, Any], are_bands: bool) -> Issue:
    """What becomes of the channels; they are named by dataset.json."""
    stated = content.get("channel_names") or content.get("modality")
    names = stated if isinstance(stated, dict) else {}
    texts = [str(names.get(str(int(number)), number))[:60] for number in numbers]
    if are_bands:
        seen = texts[:3] if len(texts) >= 3 else texts[:1]
        text = (
            "the channels of each image are its bands: {names}; of these the network sees {seen}, "
            "or others with data.bands={all}"
        )
        every = str([int(number) + 1 for number in numbers]).replace(" ", "")
        return remark("nnunet_bands", text, names=quoted(texts), seen=quoted(seen), all=every)
    text = (
        "of each image only the channel {first} is read, because not every image has the same "
        "channels, or tifffile is not installed; left out: {others}"
    )
    first, others = repr(texts[0]), quoted(texts[1:])
    return remark("nnunet_channels", text, severity="warning", first=first, others=others)


def _read_folds(path: Path, notes: list[Issue]) -> dict[str, Split]:
    """Case -> split, from the first fold of splits_final.json."""
    file = path / "splits_final.json"
    if not is_file(file):
        return {}
    try:
        folds = json.loads(file.read_text(encoding="utf-8-sig"))
        first = folds[0]
        train, val = list(map(str, first["train"])), list(map(str, first["val"]))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            "the folds cannot be read",
            where=printable(file),
            why=f"{type(error).__name__}: {error}"[:200],
            hint='it must be like [{"train": ["case1"], "val": ["case2"]}]; or remove it',
            id="nnunet_folds",
        ) from None
    text = "training and validation images are those of the first of {count:fold|folds} in {file}"
    notes.append(remark("nnunet_fold", text, count=len(folds), file=file.name))
    splits: dict[str, Split] = dict.fromkeys(train, "train")
    return splits | dict.fromkeys(val, "val")
