"""A vector for each image from `pooled` (B, D), the features of a pretrained backbone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveate.deploy.postprocess import Frame, PostProcessor, PredictOptions
from foveate.predictions import Embedding


class Embed(PostProcessor):
    """Returns the features as they are."""

    def postprocess(
        self, outputs: dict[str, np.ndarray], frames: Sequence[Frame], options: PredictOptions
    ) -> list[Embedding]:
        return [Embedding(row.astype(np.float32)) for row in outputs["pooled"]]
