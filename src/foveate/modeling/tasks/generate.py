"""New pictures like those of the data, of a class or after a sentence: a network learns to take noise off (Ho et al. 2020)."""

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
from foveate.modeling.backbones import Backbone, Conditioning, DiffusionBackbone
from foveate.modeling.diffusion import ClassNameTokenizer, ConditioningEncoder, generate_images
from foveate.modeling.tasks import DataFacts, Settled, Task, TaskSettings
from foveate.modeling.tokenizer import WordTokenizer
from foveate.predictions import DenoisingResult, ImagePrediction, Labels, Text
from foveate.types import Batch, Provides, TargetTensors

_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the looks by which it is judged
_EXAMPLES = 16
_POWER = 1e-6  # of what is asked, at the least


class GenerateSettings(TaskSettings):
    prompt: str = Field(
        "",
        description="of all pictures that have neither class nor sentence, such as 'a photo of sks dog'",
    )
    vocabulary: list[str] = Field(
        default_factory=list,
        description="classes or words that the painter knows; default: the data's",
    )
    class_conditional: bool = Field(
        False, description="whether these are names of classes; default: what the data has"
    )
    max_words: int = Field(40, ge=1, description="words of a sentence at the most")
    condition_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of pictures shown without their sentence (Ho & Salimans 2022)",
    )
    example_prompts: list[str] = Field(
        default_factory=list,
        description="sentences of pictures in reports; default: some of the data's",
    )
    steps: int = Field(30, ge=1, description="steps from noise to picture")
    guidance: float = Field(
        3.0, ge=0, description="how far to go towards what the sentence says; 1 = as learnt"
    )


@dataclass
class DenoisingOutput:
    """(T, B, C, h, w) each, of T times: what was asked, and the network's answer."""

    target: Tensor
    prediction: Tensor


