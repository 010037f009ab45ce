"""Captions from `prefix` (B, P, D), the embeddings before a sentence, by beam search.

The graph `decoder` takes `prefix` (b, P, D) and `ids` (b, T) int64, and returns `log_probs` (b, V)
of the next id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from foveate.deploy.postprocess import (
    Frame,
    PostProcessor,
    PredictOptions,
    RunGraph,
    _beam_search,
)
from foveate.modeling.tokenizer import WordTokenizer
from foveate.predictions import Text


class Caption(PostProcessor):
    """Generates a sentence for each square."""

    numpy_module: ClassVar[ModuleType] = _beam_search

    def __init__(self, metadata: dict[str, Any], graphs: Mapping[str, RunGraph]) -> None:
        super().__init__(metadata, graphs)
        self.tokenizer = WordTokenizer(metadata["vocabulary"])

    def postprocess(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], options: PredictOptions
    ) -> list[Text]:
        return [self._generate(prefix) for prefix in outputs["prefix"]]

    def _generate(self, prefix: np.ndarray) -> Text:
        """Generate the sentence after a prefix, (P, D)."""

        def next_log_probs(ids: np.ndarray) -> np.ndarray:
            repeated = np.broadcast_to(prefix, (len(ids), *prefix.shape))
            inputs = {"prefix": np.ascontiguousarray(repeated), "ids": ids}
            return self.graphs["decoder"](inputs)["log_probs"]

        ids, confidence = _beam_search.generate(next_log_probs, **self.metadata["generation"])
        tokens = tuple(map(self.tokenizer.token, ids))
        return Text((self.tokenizer.decode(ids),), confidence, tokens)
