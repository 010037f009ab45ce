"""Where pretrained eyes come from. A family opens backbones by name; a backbone turns pixels into Features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.errors import UnknownName, UsageError
from foveate.modeling.text_decoder import GeneratedTokens
from foveate.modeling.tokenizer import Tokenizer
from foveate.predictions import Prediction
from foveate.registry import Registry
from foveate.types import Features, InputSpec, Provides


class Backbone(nn.Module, ABC):
    """A network without a task.

    `provides`: what `forward` can give. `input`: what it wants to see. `width`: D of the pooled vector. `map_widths`: C_i of
    the maps, finest first, and `map_strides`: input pixels to a step in each (about: unpadded convolutions lose some at the
    edges). `token_width`: D of the tokens. `origin`: where the weights came from, as said to the user.
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
        """Modules of the image's network from input to output; together they hold all of its parameters, except those that lie
        beside its modules (positions, class tokens, a bare projection)."""

    @abstractmethod
    def forward(self, images: Tensor, wants: Collection[Provides]) -> Features:
        """images (B, 3, H, W) float32 normalised -> Features with all that is wanted filled in, in one pass; what is no feature
        of an image (TEXT) asks for nothing here."""

    def probe(self, images: Tensor) -> None:
        """Passes once through all layers that it may call, for those who look which these are."""
        self(images, self.provides)

    def enable_checkpointing(self) -> None:
        """From now on activations are computed again in the backward pass; raises UsageError where that cannot be."""
        raise UsageError(
            "this backbone cannot compute activations again",
            where="training.checkpointing",
            hint="a smaller batch",
        )

    def patch_grid(self) -> tuple[int, int]:
        """Patches along a side of the network's square, and the side of each, px; raises UsageError where it reads none."""
        raise no_patches_error()

    def encode_visible(self, images: Tensor, kept: Tensor) -> Tensor:
        """images (B, 3, H, W) of which only the patches `kept` (B, K) int64 are read -> tokens (B, K, D), as MAE needs them."""
        raise no_patches_error()


def no_patches_error() -> UsageError:
    hint = "a plain Vision Transformer, such as vit_small_patch16_224, or --objective simmim, which takes any network"
    return UsageError("this backbone cannot leave patches out", where="backbone.name", hint=hint)


class TextBackbone(Backbone):
    """A backbone that embeds sentences into the space of its pooled vectors: it provides TEXT.

    Letters: K sentences, L tokens in each, W width of a token, D width of the pooled vector. `text`: the network that does it;
    `blocks` speaks of the images' alone. `logit_scale`, `logit_bias`: scalars, with which scale * cosine + bias of an image and
    a sentence is the logit that the two belong together; the bias is 0 where the model was trained without one.
    """

    text: nn.Module

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor: ...

    @property
    @abstractmethod
    def logit_bias(self) -> Tensor: ...

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        """(K, D), not normalised; gradients may flow. Raises WeightsError where the tokenizer's files are missing."""
        ids = self.tokenize(sentences)
        return self.encode_embeddings(self.embed_tokens(ids), ids)

    @abstractmethod
    def tokenize(self, sentences: Sequence[str]) -> Tensor:
        """(K, L) int64 with the model's own tokenizer: begun, ended, padded and cut as it was trained."""

    @abstractmethod
    def embed_tokens(self, ids: Tensor) -> Tensor:
        """(K, L) -> (K, L, W): the table of token embeddings, without positions."""

    @abstractmethod
    def encode_embeddings(self, words: Tensor, ids: Tensor) -> Tensor:
        """(K, L, W) -> (K, D): the text network on these embeddings in the place of its table's, as learnt prompts need it.

        `ids` (K, L) says where a sentence ends and what is padding.
        """


@dataclass
class Conditioning:
    """What pictures are to show. `words`: (B, L, W) embeddings; `there`: (B, L) bool, which of them are no padding."""

    embeddings: Tensor
    mask: Tensor


