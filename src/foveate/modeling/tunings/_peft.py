"""Methods of the peft library: added parameters beside or around frozen layers."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from foveate.modeling.tunings import Adaptable, Tuning
from foveate.modeling.tunings._layers import called, is_plain

ADAPTER = "default"  # peft's name of the only adapter


class PeftTuning(Tuning):
    """What the files of peft's methods share. `lacks`: what a backbone has none of when nothing `fits`."""

    layerwise: ClassVar[bool] = False
    lacks: ClassVar[str] = "linear layer and no ungrouped convolution"
    tuner: Any  # peft's own object: some methods keep tensors there that all layers share

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether the method can stand beside this layer."""
        return is_plain(module)

    def targets(self, model: Adaptable) -> list[str]:
        """The names of the layers that it stands beside."""
        return called(model.backbone, self.fits, self.lacks)

    @abstractmethod
    def config(self, model: Adaptable, targets: list[str]) -> Any:
        """peft's configuration for the layers of these names."""

    def apply(self, model: Adaptable) -> None:
        config = self.config(model, self.targets(model))
        model.backbone.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # peft warns about layer types that were left out on purpose
            self.tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](
                model.backbone, config, ADAPTER
            )
        model.head.requires_grad_(True)

    def merge(self, model: Adaptable) -> None:
        super().merge(model)
        for parent in list(model.backbone.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, BaseTunerLayer):
                    child.merge(safe_merge=True)
                    setattr(parent, name, child.get_base_layer())
