"""before (B, P, D), what stands before a sentence, and the graph `words`, (b, P, D) and (b, T) numbers -> (b, V) -> sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from foveate.deploy.postprocess import Frame, PostProcessor, PredictOptions, Run, _sentences
from foveate.modeling.tokenizer import WordTokenizer
from foveate.predictions import Text


class Caption(PostProcessor):
    arithmetic: ClassVar[ModuleType] = _sentences

    def __init__(self, about: dict[str, Any], parts: Mapping[str, Run]) -> None:
        super().__init__(about, parts)
        self.words = WordTokenizer(about["words"])

    def read(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], asked: PredictOptions
    ) -> list[Text]:
        return [self._about(each) for each in outputs["before"]]

    def _about(self, before: np.ndarray) -> Text:
        """The sentence behind (P, D)."""

        def logs(numbers: np.ndarray) -> np.ndarray:
            same = np.broadcast_to(before, (len(numbers), *before.shape))
            return self.parts["words"]({"before": np.ascontiguousarray(same), "numbers": numbers})[
                "logs"
            ]

        numbers, sure = _sentences.written(logs, **self.about["search"])
        return Text((self.words.decode(numbers),), sure, tuple(map(self.words.token, numbers)))
