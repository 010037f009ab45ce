"""models [WORDS]: the backbones that can be adapted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any, ClassVar

from foveate.errors import UnknownName
from foveate.modeling.backbones import FAMILIES, Family, ModelInfo

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

    columns: ClassVar[list[str]] = ["name", "parameters", "license", "input", "provides", "offline"]
    cards: list[ModelInfo]
    more: int

    @property
    def rows(self) -> list[list[str]]:
        return [
            [
                card.name,
                millions(card.parameters),
                card.license,
                f"{card.size} px",
                ", ".join(card.provides),
                "yes" if card.offline else "",
            ]
            for card in self.cards
        ]

    def numbers(self) -> dict[str, Any]:
        return {"models": [asdict(card) for card in self.cards], "more": self.more}

    def lines(self) -> list[str]:
        more = (
            f"and {self.more} more: foveate models WORD lists names that contain it (* matches all)"
        )
        return [more] if self.more else []


def list_models(patterns: Sequence[str]) -> ModelsResult:
    """List the backbones whose names match one of the patterns; without any, good starting points.

    Raises:
        UnknownName: No name matches a pattern.
    """
    names = families()
    found = (
        list(dict.fromkeys(name for pattern in patterns for name in fitting(pattern, names)))
        if patterns
        else suggested(names)
    )
    cards = [names[name].info(name) for name in found[:_MOST]]
    return ModelsResult(cards, (len(found) if patterns else len(names)) - len(cards))


def families() -> dict[str, Family]:
    """Every backbone's name, and the family that opens it."""
    known = [FAMILIES.get(word)() for word in FAMILIES.names()]
    return {name: family for family in known for name in family.names()}


def suggested(names: Collection[str]) -> list[str]:
    """Good starts, of various kinds."""
    return [name for name in _SUGGESTED if name in names]


def fitting(word: str, names: Collection[str]) -> list[str]:
    """The names that hold the word, or fit it where it has a *.

    Raises UnknownName with near names when there are none.
    """
    pattern = word if "*" in word else f"*{word}*"
    found = sorted(name for name in names if fnmatch(name, pattern))
    if not found:
        raise UnknownName(word, names, kind="backbone")
    return found


def millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
