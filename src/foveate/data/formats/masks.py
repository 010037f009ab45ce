"""Pictures and, of the same names, masks: the class of every pixel. Truths are Regions that are read when they are wanted.

    images/1.jpg      masks/1.png          side by side; also image, imgs, jpegimages and mask, labels, annotations, gt, ...
    train/1.jpg       trainannot/1.png     with the split before the word or behind it,
    train/image/1.jpg train/label/1.png    above it
    images/train/1.jpg masks/train/1.png   or below it
    images/1.jpg      masks/cat/1.png      a folder of black-and-white masks for each class; the later class wins

A mask is a picture (PNG) of palette or grey values: value 3 is class 3, and 255 is ignored as in Pascal VOC. What the values
are called says a class list in the root (`_mask_values`): classes.txt, labelmap.txt, class_dict.csv, ...; the last two also
say which colour of a mask in colour is which class. A card (`_mask_card`) says all of it for data that cannot be written to:
`foveate fit camvid.yaml`. A mask may be named 1_mask.png. ImageSets/Segmentation/train.txt gives splits, as in Pascal VOC.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from foveate.data.discovery import find_images, is_image, listed
from foveate.data.formats import Format
from foveate.data.formats._mask_card import Card, Found, is_card, read_card
from foveate.data.formats._mask_values import (
    BACKGROUND,
    ClassList,
    find_class_list,
    learn,
    read_layers,
    read_mask,
)
from foveate.data.formats._roles import said_by
from foveate.data.issues import Issue, IssueKind, Location, skip_and_record
from foveate.data.splits import split_from_name
from foveate.errors import BrokenImage, DataError, did_you_mean
from foveate.images import codec as images
from foveate.predictions import Regions
from foveate.types import Sample, Split, Table
from foveate.utils.paths import printable

_ENDINGS = (
    "_groundtruth",
    "_segmentation",
    "_annotation",
    "_labels",
    "_label",
    "_masks",
    "_mask",
    "_annot",
    "_seg",
    "_gt",
    "_l",
)
_DEEPEST = 3  # folders below the root that may say what they hold: data/train/images
_NAMED = 3  # files that a note names
_BARE = IssueKind("images have no mask and are dropped", "warning")
_ALONE = IssueKind("masks have no image and are skipped", "warning")
_SECOND = IssueKind("images have a second mask, which is skipped", "warning")

Key = tuple[Split | None, tuple[str, ...]]


class Masks(Format):
    summary: ClassVar[str] = "images and masks of the same names"

    def sniff(self, path: Path) -> bool:
        try:
            return is_card(path) or (path.is_dir() and bool(_paired(_card_of(path)).pairs))
        except DataError:
            return False

    def read(self, path: Path) -> Table:
        """The table of the pairs below a folder, or of a card. Only heads of files are read, and a sample of the masks."""
        card = read_card(path) if path.is_file() else _card_of(path)
        pairing = _paired(card)
        if not pairing.pairs:
            why = f"{len(card.images)} images and {len(card.masks)} masks, of which no two have the same name"
            raise DataError(
                "no image here has a mask",
                where=printable(path),
                why=why,
                hint="images/1.jpg and masks/1.png",
            )
        notes, known = (
            [*pairing.notes, *_unequal(pairing.pairs)],
            card.known or find_class_list(card.root),
        )
        if pairing.by_class:
            classes, truths = _layers(pairing.pairs, known)
        else:
            meaning, remarks = learn([pair.masks[0].path for pair in pairing.pairs], known)
            classes, notes = meaning.classes, [*notes, *remarks]
            truths = [
                Regions(partial(read_mask, pair.masks[0].path, meaning)) for pair in pairing.pairs
            ]
        splits = _listed_splits(card.root)
        samples = [
            Sample(
                pair.image.path,
                _key(pair.image.path, card.root),
                truth,
                pair.image.split or splits.get(pair.image.parts[-1]),
            )
            for pair, truth in zip(pairing.pairs, truths, strict=True)
        ]
        return Table(
            samples=tuple(sorted(samples, key=lambda sample: sample.key)),
            classes=classes,
            format="masks",
            root=card.root,
            notes=tuple(notes),
        )


def _key(path: Path, root: Path) -> str:
    return printable(path.relative_to(root) if path.is_relative_to(root) else path)


# --- a folder -> images and masks


def _card_of(root: Path) -> Card:
    """What a card of this folder would say, from the names of its folders. A folder without masks is not looked through."""
    if not root.is_dir():
        raise DataError(
            "this is neither a folder nor a card",
            where=printable(root),
            hint="give the folder above images and masks",
        )
    places = list(_places(root, None, None, _DEEPEST))
    if not any(role == "mask" for _, _, role in places):
        return Card(root, [], [])
    found: dict[str | None, list[Found]] = {"image": [], "mask": [], None: []}
    for folder, split, role in places:
        inner = {other for other, _, _ in places if folder in other.parents}
        found[role] += _pictures(folder, split, role is None, inner)
    splits = {
        image.split for image in found["image"]
    }  # what lies loose counts only where no folder says that it holds images
    images = found["image"] + [
        image for image in found[None] if image.split is not None and image.split not in splits
    ]
    return Card(root, images or found[None], found["mask"])


def _places(
    folder: Path, split: Split | None, role: str | None, depth: int
) -> Iterator[tuple[Path, Split | None, str | None]]:
    """Folders that hold pictures, with the split and the role ('image', 'mask') that their names and those above them say."""
    yield folder, split, role
    for child in listed(folder) if depth else []:
        said = said_by(child.name) if child.is_dir() else None
        if (
            said is not None and not (said[0] and split) and not (said[1] and role)
        ):  # a class may be called 'label'
            yield from _places(child, said[0] or split, said[1] or role, depth - 1)


def _pictures(folder: Path, split: Split | None, flat: bool, inner: set[Path]) -> Iterator[Found]:
    """The pictures of a folder; those below another folder with a role belong to it."""
    files = (
        (file for file in listed(folder) if is_image(file) and file.is_file())
        if flat
        else find_images(folder)
    )
    for file in files:
        if not inner.intersection(file.parents):
            yield Found(file, split, file.relative_to(folder).with_suffix("").parts)


def _listed_splits(root: Path) -> dict[str, Split]:
    """Stem -> split, from Pascal VOC's lists for segmentation."""
    splits: dict[str, Split] = {}
    for name in ("train", "val", "test"):
        file = root / "ImageSets" / "Segmentation" / f"{name}.txt"
        split = split_from_name(name)
        if file.is_file() and split:
            splits |= dict.fromkeys(
                file.read_text(encoding="utf-8", errors="replace").split(), split
            )
    return splits


