"""What tunings share that answer by the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from foveate.backbones import TextBackbone
from foveate.errors import UnknownName, UsageError
from foveate.tunings import Adaptable, Choice, TuningSettings

TEMPLATES = ["a photo of a {}.", "a photo of the {}.", "a picture of a {}.", "{}"]


class TextSettings(TuningSettings):
    templates: list[str] = Field(
        TEMPLATES, min_length=1, description="sentences with {} for the name of a class; their embeddings are averaged"
    )
    prompts: str | dict[str, str | list[str]] | None = Field(
        None, description="a .yaml or .json file that maps each class to a sentence, or to several, in the place of templates"
    )


def settled_prompts(settings: dict[str, Any], classes: Sequence[str]) -> list[Choice]:
    """The prompts that a file holds, so that the run needs it no more. Raises UsageError for what cannot be asked."""
    given = settings.get("prompts")
    found = _read(Path(given)) if isinstance(given, str) else given
    for template in settings.get("templates", []):
        if "{}" not in str(template):
            hint = "a photo of a {}."
            raise UsageError(f"the template {template!r} has no place for a name", where="tuning.templates", hint=hint)
    if found is not None:
        _refuse_unfit(found, classes)
    return [("prompts", found, f"read from {given}")] if isinstance(given, str) else []


def sentences(classes: Sequence[str], settings: TextSettings) -> list[list[str]]:
    """For each class what it is asked for with; underscores in names are spaces."""
    if settings.prompts is None:
        return [[template.replace("{}", name.replace("_", " ")) for template in settings.templates] for name in classes]
    assert isinstance(settings.prompts, dict)
    return [[text] if isinstance(text, str) else list(text) for text in (settings.prompts[name] for name in classes)]


def text_backbone(model: Adaptable) -> TextBackbone:
    """Raises UsageError for a backbone that embeds no sentences, and for a question that is not about whole images."""
    hint = "--backbone clip:ViT-B-32, or clip:FOLDER (foveate models 'clip:*' lists them)"
    if not isinstance(model.backbone, TextBackbone):
        raise UsageError("this backbone embeds no sentences, so that names mean nothing to it", where="backbone.name", hint=hint)
    if not hasattr(model.head, "linear"):
        hint = "--backbone hf:google/owlv2-base-patch16-ensemble finds boxes by name, hf:CIDAS/clipseg-rd64-refined pixels"
        raise UsageError("a backbone of whole images answers about whole images only", where="tuning", hint=hint)
    return model.backbone


def embedded(backbone: TextBackbone, classes: list[list[str]]) -> Tensor:
    """(K, D) of length 1: the mean of each class's embeddings of length 1 (Radford et al. 2021, section 3.1.4)."""
    found = functional.normalize(backbone.embed_text([text for each in classes for text in each]), dim=-1)
    parts = torch.split(found, [len(each) for each in classes])
    return functional.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)


def _read(file: Path) -> dict[str, Any]:
    """A mapping in YAML, of which JSON is a part; a name that stands there twice is refused."""
    if not file.is_file():
        raise UsageError("there is no prompt file at this path", where=file)
    try:
        text = file.read_text(encoding="utf-8")
        root, found = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError("this prompt file is neither YAML nor JSON", where=file, why=str(error).replace("\n", " ")[:200]) from None
    if not isinstance(root, yaml.MappingNode) or not isinstance(found, dict):
        raise UsageError("a prompt file maps each class to a sentence or several", where=file, hint="cat: a photo of a cat.")
    names = [str(key.value) for key, _ in root.value]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"the class {twice!r} stands here twice", where=file, hint=f"{twice}: [one sentence, another]")
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
            raise UsageError(f"the class {name!r} has no prompt, or an empty one", where="tuning.prompts", hint=hint)
