"""Learnt words before a class's name (CoOp, Zhou et al. 2022), for any tokenizer: they are put between a sentence's tokens.

Letters: K classes, L tokens in a sentence, M learnt words, W width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from foveate.errors import UsageError
from foveate.modeling.backbones import TextBackbone
from foveate.modeling.tunings._text import PromptSettings, spoken

_SPREAD = 0.02  # of random first words, as the paper has it


class ContextSettings(PromptSettings):
    prompts: str | dict[str, str | list[str]] | None = Field(
        None,
        description="a .yaml or .json file that maps each class to the words after the learnt ones; default: its name",
    )
    context: int = Field(4, ge=1, description="learnt words before each class's name")
    start: str = Field(
        "a photo of a",
        description="what the learnt words begin as, as far as it goes; empty: random",
    )


def phrases(classes: Sequence[str], settings: ContextSettings) -> list[str]:
    """What stands after the learnt words, for each class."""
    if settings.prompts is None:
        return [spoken(name) for name in classes]
    assert isinstance(settings.prompts, dict)
    found = [
        [text] if isinstance(text, str) else text
        for text in (settings.prompts[name] for name in classes)
    ]
    several = next(
        (name for name, texts in zip(classes, found, strict=True) if len(texts) > 1), None
    )
    if several is not None:
        what = f"the class {several!r} has several prompts, and learnt words stand before one"
        raise UsageError(what, where="tuning.prompts", hint=f"{several}: {spoken(several)}")
    return [texts[0].rstrip(".") for texts in found]


class Slots(nn.Module):
    """The sentences 'NAME.' with room for M words after the token that begins a sentence, where the tokenizer sets one.

    Made of what the frozen table of tokens says; nothing in it is saved.
    """

    ids: Tensor
    words: Tensor

    def __init__(self, backbone: TextBackbone, names: Sequence[str], room: int) -> None:
        super().__init__()
        ids = backbone.tokenize([f"{name}." for name in names])
        self.first, self.room = _begins(backbone), room
        padding = backbone.tokenize([""])[0, -1]
        if room >= ids.shape[1] or bool((ids[:, ids.shape[1] - room :] != padding).any()):
            why, hint = (
                f"of {ids.shape[1]} tokens the longest name leaves fewer than {room}",
                "--set tuning.context=2",
            )
            raise UsageError(
                "there is no room for so many learnt words",
                where="tuning.context",
                why=why,
                hint=hint,
            )
        filler = ids[:, self.first : self.first + 1].expand(
            -1, room
        )  # an ordinary word: neither the end of a sentence nor padding
        kept = ids.shape[1] - room
        self.register_buffer(
            "ids",
            torch.cat([ids[:, : self.first], filler, ids[:, self.first : kept]], 1),
            persistent=False,
        )
        self.register_buffer(
            "words", backbone.embed_tokens(ids[:, :kept]).detach().clone(), persistent=False
        )

    def forward(self, context: Tensor) -> Tensor:
        """(M, W) for all classes or (K, M, W) -> (K, L, W)."""
        context = context.expand(len(self.words), -1, -1).to(self.words.dtype)
        return torch.cat([self.words[:, : self.first], context, self.words[:, self.first :]], 1)


@torch.no_grad()
def first_words(backbone: TextBackbone, settings: ContextSettings) -> Tensor:
    """(M, W): the embeddings of the words that `start` holds, and random ones after them."""
    ids, nothing = backbone.tokenize([settings.start]), backbone.tokenize([""])
    words = backbone.embed_tokens(ids)[0]
    own = int((ids != nothing[0, -1]).sum() - (nothing != nothing[0, -1]).sum())
    found = torch.randn(settings.context, words.shape[1]) * _SPREAD
    count, first = min(own, settings.context), _begins(backbone)
    found[:count] = words[first : first + count]
    return found


def _begins(backbone: TextBackbone) -> int:
    """1 where every sentence begins with the same token, 0 elsewhere."""
    one, other = backbone.tokenize(["red", "square"])
    return int(one[0] == other[0])
