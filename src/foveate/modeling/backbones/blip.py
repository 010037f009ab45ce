"""BLIP, of the transformers library: a Vision Transformer and the decoder that writes about what it sees (Li et al. 2022).

blip:Salesforce/blip-image-captioning-base      a model of the hub
blip:FOLDER                                     a folder with config.json, model.safetensors and the tokenizer's files
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.errors import UsageError, WeightsError
from foveate.modeling.backbones import CaptioningBackbone, ModelInfo
from foveate.modeling.backbones._hub import HubFamily, first_line, hub_error
from foveate.modeling.backbones._stages import flatten_blocks
from foveate.modeling.text_decoder import GeneratedTokens, beam_search, disable_progress_bars
from foveate.modeling.tokenizer import SubwordTokenizer
from foveate.modeling.weights import load_into, read_tensors
from foveate.types import Features, InputSpec, Provides

_PROVIDES = frozenset({Provides.POOLED, Provides.MAPS, Provides.TOKENS, Provides.WORDS})
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class BlipFamily(HubFamily):
    summary: ClassVar[str] = "networks that write about pictures, of the transformers library"
    prefix: ClassVar[str] = "blip:"
    licenses: ClassVar[dict[str, str]] = {
        "Salesforce/blip-image-captioning-base": "bsd-3-clause",
        "Salesforce/blip-image-captioning-large": "bsd-3-clause",
    }

    def names(self) -> list[str]:
        return [self.prefix + name for name in self.licenses]

    def info(self, name: str) -> ModelInfo:
        config = _had("AutoConfig", self.location(name))
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in _network(config).parameters())
        provides = tuple(sorted(word.value for word in _PROVIDES))
        return ModelInfo(
            name,
            count,
            self.license(name),
            config.vision_config.image_size,
            provides,
            offline=False,
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> BlipBackbone:
        if drop_path:
            raise UsageError(
                f"the backbone {name!r} has no stochastic depth", hint="--set training.drop_path=0"
            )
        place = self.location(name)
        if weights in ("auto", "hub"):
            network, origin = _had("BlipForConditionalGeneration", place), self.origin(name)
        else:
            network, origin = (
                _network(_had("AutoConfig", place)),
                "random, as asked with --weights none",
            )
            if weights != "none":
                load_into(network, read_tensors(Path(weights).expanduser()), weights)
                origin = f"file: {Path(weights).name}"
        return BlipBackbone(
            network,
            BlipTokenizer(_had("AutoTokenizer", place), network.config.text_config),
            size,
            origin,
        )


class BlipTokenizer(SubwordTokenizer):
    """BERT's subwords, with the numbers by which BLIP begins and ends."""

    def __init__(self, tokenizer: Any, plan: Any) -> None:
        self._tokenizer, self.size, self.suppressed = tokenizer, plan.vocab_size, []
        self.start, self.end = plan.bos_token_id, plan.sep_token_id


class BlipBackbone(CaptioningBackbone):
    """`network`: the whole model of the library."""

    def __init__(self, network: Any, vocabulary: BlipTokenizer, size: int | None, origin: str) -> None:
        super().__init__()
        self.network, self.tokenizer, self.origin, self.provides = (
            network,
            vocabulary,
            origin,
            _PROVIDES,
        )
        plan = network.config.vision_config
        side = size or plan.image_size
        if side % plan.patch_size:
            hint = f"--size {max(1, side // plan.patch_size) * plan.patch_size}"
            raise UsageError(
                f"BLIP wants a size that {plan.patch_size} divides, not {side}",
                where="backbone.size",
                hint=hint,
            )
        self.input = InputSpec(side, _MEAN, _STD)
        self.width = self.token_width = plan.hidden_size
        self.map_widths, self.map_strides = (plan.hidden_size,), (plan.patch_size,)

    def blocks(self) -> list[nn.Module]:
        vision = self.network.vision_model
        return [
            vision.embeddings,
            *flatten_blocks(vision.encoder),
            vision.post_layernorm,
            self.network.text_decoder,
        ]

    def forward(self, images: Tensor, wants: Collection[Provides]) -> Features:
        every: Tensor = self.network.vision_model(
            images, interpolate_pos_encoding=True
        ).last_hidden_state
        tokens, side = every[:, 1:], images.shape[-1] // self.map_strides[0]
        found = Features(native=every if Provides.WORDS in wants else None)
        if Provides.POOLED in wants:
            found.pooled = every[:, 0]
        if Provides.TOKENS in wants:
            found.tokens = tokens
        if Provides.MAPS in wants:
            found.maps = [tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)]
        return found

    def next_token_logits(self, memory: Tensor, numbers: Tensor) -> Tensor:
        found: Tensor = self._decoded(memory, numbers).logits
        return found

    def generate(self, memory: Tensor, opening: Sequence[int], most: int, beams: int) -> GeneratedTokens:
        given = torch.tensor(list(opening), device=memory.device).expand(len(memory), -1)
        there = torch.ones(memory.shape[:2], dtype=torch.long, device=memory.device)
        seen = {
            "input_ids": given,
            "encoder_hidden_states": memory,
            "encoder_attention_mask": there,
        }
        return beam_search(self.network.text_decoder, self.tokenizer, most, beams, **seen)

    def attention_maps(self, memory: Tensor, numbers: Sequence[int]) -> Tensor:
        """Attention to the picture, the mean over layers and heads."""
        seen = self._decoded(
            memory, torch.tensor([list(numbers)], device=memory.device), output_attentions=True
        ).cross_attentions
        return torch.stack([layer[0].float().mean(0) for layer in seen]).mean(0)

    def _decoded(self, memory: Tensor, numbers: Tensor, **more: bool) -> Any:
        return self.network.text_decoder(
            input_ids=numbers, encoder_hidden_states=memory, return_dict=True, **more
        )


def _network(config: Any) -> Any:
    from transformers import BlipForConditionalGeneration

    return BlipForConditionalGeneration(config)


def _had(kind: str, place: str) -> Any:
    """What the library opens at this place; raises WeightsError where there is none."""
    import transformers

    disable_progress_bars()
    here = Path(place).is_dir()
    try:
        return getattr(transformers, kind).from_pretrained(place, local_files_only=here)
    except (OSError, ValueError, KeyError) as error:
        hint = (
            "a folder with config.json, model.safetensors and a tokenizer: --backbone blip:FOLDER"
        )
        if not here:
            raise hub_error(f"BLIP's {place!r}", error, hint) from None
        raise WeightsError(
            "this BLIP cannot be opened", where=place, why=first_line(error), hint=hint
        ) from None
