"""CLIP and SigLIP of open_clip: images and text in one space.

Radford et al. 2021 (CLIP), Zhai et al. 2023 (SigLIP).

clip:ViT-B-32              an architecture, with its best pretrained weights
clip:ViT-B-32.openai       the same with the weights of this tag of open_clip
clip:FOLDER                a folder in the format of open_clip: open_clip_config.json beside
                           open_clip_model.safetensors
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from foveate.errors import WeightsError
from foveate.modeling.backbones import Family, ModelInfo, TextBackbone
from foveate.modeling.backbones._common import feature_names, parameter_count
from foveate.modeling.backbones._open_clip import (
    CONFIG,
    PREFIX,
    ModelConfig,
    build_network,
    image_size,
    load_tokenizer,
    load_weights,
    model_names,
    resolve_config,
    stage_shapes,
)
from foveate.modeling.backbones._stages import flatten_blocks, select_map_stages
from foveate.types import Features, InputSpec, Provides

_PROVIDES = frozenset({Provides.POOLED, Provides.MAPS, Provides.TOKENS, Provides.TEXT})


class ClipFamily(Family):
    """Models that embed images and text into one space."""

    summary: ClassVar[str] = "image and text encoders (CLIP, SigLIP), of the open_clip library"

    def names(self) -> list[str]:
        return list(model_names()) if find_spec("open_clip") else []

    def knows(self, name: str) -> bool:
        return name.startswith(PREFIX)

    def info(self, name: str) -> ModelInfo:
        with torch.device("meta"):
            network = build_network(resolve_config(name), size=None, drop_path=0.0)
        return ModelInfo(
            name=name,
            parameters=parameter_count(network),
            license="not stated",
            size=image_size(network.visual),
            provides=feature_names(_PROVIDES),
            offline=False,
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> ClipBackbone:
        config = resolve_config(name)
        network = build_network(config, size, drop_path)
        origin = load_weights(network, config, weights)
        # networks of timm have learned positions of one size, which are resized after loading
        if size and hasattr(network.visual, "trunk"):
            network.visual.set_input_size(size)
        return ClipBackbone(network, config, origin)


class ClipBackbone(TextBackbone):
    """A model of open_clip; the projected embedding of an image is its pooled vector.

    Args:
        model: A CustomTextCLIP.
        config: What its name stands for.
        origin: Where the weights come from.

    Attributes:
        network: The image network.
    """

    network: Any

    def __init__(self, model: Any, config: ModelConfig, origin: str) -> None:
        super().__init__()
        self.network, self.text = model.visual, model.text
        self.log_scale, self.offset = model.logit_scale, model.logit_bias
        self.origin, self.provides, self._config = origin, _PROVIDES, config
        mean, std = config.pixels["mean"], config.pixels["std"]
        self.input = InputSpec(
            image_size(self.network), (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
        )
        shapes = stage_shapes(self.network)
        self._stages = select_map_stages([stride for _, stride in shapes])
        self.map_widths = tuple(shapes[index][0] for index in self._stages)
        self.map_strides = tuple(shapes[index][1] for index in self._stages)
        self.token_width = self.map_widths[-1]
        self.width = config.model["embed_dim"]

    @property
    def logit_scale(self) -> Tensor:
        return cast(Tensor, self.log_scale.exp().squeeze())

    @property
    def logit_bias(self) -> Tensor:
        bias = self.log_scale.new_zeros(()) if self.offset is None else self.offset.squeeze()
        return cast(Tensor, bias)

    def blocks(self) -> list[nn.Module]:
        return flatten_blocks(self.network, wrappers=("trunk", "transformer"))

    def forward(self, images: Tensor, requested: Collection[Provides]) -> Features:
        pooled = Provides.POOLED in requested
        if not {Provides.MAPS, Provides.TOKENS} & set(requested):
            return Features(pooled=self.network(images) if pooled else None)
        # the final norm applies to maps, except for CoCa, which normalizes after its pooling
        normalize = getattr(self.network, "attn_pool", None) is None
        output = self.network.forward_intermediates(
            images,
            indices=self._stages,
            normalize_intermediates=normalize,
            intermediates_only=not pooled,
        )
        maps = output["image_intermediates"]
        return Features(
            pooled=output.get("image_features"),
            maps=maps if Provides.MAPS in requested else [],
            tokens=maps[-1].flatten(2).transpose(1, 2) if Provides.TOKENS in requested else None,
        )

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded on first use: an image classifier needs none."""
        return load_tokenizer(self._config)

    @property
    def _embedding(self) -> Any:
        return self.text.token_embedding

    def tokenize(self, sentences: Sequence[str]) -> Tensor:
        ids: Tensor = self.tokenizer(list(sentences))
        size = self._embedding.num_embeddings
        if int(ids.max()) >= size:
            raise WeightsError(
                "the tokenizer does not belong to the text network",
                where=self._config.label,
                why=f"the network has {size} tokens, the tokenizer gave the id {int(ids.max())}",
                hint=f"name the right tokenizer in {CONFIG} (text_cfg: hf_tokenizer_name)",
            )
        return ids.to(self._embedding.weight.device)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return cast(Tensor, self._embedding(ids))

    def encode_embeddings(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """Run the text network with its embedding layer replaced.

        Masks and pooling thus remain those of open_clip.
        """
        hook = self._embedding.register_forward_hook(lambda *_: embeddings)
        try:
            return cast(Tensor, self.text(ids))
        finally:
            hook.remove()
