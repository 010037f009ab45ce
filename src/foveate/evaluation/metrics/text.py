"""Sentences against sentences: CIDEr-D, BLEU, ROUGE-L and chrF, without a network and without word
lists.

Letters: I images, n the length of an n-gram.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foveate.errors import DataError
from foveate.evaluation.intervals import bootstraps
from foveate.evaluation.metrics import Metric, with_interval
from foveate.predictions import Text
from foveate.types import Scores

Grams = Counter[tuple[str, ...]]
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_MOST = 4  # words of an n-gram, of BLEU and CIDEr
_CHARACTERS = 6  # of an n-gram of chrF
_SIGMA = 6.0  # words by which lengths may differ, CIDEr-D
_ROUGE_BETA, _CHRF_BETA = 1.2, 2.0  # how much more recall weighs than precision
_NAMES = ("cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "chrf")


def tokenize(sentence: str) -> list[str]:
    """Its words in lower case, without punctuation, as COCO's evaluation counts them."""
    return _WORD.findall(sentence.casefold())


def count_ngrams(items: Sequence[str], most: int) -> Grams:
    """How often each run of 1 to `most` items occurs."""
    return Counter(
        tuple(items[start : start + n])
        for n in range(1, most + 1)
        for start in range(len(items) - n + 1)
    )


def totals_by_length(counted: Grams, most: int = _MOST) -> list[int]:
    """How many n-grams were counted, of 1 to `most` items."""
    return [
        sum(count for gram, count in counted.items() if len(gram) == n) for n in range(1, most + 1)
    ]


