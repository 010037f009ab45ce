"""Sentences <-> numbers: a vocabulary of whole words that the training sentences use, or the subwords of a pretrained model."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

_PIECE = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_TIGHT = re.compile(
    r"\s+([.,;:!?%)\]}’])|([(\[{])\s+|\s+(-)\s+"
)  # punctuation that stands close to what is before or behind it
_MOST_WORDS = 20_000
END, START, UNKNOWN = 0, 1, 2


class Tokenizer(ABC):
    """`size`: how many numbers there are; `start`, `end`: those that open and close a sentence; `banned`: those that no answer
    has."""

    size: int
    start: int
    end: int
    suppressed: list[int]

    @abstractmethod
    def encode(self, sentence: str) -> list[int]:
        """Without start and end."""

    @abstractmethod
    def decode(self, numbers: Sequence[int]) -> str:
        """The sentence, without start and end."""

    @abstractmethod
    def token(self, number: int) -> str:
        """What one number stands for."""


class WordTokenizer(Tokenizer):
    """Lower-case words and marks of punctuation, listed; others are unknown."""

    start, end = START, END

    def __init__(self, words: Sequence[str]) -> None:
        self.tokens = ["", "", "…", *words]
        self.size, self.suppressed = len(self.tokens), [START, UNKNOWN]
        self._numbers = {word: number for number, word in enumerate(self.tokens) if number > UNKNOWN}

    @staticmethod
    def build_vocabulary(sentences: Iterable[str]) -> list[str]:
        """The words to list, the most frequent first; at most 20,000."""
        counted = Counter(piece for sentence in sentences for piece in split_words(sentence))
        return [
            word
            for word, _ in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))[
                :_MOST_WORDS
            ]
        ]

    def encode(self, sentence: str) -> list[int]:
        return [self._numbers.get(piece, UNKNOWN) for piece in split_words(sentence)]

    def decode(self, numbers: Sequence[int]) -> str:
        return _TIGHT.sub(
            r"\1\2\3", " ".join(self.tokens[number] for number in numbers if number > START)
        )

    def token(self, number: int) -> str:
        return self.tokens[number]


class SubwordTokenizer(Tokenizer):
    """Those of a tokenizer of the transformers library."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.size, self.end = len(tokenizer), int(tokenizer.eos_token_id)
        self.start = self.end if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
        self.suppressed = []

    def encode(self, sentence: str) -> list[int]:
        return list(self._tokenizer(" " + sentence, add_special_tokens=False)["input_ids"])

    def decode(self, numbers: Sequence[int]) -> str:
        return " ".join(self._tokenizer.decode(numbers, skip_special_tokens=True).split())

    def token(self, number: int) -> str:
        return str(self._tokenizer.decode([number])).strip()


def split_words(sentence: str) -> list[str]:
    """Its words and punctuation, in lower case."""
    return _PIECE.findall(sentence.lower())
