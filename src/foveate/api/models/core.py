"""models [WORDS]: the backbones that can be adapted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any, ClassVar

from foveate.errors import UnknownName
from foveate.modeling.backbones import FAMILIES, Card, Family

_MOST = 40  # cards at once: each one builds the network without its weights
_SUGGESTED = (
    "tf_efficientnet_lite0",
    "resnet18",
    "resnet50",
    "inception_v3",
    "inception_v4",
    "vgg16",
    "densenet121",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_small_patch16_224",
    "deit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
)


@dataclass(frozen=True)
class ModelsResult:
    """`cards` of the names that match; `more`: how many names there are beyond them."""

    columns: ClassVar[list[str]] = ["name", "parameters", "licence", "input", "provides", "offline"]
    cards: list[Card]
    more: int

    @property
    def rows(self) -> list[list[str]]:
        return [
            [
                card.name,
                millions(card.parameters),
                card.licence,
                f"{card.size} px",
                ", ".join(card.provides),
                "yes" if card.offline else "",
            ]
            for card in self.cards
        ]

    def numbers(self) -> dict[str, Any]:
        return {"models": [asdict(card) for card in self.cards], "more": self.more}

    def lines(self) -> list[str]:
        more = f"and {self.more} more: foveate models WORD lists the names with this word, * stands for anything"
        return [more] if self.more else []


def models(*words: str) -> ModelsResult:
    """The backbones whose name holds one of the `words` (or fits it, where it has a *); without a word a few good starts.

    Raises UnknownName with near names when nothing fits a word.
    """
    names = families()
    found = (
        list(dict.fromkeys(name for word in words for name in fitting(word, names)))
        if words
        else suggested(names)
    )
    cards = [names[name].card(name) for name in found[:_MOST]]
    return ModelsResult(cards, (len(found) if words else len(names)) - len(cards))


def families() -> dict[str, Family]:
    """Every backbone's name, and the family that opens it."""
    known = [FAMILIES.load(word)() for word in FAMILIES.names()]
    return {name: family for family in known for name in family.names()}


def suggested(names: Collection[str]) -> list[str]:
    """Good starts, of various kinds."""
    return [name for name in _SUGGESTED if name in names]


def fitting(word: str, names: Collection[str]) -> list[str]:
    """The names that hold the word, or fit it where it has a *. Raises UnknownName with near names when there are none."""
    pattern = word if "*" in word else f"*{word}*"
    found = sorted(name for name in names if fnmatch(name, pattern))
    if not found:
        raise UnknownName(word, names, kind="backbone")
    return found


def millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
