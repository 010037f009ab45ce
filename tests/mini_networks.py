"""Networks of timm's families with the strides, padding and names of the large ones, but narrow.

`vgg11` has 130 million parameters, and creating it takes longer than most tests. These networks are
registered with timm (conftest.py imports this module) and are opened by name like any other. The
large ones are tested once, in test_backbones.py.
"""

from __future__ import annotations

import importlib
from typing import Any
from unittest import mock

from timm.layers import ConvNormAct
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.densenet import DenseNet
from timm.models.inception_v3 import InceptionV3
from timm.models.swin_transformer import SwinTransformer
from timm.models.vgg import VGG

_DIVISOR = 8  # of the channels of an Inception, all of which are multiples of 16


def _config(side: int, classifier: str, first: str) -> dict[str, Any]:
    normal = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return {"input_size": (3, side, side), "classifier": classifier, "first_conv": first, **normal}


default_cfgs = generate_default_cfgs(
    {
        "mini_vgg": _config(224, "head.fc", "features.0"),
        "mini_densenet": _config(224, "classifier", "features.conv0"),
        "mini_inception": _config(299, "fc", "Conv2d_1a_3x3.conv"),
        "mini_swin": _config(224, "head.fc", "patch_embed.proj"),
    }
)


@register_model
def mini_vgg(pretrained: bool = False, **options: Any) -> Any:
    """VGG-11: plain convolutions, a first map of full size, a pooled vector through two layers."""
    layers = [8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"]
    return build_model_with_cfg(
        VGG, "mini_vgg", pretrained, model_cfg=layers, mlp_ratio=1 / 64, **options
    )


@register_model
def mini_densenet(pretrained: bool = False, **options: Any) -> Any:
    return build_model_with_cfg(
        DenseNet, "mini_densenet", pretrained, growth_rate=8, block_config=(2, 2, 2, 2), **options
    )


@register_model
def mini_swin(pretrained: bool = False, **options: Any) -> Any:
    sizes = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
    return build_model_with_cfg(
        SwinTransformer, "mini_swin", pretrained, patch_size=4, window_size=7, **sizes, **options
    )


class _NarrowConv(ConvNormAct):
    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        channels = in_channels if in_channels == 3 else in_channels // _DIVISOR
        super().__init__(channels, out_channels // _DIVISOR, **options)


class _MiniInception(InceptionV3):
    """Its convolutions do not pad, so that maps are smaller than image size / stride."""

    def __init__(self, **options: Any) -> None:
        module = importlib.import_module("timm.models.inception_v3")  # a function has the same name
        with mock.patch.object(module, "ConvNormAct", _NarrowConv):
            super().__init__(**options)
        self.num_features //= _DIVISOR
        self.head_hidden_size //= _DIVISOR
        for stage in self.feature_info:
            stage["num_chs"] //= _DIVISOR
        self.reset_classifier(self.num_classes)


@register_model
def mini_inception(pretrained: bool = False, **options: Any) -> Any:
    return build_model_with_cfg(_MiniInception, "mini_inception", pretrained, **options)
