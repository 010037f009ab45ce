"""Base classes of tunings that classify by text embeddings of the class names.

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
from foveate.messages import Message
from foveate.modeling.backbones import TextBackbone
from foveate.modeling.tunings import Adaptable, Tuning, TuningSettings
from foveate.types import Batch, Decision, Features
from foveate.utils.safe_yaml import parse_yaml

_CHUNK = 256  # sentences in a pass of the text network
TEMPLATES = ["a photo of a {}.", "a photo of the {}.", "a picture of a {}.", "{}"]


class PromptSettings(TuningSettings):
    prompts: str | dict[str, str | list[str]] | None = Field(
        None,
        description=".yaml or .json file with sentences for each class, instead of templates",
    )


class TextSettings(PromptSettings):
    templates: list[str] = Field(
        TEMPLATES,
        min_length=1,
        description="sentences with {} for the class name, whose embeddings are averaged",
    )


class CosineHead(nn.Module):
    """Logits (B, K) = scale * cosine(image, class text) + bias, in float32."""

    scale: Tensor
    bias: Tensor

    def __init__(self, backbone: TextBackbone) -> None:
        super().__init__()
        for name, tensor in (("scale", backbone.logit_scale), ("bias", backbone.logit_bias)):
            self.register_buffer(name, tensor.detach().clone())

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) of image embeddings (B, D) of length 1."""

    def forward(self, features: Features, batch: Batch | None = None) -> Tensor:
        assert features.pooled is not None
        # with a scale of 100, bf16 rounding would decide
        with torch.autocast(features.pooled.device.type, enabled=False):
            return self.logits(functional.normalize(features.pooled.float(), dim=1))

    def compare(self, images: Tensor, text: Tensor) -> Tensor:
        """Logits (B, K) of images (B, D) and text (K, D), or (B, K, D) for text of each image."""
        cosines = images @ text.T if text.ndim == 2 else (text @ images[..., None]).squeeze(2)
        return self.scale * cosines + self.bias


class TextHead(CosineHead):
    """Fixed text embeddings, `text` (K, D)."""

    text: Tensor

    def __init__(self, backbone: TextBackbone, text: Tensor) -> None:
        super().__init__(backbone)
        self.register_buffer("text", text.detach().clone())

    def logits(self, images: Tensor) -> Tensor:
        return self.compare(images, self.text)


class TextNetworkHead(CosineHead):
    """Computes text embeddings with the text network of the backbone.

    The backbone is held in a tuple so that it is not a submodule: its tensors are saved once.
    """

    def __init__(self, backbone: TextBackbone) -> None:
        super().__init__(backbone)
        self._backbone = (backbone,)

    @property
    def backbone(self) -> TextBackbone:
        return self._backbone[0]


