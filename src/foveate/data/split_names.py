"""Names of splits, as folders and tables spell them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from foveate.types import Split

_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_WORDS: dict[str, Split] = {  # that a longer name may contain: training_set, seg_train
    **_NAMES,
    **dict.fromkeys(("trn", "trainset", "entrenamiento", "treino", "apprentissage"), "train"),
    **dict.fromkeys(("valset", "validset", "eval", "evaluation", "holdout"), "val"),
    **dict.fromkeys(("tst", "testset"), "test"),
}
_CHINESE: tuple[tuple[str, Split], ...] = (("训练", "train"), ("验证", "val"), ("测试", "test"))
_PARTS = frozenset({"fold", "folds", "part", "batch", "subset", "split", "chunk", "shard", "cv"})


def split_from_name(name: str) -> Split | None:
    """Return the split that a name stands for ('Training' -> 'train'); None if it is none."""
    return _NAMES.get(name.strip().casefold())


def split_in_name(name: str) -> Split | None:
    """Return the split that a name speaks of: 'seg_train', 'test-set', 'train2017', '训练集'.

    None without one, or where the name speaks of several.
    """
    words = _words(name)
    splits = {_WORDS[word] for word in words if word in _WORDS}
    splits |= {split for word, split in _CHINESE if word in name}
    return splits.pop() if len(splits) == 1 else None


def split_in_folders(folders: Iterable[str]) -> Split | None:
    """Return the split that the first of these folder names speaks of, as `split_in_name`."""
    return next((split for name in folders if (split := split_in_name(name))), None)


def is_part_name(name: str) -> bool:
    """Whether a name counts the parts of a dataset: 'fold_1', 'batch 12', 'images_part_b'."""
    words = _words(name)
    is_counted = len(words) >= 2 and (words[-1].isdecimal() or len(words[-1]) == 1)
    return is_counted and (words[0] in _PARTS or words[-2] in _PARTS)


def _words(name: str) -> list[str]:
    """'trainSet_2017' -> ['train', 'set', '2017']; 'train2017' -> ['train', '2017']."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)", " ", name.strip())
    return [word.casefold() for word in re.split(r"[\W_]+", spaced) if word]
