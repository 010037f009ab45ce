"""Networks of the transformers library that find what they are asked for in words: OWLv2 (boxes, Minderer et al. 2023) and
CLIPSeg (pixels, Lueddecke and Ecker 2022).

    hf:google/owlv2-base-patch16-ensemble      a model of the hub
    hf:FOLDER                                  a folder with config.json, model.safetensors and the tokenizer's files
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from foveate.errors import UsageError
from foveate.modeling.backbones import Family, ModelInfo
from foveate.modeling.backbones._native import (
    BACKBONE_CLASSES,
    OpenVocabularyBackbone,
    load_config,
    load_weights,
)
from foveate.types import Provides

PREFIX = "hf:"
_KNOWN = {  # names on the hub, and the licences of their cards
    "google/owlv2-base-patch16-ensemble": "apache-2.0",
    "google/owlv2-large-patch14-ensemble": "apache-2.0",
    "CIDAS/clipseg-rd64-refined": "apache-2.0",
}


class TransformersFamily(Family):
    summary: ClassVar[str] = (
        "networks that find what they are asked for in words, of the transformers library"
    )

    def names(self) -> list[str]:
        return [PREFIX + name for name in _KNOWN]

    def knows(self, name: str) -> bool:
        return name.startswith(PREFIX)

    def info(self, name: str) -> ModelInfo:
        config = load_config(name.removeprefix(PREFIX))
        with torch.device("meta"):
            network: Any = BACKBONE_CLASSES[config.model_type].model_class()(config)
        return ModelInfo(
            name=name,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            license=_KNOWN.get(name.removeprefix(PREFIX), "not stated"),
            size=config.vision_config.image_size,
            provides=(Provides.NATIVE.value,),
            offline=False,
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> OpenVocabularyBackbone:
        if drop_path:
            raise UsageError(
                f"the backbone {name!r} has no stochastic depth", hint="--set training.drop_path=0"
            )
        place = name.removeprefix(PREFIX)
        config = load_config(place)
        kind = BACKBONE_CLASSES[config.model_type]
        network = kind.model_class()(config)
        origin = load_weights(network, place, weights)
        return kind(network, place, origin, size)
