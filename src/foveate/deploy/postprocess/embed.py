"""pooled (B, D) -> a vector for each picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveate.deploy.postprocess import Asked, Frame, Reader
from foveate.predictions import Embedding


class Embed(Reader):
    def read(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], asked: Asked
    ) -> list[Embedding]:
        return [Embedding(row.astype(np.float32)) for row in outputs["pooled"]]
