"""pooled (B, D) -> a vector for each picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveate.deploy.postprocess import Frame, PostProcessor, PredictOptions
from foveate.predictions import Embedding


class Embed(PostProcessor):
    def read(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], asked: PredictOptions
    ) -> list[Embedding]:
        return [Embedding(row.astype(np.float32)) for row in outputs["pooled"]]