class TextMetric(Metric):
    """Compares Text with Text: the answer's one sentence with all sentences of the truth.

    In this order: `cider`, CIDEr-D (Vedantam et al. 2015, section 4 and equation 7), 0 to 10, in
        which n-grams weigh the more the
    fewer images have them in their true sentences; `bleu_1` to `bleu_4` (Papineni et al. 2002), of
    all images together, without smoothing, with the nearest reference's length; `rouge_l` (Lin
    2004), with beta 1.2 and the best precision and recall over the references, as COCO's evaluation
    has it; `chrf` (Popovic 2015), of 1 to 6 characters, beta 2, of all images together. All but the
    first are in [0, 1]. Words are compared in lower case and without punctuation; nothing is
    stemmed.

    All have percentile bootstraps over images; the weights of CIDEr's n-grams stay those of the
    whole set.
    """

    reads = Text
    class_score = "cider"

    def __init__(self, classes: tuple[str, ...] = (), multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._answers: list[list[str]] = []
        self._truths: list[list[list[str]]] = []

    def update(self, prediction: Text, truth: Text) -> None:
        """One image. Raises DataError for a truth without a sentence."""
        answer, true = _read(prediction, truth)
        self._answers.append(answer)
        self._truths.append(true)

    def compute(self) -> Scores:
        """The numbers listed above. Raises DataError without updates."""
        means, count = self._means(), len(self._answers)
        found = zip(_NAMES, means(np.arange(count)), bootstraps(means, count), strict=True)
        return Scores(
            {name: with_interval(float(value), ends, count) for name, value, ends in found},
            as_percent=False,
        )

    def resampler(self) -> Callable[[np.ndarray], float]:
        means = self._means()
        return lambda places: float(means(places)[0])

    def sample_losses(self, prediction: Text, truth: Text) -> float:
        """1 - ROUGE-L of this image, in [0, 1]."""
        return 1 - rouge_l(*_read(prediction, truth))

    def _means(self) -> Callable[[np.ndarray], np.ndarray]:
        """All numbers of a resample."""
        if not self._answers:
            raise DataError(
                "there is nothing to score", why="no image has both an answer and a true sentence"
            )
        pairs = list(zip(self._answers, self._truths, strict=True))
        single = np.stack(
            [cider_scores(self._answers, self._truths), [rouge_l(*pair) for pair in pairs]], 1
        )
        shared, letters = (
            np.stack([_bleu_counts(*pair) for pair in pairs]),
            np.stack([_chrf_counts(*pair) for pair in pairs]),
        )

        def means(places: np.ndarray) -> np.ndarray:
            cider, rouge = single[places].mean(0)
            return np.array(
                [cider, *_bleus(shared[places].sum(0)), rouge, _chrf(letters[places].sum(0))]
            )

        return means


def _read(prediction: Text, truth: Text) -> tuple[list[str], list[list[str]]]:
    if not truth.sentences:
        raise DataError("this image has no true sentence")
    return tokenize(prediction.sentences[0] if prediction.sentences else ""), [
        tokenize(each) for each in truth.sentences
    ]


# --- CIDEr


def cider_scores(answers: Sequence[list[str]], truths: Sequence[Sequence[list[str]]]) -> np.ndarray:
    """(I,) CIDEr-D of each image; how rare an n-gram is, is counted over the `truths`."""
    known = [[count_ngrams(words, _MOST) for words in each] for each in truths]
    images = Counter(gram for each in known for gram in set().union(*each))
    rarity, found = _Rarity(images, math.log(len(truths))), []
    for answer, each in zip(answers, known, strict=True):
        mine = rarity.weighed(count_ngrams(answer, _MOST))
        alike = [
            _alike(mine, rarity.weighed(one)) * _near(len(answer), totals_by_length(one)[0])
            for one in each
        ]
        found.append(10 * np.mean(alike))
    return np.array(found)


@dataclass(frozen=True)
class _Rarity:
    """`images`: in how many images' true sentences each n-gram occurs; `whole`: the logarithm of
    the number of images."""

    images: Grams
    whole: float

    def weighed(self, counted: Grams) -> list[dict[tuple[str, ...], float]]:
        """TF-IDF by length of n-gram. One that no truth has counts as in a single image, as in the
        reference code."""
        parts: list[dict[tuple[str, ...], float]] = [{} for _ in range(_MOST)]
        for gram, count in counted.items():
            parts[len(gram) - 1][gram] = count * (self.whole - math.log(max(1, self.images[gram])))
        return parts


def _near(length: int, true: int) -> float:
    """The Gaussian that puts back sentences of another length."""
    return math.exp(-((length - true) ** 2) / (2 * _SIGMA**2))


def _alike(
    answer: list[dict[tuple[str, ...], float]], truth: list[dict[tuple[str, ...], float]]
) -> float:
    """The mean over n of the cosines, counts clipped to those of the reference."""
    found = 0.0
    for one, other in zip(answer, truth, strict=True):
        norm = math.sqrt(
            sum(value**2 for value in one.values()) * sum(value**2 for value in other.values())
        )
        if norm:
            found += (
                sum(
                    min(value, other[gram]) * other[gram]
                    for gram, value in one.items()
                    if gram in other
                )
                / norm
            )
    return found / _MOST


# --- BLEU


def _bleu_counts(answer: list[str], truths: list[list[str]]) -> np.ndarray:
    """(10,): right n-grams of 1 to 4 words, all of the answer's, its length, that of the nearest
    reference (the shorter of two)."""
    mine, most = count_ngrams(answer, _MOST), Counter[tuple[str, ...]]()
    for truth in truths:
        most |= count_ngrams(truth, _MOST)
    nearest = min((abs(len(truth) - len(answer)), len(truth)) for truth in truths)[1]
    return np.array(
        [*totals_by_length(mine & most), *totals_by_length(mine), len(answer), nearest], dtype=float
    )


def _bleus(counts: np.ndarray) -> Iterator[float]:
    """BLEU-1 to BLEU-4 of summed counts."""
    right, all_, (length, nearest) = counts[:_MOST], counts[_MOST : 2 * _MOST], counts[2 * _MOST :]
    brevity = 1.0 if length > nearest else math.exp(1 - nearest / length) if length else 0.0
    for n in range(1, _MOST + 1):
        whole = right[:n].all() and all_[:n].all()
        yield brevity * math.exp(np.log(right[:n] / all_[:n]).mean()) if whole else 0.0


# --- ROUGE-L


def rouge_l(answer: Sequence[str], truths: Sequence[Sequence[str]]) -> float:
    """By the longest common subsequence of words; in [0, 1]."""
    common = [_longest_common(answer, truth) for truth in truths]
    precision = max(length / max(1, len(answer)) for length in common)
    recall = max(length / max(1, len(truth)) for length, truth in zip(common, truths, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for place, rival in enumerate(other):
            row.append(before[place] + 1 if word == rival else max(before[place + 1], row[place]))
    return row[-1]


# --- chrF


def _chrf_counts(answer: list[str], truths: list[list[str]]) -> np.ndarray:
    """(18,): right, answered and true n-grams of 1 to 6 characters, against the reference that it
    is nearest to."""
    mine = count_ngrams("".join(answer), _CHARACTERS)
    found = []
    for truth in truths:
        theirs = count_ngrams("".join(truth), _CHARACTERS)
        rows = [totals_by_length(each, _CHARACTERS) for each in (mine & theirs, mine, theirs)]
        found.append(np.array(rows, dtype=float).ravel())
    return max(found, key=_chrf)


def _chrf(counts: np.ndarray) -> float:
    """The mean over n of the F-scores; lengths that neither side has do not count."""
    scores = []
    for right, mine, theirs in counts.reshape(3, _CHARACTERS).T:
        if mine and theirs:
            precision, recall = right / mine, right / theirs
            below = _CHRF_BETA**2 * precision + recall
            scores.append((1 + _CHRF_BETA**2) * precision * recall / below if below else 0.0)
    return float(np.mean(scores)) if scores else 0.0