class DiffusionBackbone(Backbone):
    """A network that takes noise off pictures: it provides NOISE, and describes nothing.

    Letters: B pictures, C, h, w of the space it paints in, L words, W width of a word. Times (B,) go from 0, the picture, to 1,
    nothing but noise. `canvas`: (C, h, w). `said_width`: W. `reads`: whether it embeds sentences itself. `still`: parts that no
    tuning moves.
    """

    latent_shape: tuple[int, int, int]
    conditioning_width: int
    encodes_text: bool

    def forward(self, images: Tensor, wants: Collection[Provides]) -> Features:
        raise UsageError(
            "this network paints pictures, and describes none",
            where="backbone.name",
            hint="--task generate",
        )

    def probe(self, images: Tensor) -> None:
        count, where = len(images), images.device
        said = Conditioning(
            torch.zeros(count, 1, self.conditioning_width, device=where),
            torch.ones(count, 1, dtype=torch.bool, device=where),
        )
        self.denoise(
            torch.zeros(count, *self.latent_shape, device=where),
            torch.full((count,), 0.5, device=where),
            said,
        )

    def frozen_modules(self) -> list[nn.Module]:
        return []

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, C, h, w), without gradients."""

    @abstractmethod
    def decode(self, clean: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, S, S) normalised."""

    def sample_times(self, count: int) -> Tensor:
        """(count,), drawn to learn at, from torch's generator."""
        return torch.rand(count)

    @abstractmethod
    def add_noise(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """What there is to see at these times."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """The right answer to what is seen then."""

    @abstractmethod
    def denoise(self, seen: Tensor, time: Tensor, said: Conditioning) -> Tensor:
        """The network's."""

    @abstractmethod
    def predict_x0_eps(self, seen: Tensor, answer: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """The clean picture and the noise that this answer takes what is seen for."""

    def encode_prompts(self, sentences: Sequence[str]) -> Conditioning:
        """Of a painter that `reads`. An empty sentence says nothing."""
        raise UsageError("this painter reads no sentences by itself", where="backbone.name")


class CaptioningBackbone(Backbone):
    """A backbone that writes about pictures by itself: it provides WORDS, in `native`, whose last h * w tokens lie in a grid.

    Letters: B images, N tokens of a picture, D width, T numbers of a sentence, V of the vocabulary. `vocabulary`: its words.
    """

    tokenizer: Tokenizer

    def probe(self, images: Tensor) -> None:
        memory = self(images, self.provides).native
        self.next_token_logits(memory, torch.full((len(images), 1), self.tokenizer.start, device=images.device))

    @abstractmethod
    def next_token_logits(self, memory: Tensor, numbers: Tensor) -> Tensor:
        """(B, N, D), (B, T) -> logits (B, T, V) of the number behind each."""

    @abstractmethod
    def generate(self, memory: Tensor, opening: Sequence[int], most: int, beams: int) -> GeneratedTokens:
        """Sentences of at most `most` numbers behind the opening."""

    @abstractmethod
    def attention_maps(self, memory: Tensor, numbers: Sequence[int]) -> Tensor:
        """(1, N, D), T numbers -> (T, N): where in the picture it looked when it read each, sums at most 1."""


class NativeBackbone(Backbone):
    """A network that finds by itself what it is asked for in words: it provides NATIVE, and nothing before `ask`.

    `answer`: what it says about an image, Boxes or Regions.
    """

    prediction_type: ClassVar[type[Prediction]]

    @abstractmethod
    def set_queries(self, classes: Sequence[Sequence[str]]) -> None:
        """The K classes to look for from now on, each in one sentence or several, whose embeddings are averaged."""


@dataclass(frozen=True)
class ModelInfo:
    """A row of `foveate models`. `parameters`: a count, without a head. `size`: input side in pixels."""

    name: str
    parameters: int
    license: str
    size: int
    provides: tuple[str, ...]
    offline: bool


class Family(ABC):
    """A source of backbones."""

    summary: ClassVar[str]

    @abstractmethod
    def names(self) -> list[str]:
        """Every backbone that can be listed; none where the package behind the family is not installed."""

    def knows(self, name: str) -> bool:
        """Whether `name` is this family's to open, or to refuse with a reason: one that is listed, or one that holds a path."""
        return name in self.names()

    def resolve_name(self, name: str) -> str:
        """The name as a recipe keeps it: one that holds a path means the same from another folder."""
        return name

    def default_overrides(self, name: str, tuning: str) -> dict[str, Any]:
        """Values of the recipe's dotted fields that suit a backbone under a tuning, as tasks and tunings have them."""
        return {}

    def license(self, name: str) -> str:
        """Of the weights."""
        return self.info(name).license

    @abstractmethod
    def info(self, name: str) -> ModelInfo:
        """What is known about one backbone, without its weights."""

    @abstractmethod
    def open(
        self, name: str, weights: str, size: int | None = None, drop_path: float = 0.0
    ) -> Backbone:
        """The backbone with its weights: 'auto' (offline package if installed, else hub), 'hub', 'offline', 'none' or a file.

        `size` asks for another input side, `drop_path` for stochastic depth. Raises
        UnknownName, or WeightsError when the weights cannot be had or do not fit.
        """


FAMILIES: Registry[Family] = Registry("foveate.modeling.backbones", Family, "backbone family")


def family_of(name: str) -> Family:
    """The first family on the shelf that knows the backbone; raises UnknownName with near names."""
    families = [FAMILIES.get(word)() for word in FAMILIES.names()]
    for family in families:
        if family.knows(name):
            return family
    raise UnknownName(
        name,
        [known for family in families for known in family.names()],
        kind="backbone",
        where="backbone.name",
    )
