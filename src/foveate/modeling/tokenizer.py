"""Tokenizers: text to token ids and back, by whole words or by the subwords of a pretrained model.

Imports no torch, because exported caption models are run with it too.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
# punctuation without a space before it, after it, or on either side
_TIGHT = re.compile(r"\s+([.,;:!?%)\]}’])|([(\[{])\s+|\s+(-)\s+")
_MAX_VOCABULARY = 20_000
END, START, UNKNOWN = 0, 1, 2  # ids of a WordTokenizer


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        size: Number of ids.
        start: Id that begins a sequence.
        end: Id that ends a sequence.
        suppressed: Ids that are never generated.
    """

    size: int
    start: int
    end: int
    suppressed: list[int]

    @abstractmethod
    def encode(self, sentence: str) -> list[int]:
        """Return the ids of a sentence, without start and end."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the sentence of some ids, without start and end."""

    @abstractmethod
    def token(self, id: int) -> str:
        """Return the text of one id."""


class WordTokenizer(Tokenizer):
    """Lower-case words and punctuation marks of a given vocabulary; others are unknown."""

    start, end = START, END

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.tokens = ["", "", "…", *vocabulary]
        self.size, self.suppressed = len(self.tokens), [START, UNKNOWN]
        self._ids = {token: id for id, token in enumerate(self.tokens) if id > UNKNOWN}

    @staticmethod
    def build_vocabulary(sentences: Iterable[str]) -> list[str]:
        """Return the words of some sentences, the most frequent first, at most 20,000."""
        counts = Counter(word for sentence in sentences for word in split_words(sentence))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return [word for word, _ in ranked[:_MAX_VOCABULARY]]

    def encode(self, sentence: str) -> list[int]:
        return [self._ids.get(word, UNKNOWN) for word in split_words(sentence)]

    def decode(self, ids: Sequence[int]) -> str:
        return _TIGHT.sub(r"\1\2\3", " ".join(self.tokens[id] for id in ids if id > START))

    def token(self, id: int) -> str:
        return self.tokens[id]


class SubwordTokenizer(Tokenizer):
    """A tokenizer of the transformers library."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.size, self.end = len(tokenizer), int(tokenizer.eos_token_id)
        self.start = self.end if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
        self.suppressed = []

    def encode(self, sentence: str) -> list[int]:
        return list(self._tokenizer(" " + sentence, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self._tokenizer.decode(ids, skip_special_tokens=True).split())

    def token(self, id: int) -> str:
        return str(self._tokenizer.decode([id])).strip()


def split_words(sentence: str) -> list[str]:
    """Split a sentence into lower-case words and punctuation marks."""
    return _WORD.findall(sentence.lower())
