"""What tunings share that answer by the names of the classes.

Letters: B images, K classes, D width of the space that images and sentences share.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.errors import UnknownName, UsageError
from foveate.modeling.backbones import TextBackbone
from foveate.modeling.tunings import Adaptable, Choice, Tuning, TuningSettings
from foveate.types import Batch, Features
from foveate.utils.safe_yaml import parse_yaml

_AT_ONCE = 256  # sentences in a pass of the text network
TEMPLATES = ["a photo of a {}.", "a photo of the {}.", "a picture of a {}.", "{}"]


class PromptSettings(TuningSettings):
    prompts: str | dict[str, str | list[str]] | None = Field(
        None,
        description="a .yaml or .json file that maps each class to a sentence, or to several, in the place of templates",
    )


class TextSettings(PromptSettings):
    templates: list[str] = Field(
        TEMPLATES,
        min_length=1,
        description="sentences with {} for the name of a class; their embeddings are averaged",
    )


class CosineHead(nn.Module):
    """Features -> logits (B, K): scale * cosine + bias of the image and each class's sentences, in float32."""

    scale: Tensor
    bias: Tensor

    def __init__(self, backbone: TextBackbone) -> None:
        super().__init__()
        for name, tensor in (("scale", backbone.logit_scale), ("bias", backbone.logit_bias)):
            self.register_buffer(name, tensor.detach().clone())

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """(B, D) of length 1 -> (B, K)."""

    def forward(self, features: Features, batch: Batch | None = None) -> Tensor:
        assert features.pooled is not None
        with torch.autocast(
            features.pooled.device.type, enabled=False
        ):  # a scale of 100 lets the rounding of bf16 decide
            return self.logits(functional.normalize(features.pooled.float(), dim=1))

    def compared(self, images: Tensor, text: Tensor) -> Tensor:
        """(B, D) and (K, D), or (B, K, D) where every image has sentences of its own, of length 1 -> (B, K)."""
        cosines = images @ text.T if text.ndim == 2 else (text @ images[..., None]).squeeze(2)
        return self.scale * cosines + self.bias


class TextHead(CosineHead):
    """`text` (K, D): embeddings that stay as they are."""

    text: Tensor

    def __init__(self, backbone: TextBackbone, text: Tensor) -> None:
        super().__init__(backbone)
        self.register_buffer("text", text.detach().clone())

    def logits(self, images: Tensor) -> Tensor:
        return self.compared(images, self.text)


class AskingHead(CosineHead):
    """Asks the text network for embeddings. `backbone` stands beside the head and is no part of it: its tensors are saved once."""

    def __init__(self, backbone: TextBackbone) -> None:
        super().__init__(backbone)
        self._beside = (backbone,)

    @property
    def backbone(self) -> TextBackbone:
        return self._beside[0]


