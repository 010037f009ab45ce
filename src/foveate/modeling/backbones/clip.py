"""CLIP and SigLIP, by open_clip: images and sentences in one space (Radford et al. 2021, Zhai et al. 2023).

clip:ViT-B-32              an architecture, with the pretrained weights that suit it best
clip:ViT-B-32.openai       the same with the weights of this tag of open_clip's
clip:FOLDER                a folder in open_clip's format: open_clip_config.json beside open_clip_model.safetensors
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
    summary: ClassVar[str] = "images and sentences in one space, of the open_clip library"

    def names(self) -> list[str]:
        return list(model_names()) if find_spec("open_clip") else []

    def knows(self, name: str) -> bool:
        return name.startswith(PREFIX)

    def info(self, name: str) -> ModelInfo:
        with torch.device("meta"):
            network = build_network(resolve_config(name), size=None, drop_path=0.0)
        return ModelInfo(
            name=name,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            license="not stated",
            size=image_size(network.visual),
            provides=tuple(sorted(word.value for word in _PROVIDES)),
            offline=False,
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> ClipBackbone:
        plan = resolve_config(name)
        network = build_network(plan, size, drop_path)
        origin = load_weights(network, plan, weights)
        if size and hasattr(
            network.visual, "trunk"
        ):  # timm's networks learn positions at one size; they are stretched afterwards
            network.visual.set_input_size(size)
        return ClipBackbone(network, plan, origin)


class ClipBackbone(TextBackbone):
    """open_clip's two networks. `network` is that of the images; its projected embedding is the pooled vector."""

    network: Any

    def __init__(self, whole: Any, plan: ModelConfig, origin: str) -> None:
        super().__init__()
        self.network, self.text, self.log_scale, self.offset = (
            whole.visual,
            whole.text,
            whole.logit_scale,
            whole.logit_bias,
        )
        self.origin, self.provides, self._plan = origin, _PROVIDES, plan
        mean, std = plan.pixels["mean"], plan.pixels["std"]
        self.input = InputSpec(
            image_size(self.network), (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
        )
        found = stage_shapes(self.network)
        self._taken = select_map_stages([stride for _, stride in found])
        self.map_widths = tuple(found[index][0] for index in self._taken)
        self.map_strides = tuple(found[index][1] for index in self._taken)
        self.token_width = self.map_widths[-1]
        self.width = plan.model["embed_dim"]

    @property
    def logit_scale(self) -> Tensor:
        return cast(Tensor, self.log_scale.exp().squeeze())

    @property
    def logit_bias(self) -> Tensor:
        return cast(
            Tensor, self.log_scale.new_zeros(()) if self.offset is None else self.offset.squeeze()
        )

    def blocks(self) -> list[nn.Module]:
        return flatten_blocks(self.network, wrappers=("trunk", "transformer"))

    def forward(self, images: Tensor, wants: Collection[Provides]) -> Features:
        pooled = Provides.POOLED in wants
        if not {Provides.MAPS, Provides.TOKENS} & set(wants):
            return Features(pooled=self.network(images) if pooled else None)
        found = self.network.forward_intermediates(
            images,
            indices=self._taken,
            normalize_intermediates=getattr(self.network, "attn_pool", None)
            is None,  # CoCa normalises after its pooling
            intermediates_only=not pooled,
        )
        maps = found["image_intermediates"]
        return Features(
            pooled=found.get("image_features"),
            maps=maps if Provides.MAPS in wants else [],
            tokens=maps[-1].flatten(2).transpose(1, 2) if Provides.TOKENS in wants else None,
        )

    @cached_property
    def tokenizer(self) -> Any:
        """Opened on first use: a classifier of images needs none."""
        return load_tokenizer(self._plan)

    @property
    def _table(self) -> Any:
        return self.text.token_embedding

    def tokenize(self, sentences: Sequence[str]) -> Tensor:
        ids: Tensor = self.tokenizer(list(sentences))
        if int(ids.max()) >= self._table.num_embeddings:
            what = f"the text network knows {self._table.num_embeddings} tokens, its tokenizer gave number {int(ids.max())}"
            hint = f"name its own tokenizer in {CONFIG} (text_cfg: hf_tokenizer_name)"
            raise WeightsError(
                what, where=self._plan.label, why="they were not made for each other", hint=hint
            )
        return ids.to(self._table.weight.device)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return cast(Tensor, self._table(ids))

    def encode_embeddings(self, words: Tensor, ids: Tensor) -> Tensor:
        """The text network runs as it is, so that masks and pooling stay open_clip's; its table alone answers otherwise."""
        hook = self._table.register_forward_hook(lambda *_: words)
        try:
            return cast(Tensor, self.text(ids))
        finally:
            hook.remove()
