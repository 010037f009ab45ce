"""Backbones: networks without a task, and the families that open them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.errors import UnknownName, UsageError
from foveate.modeling.first_layer import widen_first_layers
from foveate.modeling.text_decoder import GeneratedTokens
from foveate.modeling.tokenizer import Tokenizer
from foveate.predictions import Prediction
from foveate.registry import Registry
from foveate.types import Features, InputSpec, Provides


class Backbone(nn.Module, ABC):
    """A network without a task.

    Attributes:
        provides: What `forward` can compute.
        input: The input that it expects.
        width: D, the width of the pooled vector.
        map_widths: Channels C_i of the maps, finest first.
        map_strides: Their strides, in pixels of the input; approximate for convolutions without
            padding, which lose some pixels at the borders.
        token_width: Width of the tokens.
        origin: Where the weights come from, as shown to the user.
    """

    provides: frozenset[Provides]
    input: InputSpec
    width: int
    map_widths: tuple[int, ...]
    map_strides: tuple[int, ...]
    token_width: int
    origin: str

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Return the modules of the image network from input to output.

        Together they hold all of its parameters, except those that belong to no module of their own
        (positions, class tokens, a bare projection).
        """

    @abstractmethod
    def forward(self, images: Tensor, requested: Collection[Provides]) -> Features:
        """Compute features in one pass.

        Args:
            images: (B, 3, H, W) float32, normalized; other channels after `widen_input`.
            requested: The features to compute. What is not a feature of an image (TEXT) is ignored.
        """

    def widen_input(self, channels: int) -> None:
        """Widen the first layer, so that the network takes other channels than red, green and blue.

        The weights are repeated over the channels and scaled, so that their sum is about what it
        was. The normalization becomes the mean of that of the three channels.

        Args:
            channels: Number of channels.

        Raises:
            UsageError: The network does not allow it.
        """
        widened, spec = widen_first_layers(self, channels), self.input
        mean, std = (sum(values) / len(values) for values in (spec.mean, spec.std))
        self.input = replace(spec, mean=(mean,) * channels, std=(std,) * channels)
        try:
            with torch.inference_mode():
                self.eval()(torch.zeros(1, channels, spec.size, spec.size), self.provides)
        except (RuntimeError, ValueError, AssertionError):
            widened = False
        if not widened:
            raise no_bands_error()

    def probe(self, images: Tensor) -> None:
        """Call every layer that may be used once, for callers that record which these are."""
        self(images, self.provides)

    def enable_checkpointing(self) -> None:
        """Recompute activations in the backward pass from now on, to save memory.

        Raises:
            UsageError: The network does not support it.
        """
        raise UsageError(
            "this backbone does not support activation checkpointing",
            where="training.gradient_checkpointing",
            hint="a smaller --batch-size",
        )

    def patch_grid(self) -> tuple[int, int]:
        """Return the number of patches along a side of the input, and the side of a patch in px.

        Raises:
            UsageError: The network does not work on patches.
        """
        raise no_patches_error()

    def encode_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """Encode a subset of the patches, as masked autoencoders need it (MAE, He et al. 2022).

        Args:
            images: (B, 3, H, W), normalized.
            visible: (B, K) int64, indices of the patches that the network sees.

        Returns:
            Tokens (B, K, D).

        Raises:
            UsageError: The network does not work on patches.
        """
        raise no_patches_error()


def no_bands_error() -> UsageError:
    """Return the error of backbones that take nothing but red, green and blue."""
    return UsageError(
        "this backbone takes three bands only",
        where="backbone.name",
        hint="a network of timm, such as tf_efficientnet_lite0, resnet50 or vit_small_patch16_224; "
        "or three bands: --set data.bands=[1,2,3]",
    )


def no_patches_error() -> UsageError:
    """Return the error of backbones that cannot encode a subset of patches."""
    return UsageError(
        "this backbone cannot skip patches",
        where="backbone.name",
        hint="a plain Vision Transformer, such as vit_small_patch16_224, or --objective simmim, "
        "which works with any network",
    )


