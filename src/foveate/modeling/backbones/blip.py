"""BLIP of the transformers library: a Vision Transformer with a text decoder (Li et al. 2022).

blip:Salesforce/blip-image-captioning-base      a model of the hub
blip:FOLDER                                     a folder with config.json, model.safetensors and the
                                                files of the tokenizer
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.errors import WeightsError
from foveate.modeling.backbones import CaptioningBackbone, ModelInfo
from foveate.modeling.backbones._common import (
    CLIP_MEAN,
    CLIP_STD,
    RANDOM,
    check_size,
    feature_names,
    no_drop_path_error,
    parameter_count,
)
from foveate.modeling.backbones._hub import HubFamily, NoAnswer, first_line, hub_access, hub_error
from foveate.modeling.backbones._stages import flatten_blocks
from foveate.modeling.text_decoder import GeneratedTokens, beam_search, disable_progress_bars
from foveate.modeling.tokenizer import SubwordTokenizer
from foveate.modeling.weights import load_into, read_tensors
from foveate.types import Features, InputSpec, Provides

_PROVIDES = frozenset({Provides.POOLED, Provides.MAPS, Provides.TOKENS, Provides.TEXT_DECODER})


class BlipFamily(HubFamily):
    """Captioning networks."""

    summary: ClassVar[str] = "captioning networks (BLIP), of transformers"
    prefix: ClassVar[str] = "blip:"
    licenses: ClassVar[dict[str, str]] = {
        "Salesforce/blip-image-captioning-base": "bsd-3-clause",
        "Salesforce/blip-image-captioning-large": "bsd-3-clause",
    }

    def names(self) -> list[str]:
        return [self.prefix + name for name in self.licenses]

    def info(self, name: str) -> ModelInfo:
        config = _from_pretrained("AutoConfig", self.location(name))
        with torch.device("meta"):
            count = parameter_count(_build(config))
        return ModelInfo(
            name,
            count,
            self.license(name),
            config.vision_config.image_size,
            feature_names(_PROVIDES),
            offline=False,
        )

    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> BlipBackbone:
        if drop_path:
            raise no_drop_path_error(name)
        location = self.location(name)
        if weights in ("auto", "hub"):
            network = _from_pretrained("BlipForConditionalGeneration", location)
            origin = self.origin(name)
        else:
            network, origin = _build(_from_pretrained("AutoConfig", location)), RANDOM
            if weights != "none":
                load_into(network, read_tensors(Path(weights).expanduser()), weights)
                origin = f"file: {Path(weights).name}"
        tokenizer = _from_pretrained("AutoTokenizer", location)
        return BlipBackbone(
            network, BlipTokenizer(tokenizer, network.config.text_config), size, origin
        )


class BlipTokenizer(SubwordTokenizer):
    """The subwords of BERT, with the start and end ids of BLIP."""

    def __init__(self, tokenizer: Any, config: Any) -> None:
        self._tokenizer, self.size, self.suppressed = tokenizer, config.vocab_size, []
        self.start, self.end = config.bos_token_id, config.sep_token_id


class BlipBackbone(CaptioningBackbone):
    """A BLIP network.

    Args:
        network: The whole model of the library.
        tokenizer: The tokenizer of its decoder.
        size: Side of the input, px; None for that of the configuration.
        origin: Where the weights come from.
    """

    def __init__(
        self, network: Any, tokenizer: BlipTokenizer, size: int | None, origin: str
    ) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        self.origin, self.provides = origin, _PROVIDES
        vision = network.config.vision_config
        side = size or vision.image_size
        check_size(side, vision.patch_size)
        self.input = InputSpec(side, CLIP_MEAN, CLIP_STD)
        self.width = self.token_width = vision.hidden_size
        self.map_widths, self.map_strides = (vision.hidden_size,), (vision.patch_size,)

    def blocks(self) -> list[nn.Module]:
        vision = self.network.vision_model
        return [
            vision.embeddings,
            *flatten_blocks(vision.encoder),
            vision.post_layernorm,
            self.network.text_decoder,
        ]

    def forward(self, images: Tensor, requested: Collection[Provides]) -> Features:
        sequence: Tensor = self.network.vision_model(
            images, interpolate_pos_encoding=True
        ).last_hidden_state
        tokens, side = sequence[:, 1:], images.shape[-1] // self.map_strides[0]
        features = Features(native=sequence if Provides.TEXT_DECODER in requested else None)
        if Provides.POOLED in requested:
            features.pooled = sequence[:, 0]
        if Provides.TOKENS in requested:
            features.tokens = tokens
        if Provides.MAPS in requested:
            features.maps = [tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)]
        return features

    def next_token_logits(self, memory: Tensor, ids: Tensor) -> Tensor:
        logits: Tensor = self._decode(memory, ids).logits
        return logits

    def generate(
        self, memory: Tensor, prompt_ids: Sequence[int], max_tokens: int, beams: int
    ) -> GeneratedTokens:
        prompt = torch.tensor(list(prompt_ids), device=memory.device).expand(len(memory), -1)
        mask = torch.ones(memory.shape[:2], dtype=torch.long, device=memory.device)
        return beam_search(
            self.network.text_decoder,
            self.tokenizer,
            max_tokens,
            beams,
            input_ids=prompt,
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
        )

    def attention_maps(self, memory: Tensor, ids: Sequence[int]) -> Tensor:
        """Return the cross-attention to the image, the mean over layers and heads."""
        layers = self._decode(
            memory, torch.tensor([list(ids)], device=memory.device), output_attentions=True
        ).cross_attentions
        return torch.stack([layer[0].float().mean(0) for layer in layers]).mean(0)

    def _decode(self, memory: Tensor, ids: Tensor, **options: bool) -> Any:
        return self.network.text_decoder(
            input_ids=ids, encoder_hidden_states=memory, return_dict=True, **options
        )


def _build(config: Any) -> Any:
    from transformers import BlipForConditionalGeneration

    return BlipForConditionalGeneration(config)


def _from_pretrained(class_name: str, location: str) -> Any:
    """Load an object of the transformers library; raises WeightsError where that fails."""
    import transformers

    disable_progress_bars()
    is_folder = Path(location).is_dir()
    try:
        with hub_access(local=is_folder):
            return getattr(transformers, class_name).from_pretrained(
                location, local_files_only=is_folder
            )
    except (OSError, ValueError, KeyError, NoAnswer) as error:
        hint = (
            "a folder with config.json, model.safetensors and a tokenizer: --backbone blip:FOLDER"
        )
        if not is_folder:
            raise hub_error(f"the BLIP model {location!r}", error, hint) from None
        raise WeightsError(
            "this BLIP model cannot be loaded", where=location, why=first_line(error), hint=hint
        ) from None
