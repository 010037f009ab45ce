"""Captioning: CIDEr-D, BLEU, ROUGE-L and chrF, without a network and without word lists.

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
from foveate.evaluation.intervals import POSITIVE, SHARE, Quantity, Statistics, estimate
from foveate.evaluation.metrics import Metric
from foveate.predictions import Text
from foveate.types import Scores

NGrams = Counter[tuple[str, ...]]
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_MAX_WORDS = 4  # of an n-gram, for BLEU and CIDEr
_MAX_CHARACTERS = 6  # of an n-gram, for chrF
_SIGMA = 6.0  # words by which lengths may differ, CIDEr-D
_ROUGE_BETA, _CHRF_BETA = 1.2, 2.0  # how much more recall weighs than precision
_NAMES = ("cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "chrf")


def tokenize(sentence: str) -> list[str]:
    """Return the words in lower case, without punctuation, as COCO's evaluation counts them."""
    return _WORD.findall(sentence.casefold())


def count_ngrams(items: Sequence[str], max_length: int) -> NGrams:
    """Count each run of 1 to `max_length` items."""
    return Counter(
        tuple(items[start : start + n])
        for n in range(1, max_length + 1)
        for start in range(len(items) - n + 1)
    )


def totals_by_length(ngrams: NGrams, max_length: int = _MAX_WORDS) -> list[int]:
    """Return how many n-grams were counted of each length from 1 to `max_length`."""
    return [
        sum(count for ngram, count in ngrams.items() if len(ngram) == n)
        for n in range(1, max_length + 1)
    ]