class LiveHead(AskingHead):
    """Embeddings that move while a run trains; in eval mode they are computed once, and kept until `train` or `eval` is called."""

    def __init__(self, backbone: TextBackbone) -> None:
        super().__init__(backbone)
        self._kept: Tensor | None = None

    @abstractmethod
    def embedded(self) -> Tensor:
        """(K, D), each row of length 1; gradients may flow."""

    def logits(self, images: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self.compared(images, self.embedded())
        if self._kept is None:
            self._kept = self.embedded()
        return self.compared(images, self._kept)

    def train(self, mode: bool = True) -> LiveHead:
        self.forget()
        return super().train(mode)

    def forget(self) -> None:
        """After weights or their place have moved."""
        self._kept = None


class TextTuning(Tuning):
    """Freezes the backbone, and puts a head in the place of the task's that answers by sentences."""

    layerwise: ClassVar[bool] = False
    knows_classes: ClassVar[bool] = True
    default_overrides: ClassVar[dict[str, Any]] = {"task.features": "pooled"}
    Settings: ClassVar[type[TuningSettings]] = TextSettings
    settings: Any

    @classmethod
    def resolve_settings(cls, settings: dict[str, Any], classes: Sequence[str]) -> list[Choice]:
        return settled_prompts(settings, classes)

    def apply(self, model: Adaptable) -> None:
        backbone = text_backbone(model)
        backbone.requires_grad_(False)
        model.head = self.head(backbone, model.classes)

    @abstractmethod
    def head(self, backbone: TextBackbone, classes: Sequence[str]) -> CosineHead:
        """Raises UsageError where the settings do not fit the classes."""


def settled_prompts(settings: dict[str, Any], classes: Sequence[str]) -> list[Choice]:
    """The prompts that a file holds, so that the run needs it no more. Raises UsageError for what cannot be asked."""
    given = settings.get("prompts")
    found = _read(Path(given)) if isinstance(given, str) else given
    for template in settings.get("templates", []):
        if "{}" not in str(template):
            hint = "a photo of a {}."
            raise UsageError(
                f"the template {template!r} has no place for a name",
                where="tuning.templates",
                hint=hint,
            )
    if found is not None:
        _refuse_unfit(found, classes)
    return [("prompts", found, f"read from {given}")] if isinstance(given, str) else []


def sentences(classes: Sequence[str], settings: TextSettings) -> list[list[str]]:
    """For each class what it is asked for with; underscores in names are spaces."""
    if settings.prompts is None:
        return [
            [template.replace("{}", spoken(name)) for template in settings.templates]
            for name in classes
        ]
    assert isinstance(settings.prompts, dict)
    return [
        [text] if isinstance(text, str) else list(text)
        for text in (settings.prompts[name] for name in classes)
    ]


def spoken(name: str) -> str:
    return name.replace("_", " ")


def text_backbone(model: Adaptable) -> TextBackbone:
    """Raises UsageError for a backbone that embeds no sentences, and for a question that is not about whole images."""
    hint = "--backbone clip:ViT-B-32, or clip:FOLDER (foveate models 'clip:*' lists them)"
    if not isinstance(model.backbone, TextBackbone):
        raise UsageError(
            "this backbone embeds no sentences, so that names mean nothing to it",
            where="backbone.name",
            hint=hint,
        )
    if not hasattr(model.head, "linear"):
        hint = "--backbone hf:google/owlv2-base-patch16-ensemble finds boxes by name, hf:CIDAS/clipseg-rd64-refined pixels"
        raise UsageError(
            "a backbone of whole images answers about whole images only", where="tuning", hint=hint
        )
    if model.multilabel:
        what = "names are compared for the one class that an image shows, and these images have several, or none"
        raise UsageError(what, where="tuning", hint="--tuning probe takes several classes an image")
    return model.backbone


def embedded(backbone: TextBackbone, classes: list[list[str]]) -> Tensor:
    """(K, D) of length 1: the mean of each class's embeddings of length 1 (Radford et al. 2021, section 3.1.4)."""
    every = [text for each in classes for text in each]
    chunks = [
        backbone.embed_text(every[place : place + _AT_ONCE])
        for place in range(0, len(every), _AT_ONCE)
    ]
    found = functional.normalize(torch.cat(chunks).float(), dim=-1)
    parts = torch.split(found, [len(each) for each in classes])
    return functional.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)


def _read(file: Path) -> dict[str, Any]:
    """A mapping in YAML, of which JSON is a part; a name that stands there twice is refused."""
    if not file.is_file():
        raise UsageError("there is no prompt file at this path", where=file)
    try:
        text = file.read_text(encoding="utf-8")
        found, root = parse_yaml(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except ValueError as error:
        raise UsageError(
            "this prompt file is neither YAML nor JSON",
            where=file,
            why=str(error).replace("\n", " ")[:200],
        ) from None
    if not isinstance(root, yaml.MappingNode) or not isinstance(found, dict):
        raise UsageError(
            "a prompt file maps each class to a sentence or several",
            where=file,
            hint="cat: a photo of a cat.",
        )
    names = [str(key.value) for key, _ in root.value]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"the class {twice!r} stands here twice",
            where=file,
            hint=f"{twice}: [one sentence, another]",
        )
    return {str(name): value for name, value in found.items()}


def _refuse_unfit(prompts: dict[str, Any], classes: Sequence[str]) -> None:
    for name in prompts:
        if name not in classes:
            raise UnknownName(name, classes, kind="class", where="tuning.prompts")
    for name in classes:
        given = prompts.get(name)
        texts = given if isinstance(given, list) else [given]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            hint = f"{name}: a photo of a {name}."
            raise UsageError(
                f"the class {name!r} has no prompt, or an empty one",
                where="tuning.prompts",
                hint=hint,
            )