class LearnedTextHead(TextNetworkHead):
    """Trainable text embeddings; in eval mode they are cached until `train` or `eval` is called."""

    def __init__(self, backbone: TextBackbone) -> None:
        super().__init__(backbone)
        self._cache: Tensor | None = None

    @abstractmethod
    def embed_classes(self) -> Tensor:
        """Text embeddings (K, D) of length 1, with gradients."""

    def logits(self, images: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self.compare(images, self.embed_classes())
        if self._cache is None:
            self._cache = self.embed_classes()
        return self.compare(images, self._cache)

    def train(self, mode: bool = True) -> LearnedTextHead:
        self.clear_cache()
        return super().train(mode)

    def clear_cache(self) -> None:
        """Called after weights have changed or moved to another device."""
        self._cache = None


class TextTuning(Tuning):
    """Freezes the backbone and replaces the task's head by one that compares images with text."""

    layerwise: ClassVar[bool] = False
    trains_backbone: ClassVar[bool] = False
    trains_norms: ClassVar[bool] = False
    knows_classes: ClassVar[bool] = True
    default_overrides: ClassVar[dict[str, Any]] = {"task.features": "pooled"}
    Settings: ClassVar[type[TuningSettings]] = TextSettings
    settings: Any

    @classmethod
    def resolve_settings(cls, settings: dict[str, Any], classes: Sequence[str]) -> list[Decision]:
        return resolve_prompts(settings, classes)

    def apply(self, model: Adaptable) -> None:
        backbone = require_text_backbone(model)
        backbone.requires_grad_(False)
        model.head = self.head(backbone, model.classes)

    @abstractmethod
    def head(self, backbone: TextBackbone, classes: Sequence[str]) -> CosineHead:
        """Build the head.

        Raises:
            UsageError: The settings do not fit the classes.
        """


def resolve_prompts(settings: dict[str, Any], classes: Sequence[str]) -> list[Decision]:
    """Read the prompt file, so that the run no longer depends on it.

    Raises:
        UsageError: A template or a prompt cannot be used.
    """
    given = settings.get("prompts")
    prompts = _read_prompts(Path(given)) if isinstance(given, str) else given
    for template in settings.get("templates", []):
        if "{}" not in str(template):
            hint = "a photo of a {}."
            raise UsageError(
                f"the template {template!r} has no {{}} for the class name",
                where="tuning.templates",
                hint=hint,
            )
    if prompts is not None:
        _check_prompts(prompts, classes)
    if not isinstance(given, str):
        return []
    reason = Message("choice.read_from", "read from {file}", file=given)
    return [Decision("prompts", prompts, reason)]


def class_sentences(classes: Sequence[str], settings: TextSettings) -> list[list[str]]:
    """Return the sentences of each class; underscores in names become spaces."""
    if settings.prompts is None:
        return [
            [template.replace("{}", humanize(name)) for template in settings.templates]
            for name in classes
        ]
    assert isinstance(settings.prompts, dict)
    return [
        [text] if isinstance(text, str) else list(text)
        for text in (settings.prompts[name] for name in classes)
    ]


def humanize(name: str) -> str:
    return name.replace("_", " ")


def require_text_backbone(model: Adaptable) -> TextBackbone:
    """Return the backbone of `model`, which must embed text.

    Raises:
        UsageError: It does not, or the task is not single-label classification.
    """
    hint = "--backbone clip:ViT-B-32, or clip:FOLDER (foveate models 'clip:*' lists them)"
    if not isinstance(model.backbone, TextBackbone):
        raise UsageError(
            "this tuning needs a backbone with a text encoder",
            where="backbone.name",
            hint=hint,
        )
    if not (hasattr(model.head, "linear") and model.classes):
        hint = "--backbone hf:google/owlv2-base-patch16-ensemble for boxes, "
        hint += "hf:CIDAS/clipseg-rd64-refined for masks"
        raise UsageError(
            "this backbone embeds whole images and supports classification only",
            where="tuning",
            hint=hint,
        )
    if model.multilabel:
        what = "text tunings support one class per image; these images have several, or none"
        raise UsageError(what, where="tuning", hint="--tuning probe takes several classes an image")
    return model.backbone


def embed_class_sentences(backbone: TextBackbone, classes: list[list[str]]) -> Tensor:
    """Class embeddings (K, D) of length 1: the mean of the normalized embeddings of each class's
    sentences (Radford et al. 2021, section 3.1.4)."""
    every = [text for each in classes for text in each]
    chunks = [
        backbone.embed_text(every[start : start + _CHUNK]) for start in range(0, len(every), _CHUNK)
    ]
    embeddings = functional.normalize(torch.cat(chunks).float(), dim=-1)
    parts = torch.split(embeddings, [len(each) for each in classes])
    return functional.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)


def _read_prompts(file: Path) -> dict[str, Any]:
    """Read a mapping in YAML or JSON; duplicate class names are refused."""
    if not file.is_file():
        raise UsageError("the prompt file does not exist", where=file)
    try:
        text = file.read_text(encoding="utf-8")
        prompts, root = parse_yaml(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except ValueError as error:
        raise UsageError(
            "the prompt file is neither YAML nor JSON",
            where=file,
            why=str(error).replace("\n", " ")[:200],
        ) from None
    if not isinstance(root, yaml.MappingNode) or not isinstance(prompts, dict):
        raise UsageError(
            "a prompt file must map each class to one or more sentences",
            where=file,
            hint="cat: a photo of a cat.",
        )
    names = [str(key.value) for key, _ in root.value]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise UsageError(
            f"class {duplicate!r} is listed twice",
            where=file,
            hint=f"{duplicate}: [one sentence, another]",
        )
    return {str(name): value for name, value in prompts.items()}


def _check_prompts(prompts: dict[str, Any], classes: Sequence[str]) -> None:
    for name in prompts:
        if name not in classes:
            raise UnknownName(name, classes, kind="class", where="tuning.prompts")
    for name in classes:
        given = prompts.get(name)
        texts = given if isinstance(given, list) else [given]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            hint = f"{name}: a photo of a {name}."
            raise UsageError(
                f"class {name!r} has no prompt, or an empty one",
                where="tuning.prompts",
                hint=hint,
            )
