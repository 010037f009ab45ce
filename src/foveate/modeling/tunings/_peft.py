"""Base class of methods of the peft library: parameters added to frozen layers."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from foveate.modeling.tunings import Adaptable, Tuning
from foveate.modeling.tunings._layers import active_layers, is_linear_or_conv

ADAPTER = "default"  # peft's name of the only adapter


class PeftTuning(Tuning):
    """Base of methods of the peft library.

    Attributes:
        layer_kind: What the backbone lacks when no layer is supported, for the error message.
    """

    layerwise: ClassVar[bool] = False
    trains_norms: ClassVar[bool] = False
    layer_kind: ClassVar[str] = "linear layer and no ungrouped convolution"
    tuner: Any  # peft's object; some methods keep tensors there that all layers share

    @staticmethod
    def supports(module: nn.Module) -> bool:
        """Whether the method can adapt this layer."""
        return is_linear_or_conv(module)

    def targets(self, model: Adaptable) -> list[str]:
        """Return the names of the layers that it adapts."""
        return active_layers(model.backbone, self.supports, self.layer_kind)

    @abstractmethod
    def config(self, model: Adaptable, targets: list[str]) -> Any:
        """Return the configuration of peft for these layers."""

    def apply(self, model: Adaptable) -> None:
        config = self.config(model, self.targets(model))
        model.backbone.requires_grad_(False)
        with warnings.catch_warnings():
            # peft warns about layer types that were left out on purpose
            warnings.simplefilter("ignore")
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
