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
from foveate.modeling.backbones._native import KINDS, NativeNetwork, config_of, filled
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
        config = config_of(name.removeprefix(PREFIX))
        with torch.device("meta"):
            network: Any = KINDS[config.model_type].model()(config)
        return ModelInfo(
            name=name,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            licence=_KNOWN.get(name.removeprefix(PREFIX), "not stated"),
            size=config.vision_config.image_size,
            provides=(Provides.NATIVE.value,),
            offline=False,
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> NativeNetwork:
        if drop_path:
            raise UsageError(
                f"the backbone {name!r} has no stochastic depth", hint="--set training.drop_path=0"
            )
        place = name.removeprefix(PREFIX)
        config = config_of(place)
        kind = KINDS[config.model_type]
        network = kind.model()(config)
        origin = filled(network, place, weights)
        return kind(network, place, origin, size)