class TextMetric(Metric):
    """Compares Text with Text: the one predicted caption with all reference captions.

    In this order:

    - `cider`: CIDEr-D (Vedantam et al. 2015, section 4 and equation 7), 0 to 10, in which an n-gram
      weighs the more the fewer images have it in their references;
    - `bleu_1` to `bleu_4` (Papineni et al. 2002): of all images together, without smoothing, with
      the length of the nearest reference;
    - `rouge_l` (Lin 2004): with beta 1.2 and the best precision and recall over the references, as
      in COCO's evaluation;
    - `chrf` (Popovic 2015): of 1 to 6 characters, beta 2, of all images together.

    All except the first are in [0, 1]. Words are compared in lower case and without punctuation;
    nothing is stemmed. All have the jackknife's intervals over images or their groups; the weights
    of CIDEr's n-grams remain those of the whole set.
    """

    reads = Text
    class_score = "cider"

    def __init__(self, classes: tuple[str, ...] = (), multilabel: bool = False) -> None:
        super().__init__(classes, multilabel)
        self._captions: list[list[str]] = []  # the words of each prediction
        self._references: list[list[list[str]]] = []

    def update(self, prediction: Text, target: Text) -> None:
        """Add one image.

        Raises:
            DataError: The target has no caption.
        """
        caption, references = _read(prediction, target)
        self._captions.append(caption)
        self._references.append(references)

    def compute(self) -> Scores:
        """Return the scores listed above.

        Raises:
            DataError: There were no updates.
        """
        scales = {name: POSITIVE if name == "cider" else SHARE for name in _NAMES}
        quantities = tuple(Quantity(name, scale) for name, scale in scales.items())
        statistics = Statistics(quantities, self._resampled_means())
        return Scores(estimate(statistics, self.units(len(self._captions))), as_percent=False)

    def resampler(self) -> Callable[[np.ndarray], float]:
        """Return a function that computes CIDEr-D on a resample."""
        means = self._resampled_means()
        return lambda indices: float(means(indices)[0])

    def sample_loss(self, prediction: Text, target: Text) -> float:
        """Return 1 - ROUGE-L of this image, in [0, 1]."""
        return 1 - rouge_l(*_read(prediction, target))

    def _resampled_means(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function of the indices of a resample: (7,) as _NAMES."""
        if not self._captions:
            raise DataError("there is nothing to score", why="no image has a caption")
        pairs = list(zip(self._captions, self._references, strict=True))
        cider = cider_scores(self._captions, self._references)
        per_image = np.stack([cider, [rouge_l(*pair) for pair in pairs]], 1)
        bleu_counts = np.stack([_bleu_counts(*pair) for pair in pairs])
        chrf_counts = np.stack([_chrf_counts(*pair) for pair in pairs])

        def means(indices: np.ndarray) -> np.ndarray:
            mean_cider, mean_rouge = per_image[indices].mean(0)
            bleus = _bleus(bleu_counts[indices].sum(0))
            return np.array([mean_cider, *bleus, mean_rouge, _chrf(chrf_counts[indices].sum(0))])

        return means


def _read(prediction: Text, target: Text) -> tuple[list[str], list[list[str]]]:
    """The words of the prediction and of each reference."""
    if not target.sentences:
        raise DataError("this image has no caption")
    caption = prediction.sentences[0] if prediction.sentences else ""
    return tokenize(caption), [tokenize(each) for each in target.sentences]


# --- CIDEr


def cider_scores(
    captions: Sequence[list[str]], references: Sequence[Sequence[list[str]]]
) -> np.ndarray:
    """Return (I,) CIDEr-D of each image; document frequencies are those of the `references`.

    Args:
        captions: Words of the predicted caption of each image.
        references: Words of the reference captions of each image.
    """
    counted = [[count_ngrams(words, _MAX_WORDS) for words in each] for each in references]
    images = Counter(ngram for each in counted for ngram in set().union(*each))
    frequencies, scores = _DocumentFrequencies(images, math.log(len(references))), []
    for caption, each in zip(captions, counted, strict=True):
        own = frequencies.tf_idf(count_ngrams(caption, _MAX_WORDS))
        similarities = [
            _cosine(own, frequencies.tf_idf(reference))
            * _length_penalty(len(caption), totals_by_length(reference)[0])
            for reference in each
        ]
        scores.append(10 * np.mean(similarities))
    return np.array(scores)


@dataclass(frozen=True)
class _DocumentFrequencies:
    """Attributes:
    images: In how many images' references each n-gram occurs.
    log_count: Logarithm of the number of images.
    """

    images: NGrams
    log_count: float

    def tf_idf(self, ngrams: NGrams) -> list[dict[tuple[str, ...], float]]:
        """Return TF-IDF by length of n-gram.

        One that no reference has counts as in a single image, as in the reference code.
        """
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(_MAX_WORDS)]
        for ngram, count in ngrams.items():
            idf = self.log_count - math.log(max(1, self.images[ngram]))
            vectors[len(ngram) - 1][ngram] = count * idf
        return vectors


def _length_penalty(length: int, reference_length: int) -> float:
    """The Gaussian that lowers the score of captions of another length."""
    return math.exp(-((length - reference_length) ** 2) / (2 * _SIGMA**2))


def _cosine(
    caption: list[dict[tuple[str, ...], float]], reference: list[dict[tuple[str, ...], float]]
) -> float:
    """The mean over n of the cosines, counts clipped to those of the reference."""
    total = 0.0
    for one, other in zip(caption, reference, strict=True):
        squares = [sum(value**2 for value in each.values()) for each in (one, other)]
        norm = math.sqrt(squares[0] * squares[1])
        if norm:
            shared = ((value, other[ngram]) for ngram, value in one.items() if ngram in other)
            total += sum(min(value, weight) * weight for value, weight in shared) / norm
    return total / _MAX_WORDS


# --- BLEU


def _bleu_counts(caption: list[str], references: list[list[str]]) -> np.ndarray:
    """(10,): matching n-grams of 1 to 4 words, all of the caption's, its length, that of the
    nearest reference (the shorter of two)."""
    own, clip = count_ngrams(caption, _MAX_WORDS), Counter[tuple[str, ...]]()
    for reference in references:
        clip |= count_ngrams(reference, _MAX_WORDS)
    gaps = ((abs(len(reference) - len(caption)), len(reference)) for reference in references)
    counts = [*totals_by_length(own & clip), *totals_by_length(own), len(caption), min(gaps)[1]]
    return np.array(counts, dtype=float)


def _bleus(counts: np.ndarray) -> Iterator[float]:
    """BLEU-1 to BLEU-4 of summed counts."""
    matching, total = counts[:_MAX_WORDS], counts[_MAX_WORDS : 2 * _MAX_WORDS]
    length, nearest = counts[2 * _MAX_WORDS :]
    brevity = 1.0 if length > nearest else math.exp(1 - nearest / length) if length else 0.0
    for n in range(1, _MAX_WORDS + 1):
        defined = matching[:n].all() and total[:n].all()
        yield brevity * math.exp(np.log(matching[:n] / total[:n]).mean()) if defined else 0.0


# --- ROUGE-L


def rouge_l(caption: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return ROUGE-L, by the longest common subsequence of words; in [0, 1]."""
    common = [_longest_common(caption, reference) for reference in references]
    precision = max(length / max(1, len(caption)) for length in common)
    recall = max(
        length / max(1, len(reference))
        for length, reference in zip(common, references, strict=True)
    )
    if not precision or not recall:
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    row = [0] * (len(other) + 1)
    for word in one:
        previous, row = row, [0]
        for index, rival in enumerate(other):
            longer = previous[index] + 1 if word == rival else max(previous[index + 1], row[index])
            row.append(longer)
    return row[-1]


# --- chrF


def _chrf_counts(caption: list[str], references: list[list[str]]) -> np.ndarray:
    """(18,): matching, predicted and reference n-grams of 1 to 6 characters, of the best
    reference."""
    own = count_ngrams("".join(caption), _MAX_CHARACTERS)
    rows = []
    for reference in references:
        expected = count_ngrams("".join(reference), _MAX_CHARACTERS)
        totals = [
            totals_by_length(each, _MAX_CHARACTERS) for each in (own & expected, own, expected)
        ]
        rows.append(np.array(totals, dtype=float).ravel())
    return max(rows, key=_chrf)


def _chrf(counts: np.ndarray) -> float:
    """The mean over n of the F-scores; lengths that neither side has do not count."""
    scores = []
    for matching, own, expected in counts.reshape(3, _MAX_CHARACTERS).T:
        if own and expected:
            precision, recall = matching / own, matching / expected
            below = _CHRF_BETA**2 * precision + recall
            scores.append((1 + _CHRF_BETA**2) * precision * recall / below if below else 0.0)
    return float(np.mean(scores)) if scores else 0.0
