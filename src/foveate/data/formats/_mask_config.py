"""The config of a segmentation dataset: a small YAML file about images, masks and classes.

It states what cannot be put beside the data (in a read-only folder, say) or inferred from them:

    path: /data/camvid                        # root of other paths; default: the config's folder
    images: {train: train, val: val}          # a folder or pattern (frames/*.jpg) per split, or one
    masks: {train: trainannot, val: valannot}
    classes: [sky, building, pole, road]      # by value from 0, or {0: sky, 7: road}; default: the
                                              # class list in `path`
    ignore: [11]                              # values that are neither trained on nor scored

For masks in color, `classes` gives the colors: {sky: [128, 128, 128], road: [128, 64, 128]}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.data.discovery import find_files, is_image
from foveate.data.formats._class_lists import ClassList, find_class_list, make_class_list
from foveate.data.formats._mask_files import is_mask_file
from foveate.data.split_names import split_from_name
from foveate.errors import DataError, UnknownName
from foveate.types import Issue, Split
from foveate.utils.paths import printable
from foveate.utils.safe_yaml import parse_yaml

_KEYS = ("path", "images", "masks", "classes", "ignore")
_MAX_BYTES = 1_000_000  # of a config, which has about a page
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class ImageFile:
    """An image or a mask.

    Attributes:
        path: The file.
        split: The split that its folder states.
        parts: Its path below that folder without the extension, which an image and its mask share.
    """

    path: Path
    split: Split | None
    parts: tuple[str, ...]


@dataclass(frozen=True)
class MaskConfig:
    """The images and masks of a dataset.

    Attributes:
        root: Keys of samples are relative to it.
        images: The images.
        masks: The masks.
        class_list: The classes; None: there may be a class list in the root.
        per_object: Whether several masks of an image show one object each.
        notes: What was left out.
    """

    root: Path
    images: list[ImageFile]
    masks: list[ImageFile]
    class_list: ClassList | None = None
    per_object: bool = False
    notes: tuple[Issue, ...] = ()


def is_config(path: Path) -> bool:
    """Whether a file is the config of a segmentation dataset, and not a data.yaml of YOLO."""
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return False
    if path.stat().st_size > _MAX_BYTES:
        return False
    try:
        content = _read_yaml(path)
    except DataError:
        return False
    return "masks" in content or ("images" in content and "names" not in content)


def read_config(path: Path) -> MaskConfig:
    """Read a config, and find its images and masks.

    Raises:
        UnknownName: It has an unknown key.
        DataError: It is faulty, or a folder does not exist.
    """
    content, where = _read_yaml(path), printable(path)
    for key in content:
        if key not in _KEYS:
            raise UnknownName(str(key), _KEYS, kind="key of a dataset config", where=where)
    for key in ("images", "masks"):
        if key not in content:
            hint = f"add a line such as {key}: {{train: FOLDER, val: FOLDER}}"
            raise DataError(
                f"the config has no {key!r}", where=where, hint=hint, id="mask_config_missing_key"
            )
    root = path.parent / str(content.get("path") or ".")
    if not root.is_dir():
        raise DataError(
            "the path in the config is not a folder",
            where=where,
            why=f"{printable(root)!r} does not exist",
            hint="give it relative to the folder of the config, or absolute",
            id="mask_config_path",
        )
    return MaskConfig(
        root=root,
        images=list(_find_files(root, content["images"], f"{where}, images", is_image)),
        masks=list(_find_files(root, content["masks"], f"{where}, masks", is_mask_file)),
        class_list=_parse_classes(content, where) or find_class_list(root),
    )


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise DataError(
            "the file is not plain YAML",
            where=printable(path),
            why=str(error),
            id="mask_config_yaml",
        ) from None
    if not isinstance(content, dict):
        raise DataError(
            "the config is not a mapping",
            where=printable(path),
            hint="write lines such as images: FOLDER; the keys are: " + ", ".join(_KEYS),
            id="mask_config_not_mapping",
        )
    return content


def _find_files(
    root: Path, stated: object, where: str, fits: Callable[[Path], bool]
) -> Iterator[ImageFile]:
    """Yield the files of a folder or a pattern, or of one per split, that fit."""
    by_split = stated if isinstance(stated, dict) else {None: stated}
    for name, pattern in by_split.items():
        split = None if name is None else split_from_name(str(name))
        if name is not None and split is None:
            hint = "write one of: train, val, test"
            raise DataError(
                f"no split is called {str(name)!r}", where=where, hint=hint, id="unknown_split_key"
            )
        if not isinstance(pattern, str):
            raise DataError(
                "the entry is neither a folder nor a pattern",
                where=where,
                why=f"got {pattern!r}"[:200],
                hint="write a folder, or a pattern such as frames/*.jpg, or one per split",
                id="mask_config_entry",
            )
        base, files = _find_matches(root, pattern, where, fits)
        for file in files:
            yield ImageFile(file, split, file.relative_to(base).with_suffix("").parts)


def _find_matches(
    root: Path, pattern: str, where: str, fits: Callable[[Path], bool]
) -> tuple[Path, list[Path]]:
    """The folder that a pattern begins with, and the files that fit it."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if _WILDCARDS & set(part)), len(parts))
    base, wild = root.joinpath(*parts[:fixed]), "/".join(parts[fixed:])
    if not base.is_dir():
        raise DataError(
            "the folder does not exist",
            where=where,
            why=f"there is no {printable(base)!r}",
            hint="paths are relative to `path` in the config",
            id="mask_config_missing_folder",
        )
    files = sorted(base.glob(wild)) if wild else find_files(base)
    images = [file for file in files if fits(file) and file.is_file()]
    if not images:
        why = f"nothing matches {printable(base / wild)!r}" if wild else printable(base)
        raise DataError("there are no images", where=where, why=why, id="mask_config_no_images")
    return base, images