class Generate(Task):
    """Its head reads sentences, where the painter does not."""

    needs: frozenset[Provides] = frozenset({Provides.NOISE})
    prediction_type: ClassVar[type[DenoisingResult]] = DenoisingResult
    question: ClassVar[str] = "What do new pictures of this kind look like?"
    target_types: ClassVar[tuple[type, ...]] = (Labels, Text, ImagePrediction)
    default_overrides: ClassVar[dict[str, Any]] = {
        "tuning": "full",
        "backbone.name": "painter_small",
        "augment.policy": "none",
        "augment.crop": 1.0,
        "augment.flip": 0.0,  # letters, digits and most things have sides
        "training.batch_size": 64,
        "training.epochs": 200,
        "training.ema": 0.999,
        "training.patience": 0,
        "training.layer_decay": 1.0,
        "training.head_start": "random",
    }
    Settings: ClassVar[type[TaskSettings]] = GenerateSettings

    settings: GenerateSettings

    @classmethod
    def resolve_settings(
        cls, settings: dict[str, Any], truths: Sequence[Any], classes: tuple[str, ...], facts: DataFacts
    ) -> list[Settled]:
        prompt = settings.get("prompt", "")
        sentences = list(
            dict.fromkeys(sentence for truth in truths for sentence in _sentences(truth, prompt))
        )
        names = any(isinstance(truth, Labels) for truth in truths)
        found: list[Settled] = []
        if "words" not in settings:
            words = list(classes) if names else WordTokenizer.build_vocabulary(sentences)
            what = "classes" if names else "words and marks of the sentences"
            found += [
                ("names", names, "this is how the data tells them"),
                ("words", words, f"the {len(words)} {what} of the data"),
            ]
        if "examples" not in settings:
            found.append(
                (
                    "examples",
                    sentences[:: max(1, len(sentences) // _EXAMPLES)][:_EXAMPLES],
                    "some of the data's",
                )
            )
        return found

    def head(self, backbone: Backbone) -> nn.Module:
        assert isinstance(backbone, DiffusionBackbone)
        asked = self.settings
        vocabulary = (ClassNameTokenizer if asked.class_conditional else WordTokenizer)(asked.vocabulary)
        return (
            nn.Identity() if backbone.encodes_text else ConditioningEncoder(vocabulary, backbone.conditioning_width, asked.max_words)
        )

    def prepare(self, backbone: Backbone, head: nn.Module) -> None:
        assert isinstance(backbone, DiffusionBackbone)
        for part in backbone.frozen_modules():
            part.requires_grad_(False)

    def encode(self, truth: Any, size: tuple[int, int]) -> TargetTensors:
        """One of the sentences, drawn from torch's generator. Raises DataError for one that is too long."""
        sentences = _sentences(truth, self.settings.prompt)
        sentence = sentences[int(torch.randint(len(sentences), ()))]
        count = 0 if self.settings.class_conditional else len(WordTokenizer(()).encode(sentence))
        if count > self.settings.max_words:
            what = f"a sentence has {count} words, more than the {self.settings.max_words} that are read"
            raise DataError(
                what, where=sentence[:60], hint=f"--set task.most={count}, or shorten it"
            )
        return {"sentence": sentence}

    def forward(self, backbone: Backbone, head: nn.Module, batch: Batch) -> DenoisingOutput:
        """To learn from, at one time each, drawn at random; without gradients, where it is judged, at several, with noise that is
        always the same for a picture."""
        assert isinstance(backbone, DiffusionBackbone)
        clean = backbone.encode(batch.images)
        sentences = [target.get("sentence", self.settings.prompt) for target in batch.targets]
        if torch.is_grad_enabled():
            silent = torch.rand(len(sentences)) < self.settings.condition_dropout
            sentences = [
                "" if each else sentence
                for each, sentence in zip(silent.tolist(), sentences, strict=True)
            ]
            draws = [
                (
                    backbone.sample_times(len(clean)).to(clean.device),
                    torch.randn(clean.shape).to(clean.device),
                )
            ]
        else:
            noise = torch.stack(
                [
                    torch.randn(clean.shape[1:], generator=_seeded(int(index)))
                    for index in batch.indices
                ]
            )
            draws = [
                (torch.full((len(clean),), time, device=clean.device), noise.to(clean.device))
                for time in _TIMES
            ]
        said = self.condition(backbone, head, sentences)
        asked = [backbone.target(clean, noise, time) for time, noise in draws]
        answers = [
            backbone.denoise(backbone.add_noise(clean, noise, time), time, said) for time, noise in draws
        ]
        return DenoisingOutput(torch.stack(asked), torch.stack(answers))

    @staticmethod
    def condition(backbone: DiffusionBackbone, head: nn.Module, sentences: Sequence[str]) -> Conditioning:
        return backbone.encode_prompts(sentences) if backbone.encodes_text else head(sentences)

    def loss(self, output: DenoisingOutput, batch: Batch) -> dict[str, Tensor]:
        return {"loss": functional.mse_loss(output.prediction.float(), output.target.float())}

    def decode(self, output: DenoisingOutput, batch: Batch) -> list[DenoisingResult]:
        """How much of what was asked the answers hold, over all times."""
        dims = (0, 2, 3, 4)
        asked, wrong = output.target.float(), output.prediction.float() - output.target.float()
        shares = 1 - wrong.square().sum(dims) / asked.square().sum(dims).clamp(min=_POWER)
        return [DenoisingResult(float(share)) for share in shares]

    def sample_images(self, backbone: Backbone, head: nn.Module) -> list[tuple[str, ImagePrediction]]:
        assert isinstance(backbone, DiffusionBackbone)
        sentences, spec = self.settings.example_prompts or [self.settings.prompt], backbone.input

        def read(asked: Sequence[str]) -> Conditioning:
            return self.condition(backbone, head, asked)

        images = generate_images(
            backbone,
            read,
            sentences,
            range(len(sentences)),
            self.settings.steps,
            self.settings.guidance,
        )
        return list(
            zip(sentences, map(ImagePrediction, as_pixels(images, spec.mean, spec.std)), strict=True)
        )


def _sentences(truth: Any, prompt: str) -> tuple[str, ...]:
    if isinstance(truth, Labels):
        return (", ".join(truth.names),)
    return truth.sentences if isinstance(truth, Text) else (prompt,)


def _seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)
