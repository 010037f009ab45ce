"""Learned context tokens before class names (CoOp, Zhou et al. 2022), for any tokenizer.

Letters: K classes, L tokens in a sentence, M context tokens, W width of a token embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.modeling.backbones import TextBackbone
from foveate.modeling.tunings._text import PromptSettings, humanize

_INIT_STD = 0.02  # of random initial context, as in the paper


class ContextSettings(PromptSettings):
    prompts: str | dict[str, str | list[str]] | None = Field(
        None,
        description=".yaml or .json file with the text after each context; default: the class name",
    )
    context: int = Field(4, ge=1, description="learned context tokens before each class name")
    start: str = Field(
        "a photo of a",
        description="initial context, as far as it goes; empty: random",
    )


def class_phrases(classes: Sequence[str], settings: ContextSettings) -> list[str]:
    """Return the text after the context, for each class."""
    if settings.prompts is None:
        return [humanize(name) for name in classes]
    assert isinstance(settings.prompts, dict)
    texts = [
        [text] if isinstance(text, str) else text
        for text in (settings.prompts[name] for name in classes)
    ]
    several = next(
        (name for name, texts in zip(classes, texts, strict=True) if len(texts) > 1), None
    )
    if several is not None:
        what = f"class {several!r} has several prompts; learned context supports one"
        raise UsageError(what, where="tuning.prompts", hint=f"{several}: {humanize(several)}")
    return [texts[0].rstrip(".") for texts in texts]


class PromptSlots(nn.Module):
    """Token embeddings of "NAME." for each class, with M free positions after the start token, if
    any.

    They are computed from the frozen token table; none is saved.
    """

    ids: Tensor
    embeddings: Tensor

    def __init__(self, backbone: TextBackbone, names: Sequence[str], num_words: int) -> None:
        super().__init__()
        ids = backbone.tokenize([f"{name}." for name in names])
        self.first, self.num_words = _num_start_tokens(backbone), num_words
        padding = backbone.tokenize([""])[0, -1]
        if num_words >= ids.shape[1] or bool((ids[:, ids.shape[1] - num_words :] != padding).any()):
            why = f"the longest class name leaves fewer than {num_words} of {ids.shape[1]} tokens"
            hint = "--set tuning.context=2"
            raise UsageError(
                "the class names leave too few tokens for the learned context",
                where="tuning.context",
                why=why,
                hint=hint,
            )
        # any word token: neither end of text nor padding
        filler = ids[:, self.first : self.first + 1].expand(-1, num_words)
        kept = ids.shape[1] - num_words
        self.register_buffer(
            "ids",
            torch.cat([ids[:, : self.first], filler, ids[:, self.first : kept]], 1),
            persistent=False,
        )
        self.register_buffer(
            "embeddings", backbone.embed_tokens(ids[:, :kept]).detach().clone(), persistent=False
        )

    def forward(self, context: Tensor) -> Tensor:
        """(M, W) for all classes or (K, M, W) -> (K, L, W)."""
        context = context.expand(len(self.embeddings), -1, -1).to(self.embeddings.dtype)
        return torch.cat(
            [self.embeddings[:, : self.first], context, self.embeddings[:, self.first :]], 1
        )


@torch.no_grad()
def initial_words(backbone: TextBackbone, settings: ContextSettings) -> Tensor:
    """Initial context (M, W): the embeddings of `start`, followed by random ones."""
    ids, empty = backbone.tokenize([settings.start]), backbone.tokenize([""])
    words = backbone.embed_tokens(ids)[0]
    own = int((ids != empty[0, -1]).sum() - (empty != empty[0, -1]).sum())
    context = torch.randn(settings.context, words.shape[1]) * _INIT_STD
    count, first = min(own, settings.context), _num_start_tokens(backbone)
    context[:count] = words[first : first + count]
    return context


def _num_start_tokens(backbone: TextBackbone) -> int:
    """1 if every sentence begins with the same token, else 0."""
    one, other = backbone.tokenize(["red", "square"])
    return int(one[0] == other[0])