# --- images and masks -> pairs


@dataclass(frozen=True)
class _Pair:
    image: Found
    masks: tuple[Found, ...]  # one, or one for each class that the image has


@dataclass
class _Pairing:
    pairs: list[_Pair]
    by_class: bool
    notes: list[str] = field(default_factory=list)


def _paired(card: Card) -> _Pairing:
    """Each image with its mask, or with its masks by class, whichever gives more pairs; the rest is noted."""
    whole = _matches(card, {})
    layers = _matches(
        card,
        {mask: replace(mask, parts=mask.parts[1:]) for mask in card.masks if len(mask.parts) > 1},
    )
    by_class = len(layers) > len(whole)
    pairs = layers if by_class else [_Pair(pair.image, pair.masks[:1]) for pair in whole]
    pairing = _Pairing(pairs, by_class)
    with_mask = {pair.image for pair in pairs}
    matched = {mask for pair in (layers if by_class else whole) for mask in pair.masks}
    second = [] if by_class else [pair.masks[1] for pair in whole if len(pair.masks) > 1]
    for kind, left in (
        (_BARE, [image for image in card.images if image not in with_mask]),
        (_ALONE, [mask for mask in card.masks if mask not in matched]),
        (_SECOND, second),
    ):
        if left:
            keys = [_key(found.path, card.root) for found in left]
            pairing.notes.append(
                Issue(
                    f"{len(left)} {kind}: {_names(keys)}", kind, len(left), tuple(map(Location, keys))
                )
            )
    return pairing


def _matches(card: Card, moved: dict[Found, Found]) -> list[_Pair]:
    """Pairs of the same split and name; a mask that names no split serves every split. With `moved`, only those masks,
    under the names given."""
    by_key: dict[Key, list[Found]] = {}
    for mask in moved or card.masks:
        place = moved.get(mask, mask)
        by_key.setdefault((place.split, place.parts), []).append(mask)
        if (bare := _bare(place.parts)) != place.parts:
            by_key.setdefault((place.split, bare), []).append(mask)
    pairs = []
    for image in card.images:
        masks = by_key.get((image.split, image.parts)) or by_key.get((None, image.parts))
        if masks:
            pairs.append(_Pair(image, tuple(masks)))
    return pairs


def _bare(parts: tuple[str, ...]) -> tuple[str, ...]:
    """'1_mask' -> '1'."""
    for ending in _ENDINGS:
        if parts[-1].casefold().endswith(ending):
            return (*parts[:-1], parts[-1][: -len(ending)])
    return parts


def _unequal(pairs: list[_Pair]) -> list[str]:
    """Raises DataError for the first mask that is not as large as its image; heads that cannot be read are counted."""
    broken = 0
    for pair in pairs:
        try:
            wanted, sizes = (
                images.read_size(pair.image.path),
                [images.read_size(mask.path) for mask in pair.masks],
            )
        except BrokenImage:  # skipped, and named, when it is read
            broken += 1
            continue
        for mask, got in zip(pair.masks, sizes, strict=True):
            with skip_and_record():
                _refuse_unequal(pair.image.path, wanted, mask.path, got)
    return [f"{broken} images or their masks cannot be opened"] if broken else []


def _refuse_unequal(image: Path, wanted: tuple[int, int], mask: Path, got: tuple[int, int]) -> None:
    if got != wanted:
        why = f"the mask is {got[1]} x {got[0]} px, its image {printable(image.name)!r} {wanted[1]} x {wanted[0]} px"
        hint = "export the masks at the size of the images, or resize them without smoothing (nearest neighbour)"
        raise DataError(
            "a mask is not as large as its image", where=printable(mask), why=why, hint=hint
        )


def _layers(pairs: list[_Pair], known: ClassList | None) -> tuple[tuple[str, ...], list[Regions]]:
    """Classes, with the background first, and truths made of a mask for each class."""
    found = sorted({mask.parts[0] for pair in pairs for mask in pair.masks})
    classes = (
        [known.names[value] for value in known.kept]
        if known
        else [printable(name) for name in found if name != BACKGROUND]
    )
    classes = [BACKGROUND, *(name for name in classes if name != BACKGROUND)]
    for name in map(printable, found):
        if known and name not in classes:
            hint = did_you_mean(name, classes) or "one of: " + ", ".join(classes)
            raise DataError(
                f"the folder {name!r} is not in the class list", where=known.source, hint=hint
            )
    truths = []
    for pair in pairs:
        layers = sorted((classes.index(printable(mask.parts[0])), mask.path) for mask in pair.masks)
        truths.append(Regions(partial(read_layers, tuple(layers))))
    return tuple(classes), truths


def _names(keys: list[str]) -> str:
    common = Counter(keys)
    return ", ".join(map(repr, list(common)[:_NAMED])) + (", ..." if len(common) > _NAMED else "")
