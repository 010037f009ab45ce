"""Names of splits, as folders and tables spell them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from foveate.types import Split

_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_WORDS: dict[str, Split] = {  # that a longer name may contain: training_set, seg_train
    **_NAMES,
    **dict.fromkeys(("trn", "trainset"), "train"),
    **dict.fromkeys(("valset", "validset", "eval", "evaluation", "holdout"), "val"),
    **dict.fromkeys(("tst", "testset"), "test"),
    # without accents: Spanish, Portuguese, French, Italian, German
    **dict.fromkeys(("entrenamiento", "treino", "treinamento", "apprentissage"), "train"),
    **dict.fromkeys(("entrainement", "addestramento"), "train"),
    **dict.fromkeys(("validacion", "validacao", "validazione", "validierung"), "val"),
    **dict.fromkeys(("prueba", "pruebas", "teste", "testes"), "test"),
}
_PIECES: tuple[tuple[str, Split], ...] = (  # of Chinese, Japanese and Korean, without spaces
    *(
        ("训练", "train"),
        ("訓練", "train"),
        ("学習", "train"),
        ("훈련", "train"),
        ("학습", "train"),
    ),
    *(("验证", "val"), ("驗證", "val"), ("検証", "val"), ("검증", "val")),
    *(("测试", "test"), ("測試", "test"), ("テスト", "test"), ("테스트", "test")),
)
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
    composed = unicodedata.normalize("NFC", name)
    splits |= {split for piece, split in _PIECES if piece in composed}
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
    """'trainSet_2017' -> ['train', 'set', '2017']; 'Validação' -> ['validacao']."""
    letters = unicodedata.normalize("NFKD", name.strip())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)", " ", plain)
    return [word.casefold() for word in re.split(r"[\W_]+", spaced) if word]
