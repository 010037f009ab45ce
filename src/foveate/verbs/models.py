"""models [WORD]: the backbones that can be adapted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any, ClassVar

from foveate.backbones import FAMILIES, Card
from foveate.errors import UnknownName

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
                f"{card.parameters / 1e6:.1f} M",
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


def models(word: str = "") -> ModelsResult:
    """The backbones whose name holds `word` (or fits it, where it has a *); without a word a few good starts.

    Raises UnknownName with near names when nothing fits.
    """
    families = {name: FAMILIES.load(name)() for name in FAMILIES.names()}
    names = {name: family for family in families.values() for name in family.names()}
    pattern = word if "*" in word else f"*{word}*"
    found = sorted(name for name in names if fnmatch(name, pattern)) if word else [name for name in _SUGGESTED if name in names]
    if not found:
        raise UnknownName(word, names, kind="backbone")
    cards = [names[name].card(name) for name in found[:_MOST]]
    return ModelsResult(cards, (len(found) if word else len(names)) - len(cards))
