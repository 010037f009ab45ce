"""Which masks belong to which image, by the names of folders and files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from foveate.data.discovery import is_image, list_folder, remember, walk_folders
from foveate.data.formats._folder_names import Role, is_drawn_by_hand, parse_folder_name
from foveate.data.formats._mask_config import ImageFile, MaskConfig, read_config
from foveate.data.formats._mask_files import ARRAYS, is_mask_file
from foveate.data.issues import counted_issue
from foveate.data.split_names import split_from_name, split_in_folders
from foveate.data.survey import IMAGE_SUFFIX, MASK_SUFFIX, masks_by_image, may_have_mask_suffix
from foveate.errors import DataError
from foveate.types import Issue, IssueKind, Location, Split, remark
from foveate.utils.paths import printable, relative_name

_OTHER_SUFFIX = re.compile(r"_(?:gt(?:fine|coarse)_label(?:train)?ids|l)$", re.IGNORECASE)
# files beside the masks of Cityscapes that show the same in another way
_COMPANION = re.compile(r"_gt(?:fine|coarse)_(?:color|instance(?:train)?ids)$", re.IGNORECASE)
_TRAIN_IDS = re.compile(r"labeltrainids$", re.IGNORECASE)
_MAX_DEPTH = 3  # of folders below the root whose names count: data/train/images
_MAX_WRAPPERS = 3  # folders that contain nothing but the next one
_MANY = 0.8  # share of cases, or of the files of a folder, that have to look alike
_SPLIT_LISTS = ("train", "val", "valid", "test", "trainval")
_MAX_LIST_BYTES = 50_000_000
_NAMES_FIRST = 50  # names of a folder that are looked at before all of them
_MAX_PARENTS = 3  # folders of masks that may have a class list beside them

_NO_MASK = IssueKind("image_without_mask", "images without a mask, dropped", "warning")
_NO_IMAGE = IssueKind("mask_without_image", "masks without an image, skipped", "warning")

Layout = Literal["single", "per_class", "per_object"]
"""What several masks of an image are: parts of one; one for each class, whose folder names it; one
for each object."""


@dataclass(frozen=True)
class Pair:
    """An image and its masks; `unread` are second forms of them."""

    image: ImageFile
    masks: tuple[ImageFile, ...]
    unread: tuple[ImageFile, ...] = ()


@dataclass
class Pairing:
    """The images with their masks.

    Attributes:
        config: The images and masks.
        pairs: The images that have masks.
        layout: What several masks of an image are.
    """

    config: MaskConfig
    pairs: list[Pair]
    layout: Layout

    @property
    def masks(self) -> list[Path]:
        """All masks of the pairs."""
        return [mask.path for pair in self.pairs for mask in pair.masks]

    def notes(self, used: Iterable[ImageFile] = ()) -> list[Issue]:
        """Return notes on what was left out; `used`: images without a mask that were not."""
        paired = {image.path for image in (*(pair.image for pair in self.pairs), *used)}
        matched = {mask for pair in self.pairs for mask in (*pair.masks, *pair.unread)}
        notes = list(self.config.notes)
        for kind, files in (
            (_NO_MASK, [image for image in self.config.images if image.path not in paired]),
            (_NO_IMAGE, [mask for mask in self.config.masks if mask not in matched]),
        ):
            if files:
                locations = [Location(key_of(file.path, self.config.root)) for file in files]
                notes.append(counted_issue(kind, locations))
        return notes

    @property
    def folders(self) -> list[Path]:
        """Where class lists and lists of splits may be: the root, and what lies above the masks."""
        root = self.config.root
        parents = list(dict.fromkeys(pair.masks[0].path.parent for pair in self.pairs))
        above = [each for folder in parents[:_MAX_PARENTS] for each in (folder, *folder.parents)]
        return list(dict.fromkeys([root, *(each for each in above if each.is_relative_to(root))]))


def find_pairs(path: Path) -> Pairing:
    """Return the images and masks below a folder, or of a config; once within `remember_folders`.

    Raises:
        DataError: A folder cannot be listed, the config is faulty, or no image has a mask.
    """
    return remember(("pairs of masks", path), partial(_find_pairs, path))


def _find_pairs(path: Path) -> Pairing:
    if path.is_file():
        pairing = _pair(read_config(path))
    elif path.is_dir():
        pairings = (_pair(scan(path)) for scan in (_scan_cases, _scan, _scan_beside, _scan_across))
        pairing = max(_until_found(pairings), key=lambda each: len(each.pairs))
    else:
        raise DataError(
            "this is neither a folder nor a dataset config",
            where=printable(path),
            hint="give the folder that contains the images and masks",
            id="not_a_mask_dataset",
        )
    if not pairing.pairs:
        config = pairing.config
        raise DataError(
            "no image has a mask",
            where=printable(path),
            why=f"no image has the name of a mask (images: {len(config.images)}, masks: "
            f"{len(config.masks)})",
            hint="name them alike: images/1.jpg and masks/1.png",
            id="no_image_has_mask",
        )
    return pairing


def _until_found(pairings: Iterable[Pairing]) -> Iterator[Pairing]:
    for pairing in pairings:
        yield pairing
        if pairing.pairs:
            return


def key_of(path: Path, root: Path) -> str:
    """Return the name of an image in the table."""
    return relative_name(path, root)


def read_splits(pairing: Pairing) -> dict[str, Split]:
    """Return stem -> split, from lists such as ImageSets/Segmentation/train.txt or valid.txt.

    A list counts if most of its lines name an image.
    """
    stems = {pair.image.path.stem for pair in pairing.pairs}
    splits: dict[str, Split] = {}
    folders = pairing.folders
    for folder in [*(each / "ImageSets" / "Segmentation" for each in folders), *folders]:
        lists = {name: _listed_stems(folder / f"{name}.txt") for name in _SPLIT_LISTS}
        if lists["train"]:
            lists.pop("trainval")
        for name, listed in lists.items():
            if listed and (folder.name == "Segmentation" or _share(listed, stems) >= _MANY):
                split = split_from_name("train" if name == "trainval" else name)
                splits |= dict.fromkeys(listed, split) if split else {}
        if splits:
            break
    return splits


def _listed_stems(file: Path) -> list[str]:
    """The images of a list: the first word of each line, without folders and extension."""
    if not file.is_file() or file.stat().st_size > _MAX_LIST_BYTES:
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    words = [line.split()[0] for line in lines if line.strip()]
    return [Path(word).stem if is_image(Path(word)) else word for word in words]


def _share(listed: Sequence[str], stems: set[str]) -> float:
    return sum(stem in stems for stem in listed) / len(listed)


# --- folders -> images and masks


def _scan(root: Path) -> MaskConfig:
    """The config that the names of the folders imply; a folder without masks is not searched."""
    folders = list(_named_folders(_unwrapped(root), None, None, _MAX_DEPTH))
    drawn = {folder.parent for folder, _, _ in folders if is_drawn_by_hand(folder.name)}
    others = [
        folder
        for folder, _, role in folders
        if role == "mask" and folder.parent in drawn and not is_drawn_by_hand(folder.name)
    ]
    by_role: dict[Role | None, list[ImageFile]] = {"image": [], "mask": [], None: []}
    for folder, split, role in folders:
        inner = {other for other, _, _ in folders if folder in other.parents}
        if folder not in others:
            by_role[role] += _files_of(folder, split, role, inner)
    # images beside the folders count only if no folder is said to hold the images of their split
    splits = {image.split for image in by_role["image"]}
    besides = [
        image for image in by_role[None] if image.split is not None and image.split not in splits
    ]
    images = by_role["image"] + besides
    notes = [_field_of_view(root, others)] if others else []
    return MaskConfig(root, images or by_role[None], by_role["mask"], notes=tuple(notes))


def _field_of_view(root: Path, folders: list[Path]) -> Issue:
    text = (
        "{folders}: not read, because masks that people drew lie beside it; it states the field of"
        " view of each image"
    )
    names = ", ".join(key_of(folder, root) for folder in folders[:3])
    return remark("field_of_view", text, folders=names)


def _unwrapped(root: Path) -> Path:
    """The first folder below the root that contains more than the next folder."""
    folder = root
    for _ in range(_MAX_WRAPPERS):
        children = list_folder(folder)
        if len(children) != 1 or not children[0].is_dir() or parse_folder_name(children[0].name):
            break
        folder = children[0]
    return folder


def _scan_beside(root: Path) -> MaskConfig:
    """The config of images that have their masks in the same folder: a.jpg and a_mask.png."""
    images, masks = list[ImageFile](), list[ImageFile]()
    for folder, names in walk_folders(root):
        by_image = masks_by_image(names, ARRAYS)
        of_images = {mask for own in by_image.values() for mask in own}
        relative = folder.relative_to(root).parts
        split = split_in_folders(relative)
        for name in names if by_image else ():
            file = folder / name
            if name in of_images or is_image(file):
                entry = ImageFile(file, split, (*relative, file.stem))
                (masks if name in of_images else images).append(entry)
    return MaskConfig(root, images, masks)


def _scan_across(root: Path) -> MaskConfig:
    """The config of masks that have a suffix and a folder of any name: a/1.jpg and b/1_mask.png.

    Where folders of masks repeat the names of files, the name of the folder counts, too: a/x/1.jpg
    and b/x/1_mask.png (MVTec AD).
    """
    files = dict(walk_folders(root))
    of_masks = {folder for folder, names in files.items() if _have_mask_suffix(names)}
    if not of_masks:
        return MaskConfig(root, [], [])
    images, masks = list[ImageFile](), list[ImageFile]()
    splits = {folder: split_in_folders(folder.relative_to(root).parts) for folder in files}
    of_split = Counter((splits[folder], name) for folder in of_masks for name in files[folder])
    is_repeated = max(of_split.values()) > 1
    for folder, names in files.items():
        for file in (folder / name for name in names):
            if (is_mask_file if folder in of_masks else is_image)(file):
                parts = (folder.name, file.stem) if is_repeated else (file.stem,)
                entry = ImageFile(file, splits[folder], parts)
                (masks if folder in of_masks else images).append(entry)
    serves_all = any(mask.split is None for mask in masks)  # an image is then one of all splits
    names_of = [(None if serves_all else image.split, image.parts) for image in images]
    repeated = Counter(names_of)
    images = [  # no mask has the whole path as its name
        image if repeated[name] == 1 else replace(image, parts=image.path.parts)
        for image, name in zip(images, names_of, strict=True)
    ]
    return MaskConfig(root, images, masks)


def _have_mask_suffix(names: list[str]) -> bool:
    """Whether nearly all masks and images among file names have a suffix of masks."""
    if not may_have_mask_suffix(names):
        return False
    some = names[:: -(-len(names) // _NAMES_FIRST)] if len(names) > _NAMES_FIRST else names
    for own in (some, names) if len(names) > _NAMES_FIRST else (names,):
        files = [Path(name) for name in own]
        stems = [file.stem for file in files if is_mask_file(file)]
        named = sum(bool(MASK_SUFFIX.search(stem)) for stem in stems)
        if not stems or named < _MANY * len(stems):
            return False
    return True


def _scan_cases(root: Path) -> MaskConfig:
    """The config of a folder for each image: ID/images/1.png and ID/masks/2.png, ...

    Where the masks have other names than the image, there is one for each object of it.
    """
    cases: dict[Path, dict[Role, list[Path]]] = {}
    for folder, names in walk_folders(root):
        parsed = parse_folder_name(folder.name)
        case = folder.parent
        if folder == root or parsed is None or parsed[0] or parsed[1] is None or case == root:
            continue
        if parse_folder_name(case.name) is None:
            fits = is_image if parsed[1] == "image" else is_mask_file
            files = [folder / name for name in names if fits(folder / name)]
            cases.setdefault(case, {}).setdefault(parsed[1], []).extend(files)
    full = {case: own for case, own in cases.items() if own.get("image") and own.get("mask")}
    images, masks = list[ImageFile](), list[ImageFile]()
    per_object = bool(full) and _MANY * len(full) <= sum(map(_is_per_object, full.values()))
    for case, own in cases.items() if len(full) > 1 or per_object else ():
        relative = case.relative_to(root).parts
        split = split_in_folders(relative)
        for role, files in own.items():
            for file in files:
                name = () if per_object else (file.stem,)
                entry = ImageFile(file, split, (*relative, *name))
                (images if role == "image" else masks).append(entry)
    return MaskConfig(root, images, masks, per_object=per_object)


def _is_per_object(case: dict[Role, list[Path]]) -> bool:
    """Whether there is one image, and its masks have other names."""
    names = {MASK_SUFFIX.sub("", mask.stem) for mask in case["mask"]}
    return len(case["image"]) == 1 and case["image"][0].stem not in names


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
    folder: Path, split: Split | None, role: Role | None, inner: set[Path]
) -> Iterator[ImageFile]:
    """Yield the files of a folder, without those of the `inner` folders, which have a role.

    Below a folder without a role nothing is searched.
    """
    fits: Callable[[Path], bool] = is_mask_file if role == "mask" else is_image
    for current, names in walk_folders(folder) if role else [(folder, _names_in(folder))]:
        if current in inner or inner.intersection(current.parents):
            continue
        for file in (current / name for name in names):
            if fits(file) and not (role == "mask" and _COMPANION.search(file.stem)):
                yield ImageFile(file, split, file.relative_to(folder).with_suffix("").parts)


def _names_in(folder: Path) -> list[str]:
    return [file.name for file in list_folder(folder) if is_image(file) and file.is_file()]


# --- images and masks -> pairs


def _pair(config: MaskConfig) -> Pairing:
    """Pair images with a mask each, or with masks per class, whichever gives more pairs."""
    if not config.images or not config.masks:
        return Pairing(config, [], "single")
    single = _match(config, [(mask, mask.parts) for mask in config.masks])
    in_folders = [(mask, mask.parts[1:]) for mask in config.masks if len(mask.parts) > 1]
    per_class = _match(config, in_folders) if in_folders and not config.per_object else []
    is_per_class = len(per_class) > len(single)
    chosen = per_class if is_per_class else single
    layout: Layout = "per_class" if is_per_class else "single"
    return Pairing(config, chosen, "per_object" if config.per_object else layout)


def _match(config: MaskConfig, masks: Sequence[tuple[ImageFile, tuple[str, ...]]]) -> list[Pair]:
    """Match images with masks of the same split and name.

    A mask without a split serves all splits. `masks`: each with the name that counts.
    """
    by_name: dict[tuple[Split | None, tuple[str, ...]], list[ImageFile]] = {}
    for mask, parts in masks:
        for name in dict.fromkeys((parts, _without_suffix(parts))):
            by_name.setdefault((mask.split, name), []).append(mask)
    pairs = []
    for image in config.images:
        *above, stem = image.parts
        for plain in dict.fromkeys((stem, IMAGE_SUFFIX.sub("", stem))):
            parts = (*above, plain)
            own = by_name.get((image.split, parts)) or by_name.get((None, parts))
            if own:
                kept = _preferred(tuple(own)) if len(own) > 1 else tuple(own)
                pairs.append(Pair(image, kept, tuple(mask for mask in own if mask not in kept)))
                break
    return pairs


def _without_suffix(parts: tuple[str, ...]) -> tuple[str, ...]:
    """'1_mask' -> '1'."""
    name = parts[-1] if parts else ""
    suffix = _OTHER_SUFFIX.search(name) or MASK_SUFFIX.search(name)
    return (*parts[:-1], name[: suffix.start()]) if suffix else parts


def _preferred(masks: tuple[ImageFile, ...]) -> tuple[ImageFile, ...]:
    """Of several masks those that are not a second form of another one."""
    # x_seg.npy beside x_cp_masks.png (Cellpose), and labelTrainIds beside labelIds (Cityscapes)
    images = tuple(mask for mask in masks if mask.path.suffix.lower() not in ARRAYS) or masks
    return tuple(mask for mask in images if not _TRAIN_IDS.search(mask.path.stem)) or images
