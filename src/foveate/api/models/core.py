"""models [NAMES]: list pretrained backbones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any, ClassVar

from foveate.errors import UnknownName
from foveate.modeling.backbones import FAMILIES, Family, ModelInfo

_MAX_LISTED = 40  # each one builds the network, without its weights
_RECOMMENDED = (
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
    """Backbones of matching names.

    Attributes:
        models: At most 40 of them.
        more: Number of names beyond them.
    """

    columns: ClassVar[list[str]] = ["name", "parameters", "license", "input", "offline"]
    models: list[ModelInfo]
    more: int

    @property
    def rows(self) -> list[list[str]]:
        return [
            [
                model.name,
                format_millions(model.parameters),
                model.license,
                f"{model.size} px",
                "yes" if model.offline else "",
            ]
            for model in self.models
        ]

    def numbers(self) -> dict[str, Any]:
        return {"models": [asdict(model) for model in self.models], "more": self.more}

    def lines(self) -> list[str]:
        more = (
            f"and {self.more} more: foveate models TEXT lists names that contain TEXT (* for all)"
        )
        return [more] if self.more else []


def list_models(patterns: Sequence[str]) -> ModelsResult:
    """List the backbones whose names match one of the patterns; without any, good starting points.

    Raises:
        UnknownName: No name matches a pattern.
    """
    families = families_by_model()
    if patterns:
        matches = [name for pattern in patterns for name in match_names(pattern, families)]
        names = list(dict.fromkeys(matches))
    else:
        names = recommended_names(families)
    models = [families[name].info(name) for name in names[:_MAX_LISTED]]
    return ModelsResult(models, (len(names) if patterns else len(families)) - len(models))


def families_by_model() -> dict[str, Family]:
    """Return the family that opens each backbone, by the name of the backbone."""
    families = [FAMILIES.get(name)() for name in FAMILIES.names()]
    return {name: family for family in families for name in family.names()}


def recommended_names(names: Collection[str]) -> list[str]:
    """Return the good starting points among `names`: architectures of several kinds."""
    return [name for name in _RECOMMENDED if name in names]


def match_names(pattern: str, names: Collection[str]) -> list[str]:
    """Return the names that contain `pattern`, or match it if it has a *, sorted.

    Raises:
        UnknownName: There are none; the error suggests similar names.
    """
    glob = pattern if "*" in pattern else f"*{pattern}*"
    matches = sorted(name for name in names if fnmatch(name, glob))
    if not matches:
        raise UnknownName(pattern, names, kind="backbone")
    return matches


def format_millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