class TextBackbone(Backbone):
    """A backbone that embeds text into the space of its pooled vectors: it provides TEXT.

    Letters: K sentences, L tokens in each, W width of a token, D width of the pooled vector.

    Attributes:
        text: The text network; `blocks` does not include it.
    """

    text: nn.Module

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """Scalar: scale * cosine + bias is the logit that an image and a sentence match."""

    @property
    @abstractmethod
    def logit_bias(self) -> Tensor:
        """Scalar; 0 where the model was trained without one."""

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        """Return embeddings (K, D), not normalized; gradients may flow.

        Raises:
            WeightsError: The files of the tokenizer are missing.
        """
        ids = self.tokenize(sentences)
        return self.encode_embeddings(self.embed_tokens(ids), ids)

    @abstractmethod
    def tokenize(self, sentences: Sequence[str]) -> Tensor:
        """Return token ids (K, L) int64, with start and end, padded and cut as in training."""

    @abstractmethod
    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Return the token embeddings (K, L, W) of ids (K, L), without positions."""

    @abstractmethod
    def encode_embeddings(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """Run the text network on given token embeddings, as learned prompts need it.

        Args:
            embeddings: (K, L, W).
            ids: (K, L), which show the end of each sentence and its padding.

        Returns:
            (K, D).
        """


@dataclass
class Conditioning:
    """Encoded prompts.

    Attributes:
        embeddings: (B, L, W).
        mask: (B, L) bool, False for padding.
    """

    embeddings: Tensor
    mask: Tensor


class DiffusionBackbone(Backbone):
    """A denoiser: it provides NOISE, and no features.

    Letters: B images, C, h, w of the space that it denoises in, L tokens of a prompt, W their
    width. Times (B,) run from 0, the image, to 1, pure noise.

    Attributes:
        latent_shape: (C, h, w).
        conditioning_width: W.
        encodes_text: Whether it has a text encoder, `encode_prompts`.
    """

    latent_shape: tuple[int, int, int]
    conditioning_width: int
    encodes_text: bool

    def forward(self, images: Tensor, requested: Collection[Provides]) -> Features:
        raise UsageError(
            "this backbone generates images and computes no features",
            where="backbone.name",
            hint="--task generate",
        )

    def widen_input(self, channels: int) -> None:
        raise no_bands_error()

    def probe(self, images: Tensor) -> None:
        count, device = len(images), images.device
        self.denoise(
            torch.zeros(count, *self.latent_shape, device=device),
            torch.full((count,), 0.5, device=device),
            Conditioning(
                torch.zeros(count, 1, self.conditioning_width, device=device),
                torch.ones(count, 1, dtype=torch.bool, device=device),
            ),
        )

    def frozen_modules(self) -> list[nn.Module]:
        """Return the modules that no tuning trains."""
        return []

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, S, S), normalized, into latents (B, C, h, w), without gradients."""

    @abstractmethod
    def decode(self, clean: Tensor) -> Tensor:
        """Turn latents (B, C, h, w) into images (B, 3, S, S), normalized."""

    def sample_times(self, count: int) -> Tensor:
        """Draw (count,) times to train at, from torch's global generator."""
        return torch.rand(count)

    @abstractmethod
    def add_noise(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the noisy latents at these times, all (B, C, h, w)."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the output that the network is trained for (B, C, h, w)."""

    @abstractmethod
    def denoise(self, noisy: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the output of the network (B, C, h, w)."""

    @abstractmethod
    def predict_x0_eps(self, noisy: Tensor, output: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Split noisy latents into clean latents and noise, by the output of the network."""

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts; an empty one is unconditional.

        Raises:
            UsageError: The backbone has no text encoder.
        """
        raise UsageError("this backbone has no text encoder", where="backbone.name")


class CaptioningBackbone(Backbone):
    """A backbone with a text decoder of its own: it provides WORDS.

    Its features are (B, N, D), in `native`; the last h * w tokens lie in a grid.

    Letters: B images, N tokens of an image, D width, T token ids, V size of the vocabulary.

    Attributes:
        tokenizer: The tokenizer of the decoder.
    """

    tokenizer: Tokenizer

    def probe(self, images: Tensor) -> None:
        memory = self(images, self.provides).native
        ids = torch.full((len(images), 1), self.tokenizer.start, device=images.device)
        self.next_token_logits(memory, ids)

    @abstractmethod
    def next_token_logits(self, memory: Tensor, ids: Tensor) -> Tensor:
        """Return logits (B, T, V) of the id after each of `ids` (B, T), for memory (B, N, D)."""

    @abstractmethod
    def generate(
        self, memory: Tensor, prompt_ids: Sequence[int], max_tokens: int, beams: int
    ) -> GeneratedTokens:
        """Generate captions of at most `max_tokens` ids after the prompt, by beam search."""

    @abstractmethod
    def attention_maps(self, memory: Tensor, ids: Sequence[int]) -> Tensor:
        """Return (T, N): attention to the image when each id was read, with sums of at most 1.

        Args:
            memory: (1, N, D) of one image.
            ids: T ids.
        """


class NativeBackbone(Backbone):
    """A network that detects or segments classes given as text by itself: it provides NATIVE.

    `set_queries` has to be called before.

    Attributes:
        prediction_type: What it predicts, Boxes or Regions.
    """

    prediction_type: ClassVar[type[Prediction]]

    @abstractmethod
    def set_queries(self, classes: Sequence[Sequence[str]]) -> None:
        """Set the K classes to predict, each as one or several sentences, which are averaged."""


@dataclass(frozen=True)
class ModelInfo:
    """A row of `foveate models`.

    Attributes:
        name: Name of the backbone.
        parameters: Number of parameters, without a head.
        license: License of the weights.
        size: Side of the input, px.
        provides: What it can compute.
        offline: Whether weights are available without network access.
    """

    name: str
    parameters: int
    license: str
    size: int
    provides: tuple[str, ...]
    offline: bool


class Family(ABC):
    """A source of backbones.

    Attributes:
        summary: One line for lists.
    """

    summary: ClassVar[str]

    @abstractmethod
    def names(self) -> list[str]:
        """Return every backbone that can be listed; none if the package behind it is missing."""

    def knows(self, name: str) -> bool:
        """Whether `name` is for this family to open, or to refuse with a reason.

        By default the listed names are; families may add names that contain a path.
        """
        return name in self.names()

    def resolve_name(self, name: str) -> str:
        """Return the name for a recipe: a path in it must be valid from any working directory."""
        return name

    def default_overrides(self, name: str, tuning: str) -> dict[str, Any]:
        """Return recipe values, by dotted field, that suit a backbone under a tuning.

        They are used where the user set none, like those of tasks and tunings.
        """
        return {}

    def flexible_size(self, name: str) -> tuple[int, int] | None:
        """Return the usual side of the input, px, and that of a pixel of the last map in it.

        None where the network takes one size only.
        """
        return None

    def license(self, name: str) -> str:
        """Return the license of the weights."""
        return self.info(name).license

    @abstractmethod
    def info(self, name: str) -> ModelInfo:
        """Describe a backbone, without loading its weights."""

    @abstractmethod
    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> Backbone:
        """Build a backbone and load its weights.

        Args:
            name: Name of the backbone.
            weights: 'auto' (an offline package if installed, otherwise the hub), 'hub', 'offline',
                'none' (random) or a file.
            size: Another side of the input, px.
            drop_path: Rate of stochastic depth.

        Raises:
            UnknownName: There is no such backbone.
            UsageError: It does not support the size or the rate.
            WeightsError: The weights are unavailable or do not fit.
        """


FAMILIES: Registry[Family] = Registry("foveate.modeling.backbones", Family, "backbone family")


def family_of(name: str) -> Family:
    """Return the first family that knows a backbone.

    Raises:
        UnknownName: None does; suggests similar names.
    """
    families = [FAMILIES.get(family)() for family in FAMILIES.names()]
    for family in families:
        if family.knows(name):
            return family
    known = [known for family in families for known in family.names()]
    raise UnknownName(name, known, kind="backbone", where="backbone.name")