def _parse_classes(content: dict[Any, Any], where: str) -> ClassList | None:
    stated, ignored = content.get("classes"), content.get("ignore") or []
    if not isinstance(ignored, list) or not all(type(value) is int for value in ignored):
        raise DataError(
            "`ignore` is not a list of values",
            where=where,
            why=f"got {ignored!r}"[:200],
            hint="write ignore: [11]",
            id="mask_config_ignore",
        )
    if stated is None:
        if ignored:
            hint = "add a line such as classes: [sky, road]"
            raise DataError(
                "`ignore` requires `classes`",
                where=where,
                hint=hint,
                id="mask_config_ignore_without_classes",
            )
        return None
    by_value = dict(enumerate(stated)) if isinstance(stated, list) else stated
    if isinstance(by_value, dict) and all(type(value) is int for value in by_value):
        names = {value: _parse_name(name, where) for value, name in by_value.items()}
        return make_class_list(names, where, ignored)
    if isinstance(stated, dict) and all(_is_color(color) for color in stated.values()):
        names = {value: _parse_name(name, where) for value, name in enumerate(stated)}
        colors = [(red, green, blue) for red, green, blue in stated.values()]
        if len(set(colors)) < len(colors):
            raise DataError(
                "two classes have the same color", where=where, id="mask_config_same_color"
            )
        return make_class_list(names, where, ignored, colors)
    raise DataError(
        "`classes` is not a list of names",
        where=where,
        why=f"got {stated!r}"[:200],
        hint="write classes: [sky, road], or {0: sky, 7: road},"
        " or for colors {sky: [128, 128, 128], road: [128, 64, 128]}",
        id="mask_config_classes",
    )


def _is_color(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(channel) is int and 0 <= channel <= 255 for channel in value)
    )


def _parse_name(name: object, where: str) -> str:
    """A name as text. YAML reads no, off and 1.0 as something other than words."""
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise DataError(
            f"the class {name!r} is not a word",
            where=where,
            hint="put it in quotes",
            id="mask_config_class_name",
        )
    return str(name)
