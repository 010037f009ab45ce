"""Open-vocabulary networks of the transformers library.

OWLv2 (boxes, Minderer et al. 2023) and CLIPSeg (masks, Lüddecke and Ecker 2022).

    hf:google/owlv2-base-patch16-ensemble      a model of the hub
    hf:FOLDER                                  a folder with config.json, model.safetensors and the
                                               files of the tokenizer
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from foveate.modeling.backbones import Family, ModelInfo
from foveate.modeling.backbones._common import no_drop_path_error, parameter_count
from foveate.modeling.backbones._native import (
    BACKBONE_CLASSES,
    OpenVocabularyBackbone,
    load_config,
    load_weights,
)
from foveate.types import Provides

PREFIX = "hf:"
_LICENSES = {  # by name on the hub, as its model card states it
    "google/owlv2-base-patch16-ensemble": "apache-2.0",
    "google/owlv2-large-patch14-ensemble": "apache-2.0",
    "CIDAS/clipseg-rd64-refined": "apache-2.0",
}


class TransformersFamily(Family):
    """Detectors and segmenters whose classes are given as text."""

    summary: ClassVar[str] = "open-vocabulary detection and segmentation, of transformers"

    def names(self) -> list[str]:
        return [PREFIX + name for name in _LICENSES]

    def knows(self, name: str) -> bool:
        return name.startswith(PREFIX)

    def info(self, name: str) -> ModelInfo:
        location = name.removeprefix(PREFIX)
        config = load_config(location)
        with torch.device("meta"):
            network: Any = BACKBONE_CLASSES[config.model_type].model_class()(config)
        return ModelInfo(
            name=name,
            parameters=parameter_count(network),
            license=_LICENSES.get(location, "not stated"),
            size=config.vision_config.image_size,
            provides=(Provides.NATIVE.value,),
            offline=False,
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> OpenVocabularyBackbone:
        if drop_path:
            raise no_drop_path_error(name)
        location = name.removeprefix(PREFIX)
        config = load_config(location)
        backbone_class = BACKBONE_CLASSES[config.model_type]
        network = backbone_class.model_class()(config)
        origin = load_weights(network, location, weights)
        return backbone_class(network, location, origin, size)
