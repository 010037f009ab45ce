"""Image generation, by class, by text or without any prompt: a network learns to denoise.

Ho et al. 2020 (DDPM).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.data.transforms import as_pixels
from foveate.errors import DataError
from foveate.messages import Message, counted
from foveate.modeling.backbones import Backbone, Conditioning, DiffusionBackbone
from foveate.modeling.diffusion import ClassNameTokenizer, ConditioningEncoder, generate_images
from foveate.modeling.tasks import DataFacts, Task, TaskSettings
from foveate.modeling.tokenizer import WordTokenizer, split_words
from foveate.predictions import DenoisingResult, ImagePrediction, Labels, Text
from foveate.types import Batch, Decision, Provides, TargetTensors

_VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
_EXAMPLES = 16
_MIN_POWER = 1e-6  # of a target, where the error is divided by it


class GenerateSettings(TaskSettings):
    """Settings of the task."""

    prompt: str = Field(
        "",
        description="prompt of all images without class or caption, such as 'a photo of sks dog'",
    )
    vocabulary: list[str] = Field(
        default_factory=list,
        description="words or class names of prompts; default: those of the data",
    )
    class_conditional: bool = Field(
        False, description="whether the vocabulary is class names; default: as the data are"
    )
    max_words: int = Field(40, ge=1, description="maximum number of words of a prompt")
    condition_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of training images without their prompt, for classifier-free guidance "
        "(Ho & Salimans 2022)",
    )
    example_prompts: list[str] = Field(
        default_factory=list,
        description="prompts of the images in reports; default: some of the data",
    )
    steps: int = Field(30, ge=1, description="steps from noise to image")
    guidance: float = Field(3.0, ge=0, description="classifier-free guidance scale; 1 = off")


@dataclass
class DenoisingOutput:
    """Targets and predictions of the network at T times, (T, B, C, h, w) each."""

    target: Tensor
    prediction: Tensor


class Generate(Task):
    """Image generation.

    The head encodes prompts, unless the backbone has a text encoder.
    """

    needs: frozenset[Provides] = frozenset({Provides.NOISE})
    prediction_type: ClassVar[type[DenoisingResult]] = DenoisingResult
    question: ClassVar[Message] = Message(
        "task.generate.question", "What do new images of this kind look like?"
    )
    target_types: ClassVar[tuple[type, ...]] = (Labels, Text, ImagePrediction)
    default_overrides: ClassVar[dict[str, Any]] = {
        "tuning": "full",
        "backbone.name": "unet_small",
        "augment.policy": "none",
        "augment.crop": 1.0,
        "augment.flip": 0.0,  # letters, digits and most things have a left and a right
        "training.batch_size": 64,
        "training.epochs": 200,
        "training.ema": 0.999,
        "training.patience": 0,
        "training.layer_decay": 1.0,
        "training.head_init": "random",
    }
    Settings: ClassVar[type[TaskSettings]] = GenerateSettings

    settings: GenerateSettings

    @classmethod
    def resolve_settings(
        cls,
        settings: dict[str, Any],
        targets: Sequence[Any],
        classes: tuple[str, ...],
        facts: DataFacts,
    ) -> list[Decision]:
        default = settings.get("prompt", "")
        prompts = list(
            dict.fromkeys(prompt for target in targets for prompt in _prompts(target, default))
        )
        decisions: list[Decision] = []
        if "vocabulary" not in settings:
            by_class = any(isinstance(target, Labels) for target in targets)
            words = list(classes) if by_class else WordTokenizer.build_vocabulary(prompts)
            text = "the {count} words and punctuation marks of the data"
            source = Message("choice.prompt_words", text, count=len(words))
            if by_class:
                text = "the {count:class|classes} of the data"
                source = Message("choice.prompt_classes", text, count=len(words))
            labeled = Message("choice.as_labeled", "as the images are labeled")
            decisions += [
                Decision("class_conditional", by_class, labeled),
                Decision("vocabulary", words, source),
            ]
        if "example_prompts" not in settings:
            examples = prompts[:: max(1, len(prompts) // _EXAMPLES)][:_EXAMPLES]
            decisions.append(
                Decision(
                    "example_prompts", examples, Message("choice.some_prompts", "some of the data")
                )
            )
        return decisions

    def head(self, backbone: Backbone) -> nn.Module:
        assert isinstance(backbone, DiffusionBackbone)
        if backbone.encodes_text:
            return nn.Identity()
        settings = self.settings
        tokenizer = ClassNameTokenizer if settings.class_conditional else WordTokenizer
        return ConditioningEncoder(
            tokenizer(settings.vocabulary), backbone.conditioning_width, settings.max_words
        )

    def prepare(self, backbone: Backbone, head: nn.Module) -> None:
        assert isinstance(backbone, DiffusionBackbone)
        for module in backbone.frozen_modules():
            module.requires_grad_(False)

    def encode(self, target: Any, size: tuple[int, int]) -> TargetTensors:
        """Return one of the prompts of an image, drawn from torch's generator.

        Raises:
            DataError: It is too long.
        """
        prompts = _prompts(target, self.settings.prompt)
        prompt = prompts[int(torch.randint(len(prompts), ()))]
        count = 0 if self.settings.class_conditional else len(split_words(prompt))
        if count > self.settings.max_words:
            raise DataError(
                f"a caption has {counted(count, 'word', 'words')}, the limit is "
                f"{self.settings.max_words}",
                where=prompt[:60],
                hint=f"--set task.max_words={count}, or a shorter caption",
            )
        return {"prompt": prompt}

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> DenoisingOutput:
        """Denoise the images of a batch.

        With gradients, each image is denoised at one random time; without, in validation, at
        several times, and with noise that is always the same for an image.
        """
        assert isinstance(backbone, DiffusionBackbone)
        clean = backbone.encode(batch.images)
        prompts = [target.get("prompt", self.settings.prompt) for target in batch.targets]
        if torch.is_grad_enabled():
            prompts = self._drop_some(prompts)
            times = [backbone.sample_times(len(clean)).to(clean.device)]
            noise = torch.randn(clean.shape).to(clean.device)
        else:
            shape = clean.shape[1:]
            times = [torch.full((len(clean),), t, device=clean.device) for t in _VALIDATION_TIMES]
            noise = torch.stack([_fixed_noise(shape, int(i)) for i in batch.indices])
            noise = noise.to(clean.device)
        conditioning = self.condition(backbone, head, prompts)
        return DenoisingOutput(
            torch.stack([backbone.target(clean, noise, time) for time in times]),
            torch.stack(
                [
                    backbone.denoise(backbone.add_noise(clean, noise, time), time, conditioning)
                    for time in times
                ]
            ),
        )

    def _drop_some(self, prompts: list[str]) -> list[str]:
        dropped = torch.rand(len(prompts)) < self.settings.condition_dropout
        pairs = zip(prompts, dropped.tolist(), strict=True)
        return ["" if drop else prompt for prompt, drop in pairs]

    @staticmethod
    def condition(
        backbone: DiffusionBackbone, head: nn.Module, prompts: Sequence[str]
    ) -> Conditioning:
        """Encode prompts by the text encoder of the backbone, or by the head."""
        return backbone.encode_prompts(prompts) if backbone.encodes_text else head(prompts)

    def loss(self, output: DenoisingOutput, batch: Batch) -> dict[str, Tensor]:
        return {"loss": functional.mse_loss(output.prediction.float(), output.target.float())}

    def decode(self, output: DenoisingOutput, batch: Batch) -> list[DenoisingResult]:
        """Return the share of the power of the targets that is predicted, over all times."""
        dims = (0, 2, 3, 4)
        target = output.target.float()
        error = (output.prediction.float() - target).square().sum(dims)
        explained = 1 - error / target.square().sum(dims).clamp(min=_MIN_POWER)
        return [DenoisingResult(float(share)) for share in explained]

    def sample_images(
        self, backbone: Backbone, head: nn.Module
    ) -> list[tuple[str, ImagePrediction]]:
        assert isinstance(backbone, DiffusionBackbone)
        prompts = self.settings.example_prompts or [self.settings.prompt]

        def encode(part: Sequence[str]) -> Conditioning:
            return self.condition(backbone, head, part)

        images = generate_images(
            backbone,
            encode,
            prompts,
            range(len(prompts)),
            self.settings.steps,
            self.settings.guidance,
        )
        pixels = as_pixels(images, backbone.input.mean, backbone.input.std)
        return list(zip(prompts, map(ImagePrediction, pixels), strict=True))


def _prompts(target: Any, default: str) -> tuple[str, ...]:
    """The prompts of an image: its classes, its captions, or the default."""
    if isinstance(target, Labels):
        return (", ".join(target.names),)
    return target.sentences if isinstance(target, Text) else (default,)


def _fixed_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
