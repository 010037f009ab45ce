"""Image captioning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.errors import DataError, UsageError
from foveate.images.preprocessing import Framing
from foveate.messages import Message
from foveate.modeling.backbones import Backbone, CaptioningBackbone
from foveate.modeling.tasks import DataFacts, ExplainableScore, ExportStep, Task, TaskSettings
from foveate.modeling.text_decoder import (
    IGNORE_ID,
    CaptionDecoder,
    CaptionOutput,
    NativeCaptionDecoder,
    NextTokenStep,
    build_small_decoder,
    load_pretrained_decoder,
    load_pretrained_tokenizer,
    word_tokenizer,
)
from foveate.modeling.tokenizer import Tokenizer, WordTokenizer
from foveate.predictions import Text
from foveate.types import Batch, Decision, Provides, TargetTensors

_SMALL, _NATIVE, _PRETRAINED = "small", "native", "hf:"
_ATTENTION_GRID = 56  # cells along a side of the input in which attention is stored
_MAX_IMAGE_TOKENS = 1024  # positions of a small decoder for them


class CaptionSettings(TaskSettings):
    """Settings of the task."""

    decoder: str = Field(
        _SMALL,
        description="small: trained from random weights; hf:FOLDER, hf:NAME: a pretrained language "
        "model; native: the backbone's own",
    )
    vocabulary: list[str] = Field(
        default_factory=list,
        description="words of the small decoder; default: those of the training captions",
    )
    width: int = Field(256, ge=64, description="width of the small decoder")
    depth: int = Field(4, ge=1, description="blocks of the small decoder")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the small decoder")
    freeze_decoder: bool = Field(
        False,
        description="freeze a pretrained decoder, and train only the projection of the image",
    )
    prefix_tokens: int = Field(
        0,
        ge=0,
        description="learned tokens between image and text (prefix tuning, Li & Liang 2021)",
    )
    prompt: str = Field(
        "",
        description="text that begins every caption, such as 'a photo of'; not part of the result",
    )
    max_words: int = Field(40, ge=1, description="maximum number of words (or subwords)")
    beams: int = Field(3, ge=1, description="beams of the beam search; 1 = greedy")
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing of the words")


class Caption(Task):
    """Image captioning, with the coarsest maps of any backbone or with its own decoder."""

    needs: frozenset[Provides] = frozenset({Provides.MAPS})
    prediction_type: ClassVar[type[Text]] = Text
    question: ClassVar[Message] = Message("task.caption.question", "What does an image show?")
    framing: Framing = "whole"
    default_overrides: ClassVar[dict[str, Any]] = {
        "tuning": "head",
        "augment.policy": "none",
        "augment.flip": 0.0,  # captions say left and right
        "augment.crop": 0.9,
        "augment.color": 0.1,
        "training.epochs": 40,
    }
    Settings: ClassVar[type[TaskSettings]] = CaptionSettings

    settings: CaptionSettings
    tokenizer: Tokenizer

    def __init__(self, settings: Any, classes: tuple[str, ...]) -> None:
        super().__init__(settings, classes)
        self.native = settings.decoder == _NATIVE
        self.pretrained = ""  # folder or name of a language model
        if self.native:
            self.needs = frozenset({Provides.TEXT_DECODER})  # the tokenizer comes with the backbone
        elif settings.decoder == _SMALL:
            self.tokenizer = word_tokenizer(settings.vocabulary)
        else:
            self.pretrained = settings.decoder.removeprefix(_PRETRAINED)
            self.tokenizer = load_pretrained_tokenizer(self.pretrained)

    @classmethod
    def resolve_settings(
        cls,
        settings: dict[str, Any],
        targets: Sequence[Any],
        classes: tuple[str, ...],
        facts: DataFacts,
    ) -> list[Decision]:
        if settings.get("vocabulary") or settings.get("decoder", _SMALL) != _SMALL:
            return []
        captions = (target.sentences for target in targets if isinstance(target, Text))
        words = WordTokenizer.build_vocabulary(caption for each in captions for caption in each)
        text = "the {count} words and punctuation marks of the training captions"
        reason = Message("choice.caption_words", text, count=len(words))
        return [Decision("vocabulary", words, reason)]

    def head(self, backbone: Backbone) -> nn.Module:
        settings = self.settings
        if isinstance(backbone, CaptioningBackbone) and self.native:
            self.tokenizer = backbone.tokenizer
            return NativeCaptionDecoder(backbone, settings.prompt)
        if self.pretrained:
            language_model = load_pretrained_decoder(self.pretrained)
        else:
            language_model = build_small_decoder(
                self.tokenizer,
                settings.width,
                settings.depth,
                settings.dropout,
                _MAX_IMAGE_TOKENS + settings.max_words,
            )
        return CaptionDecoder(
            backbone.map_widths[-1],
            language_model,
            self.tokenizer,
            settings.prompt,
            settings.prefix_tokens,
        )

    def prepare(self, backbone: Backbone, head: nn.Module) -> None:
        if self.settings.freeze_decoder and isinstance(head, CaptionDecoder):
            head.language_model.requires_grad_(False)

    def encode(self, target: Text, size: tuple[int, int]) -> TargetTensors:
        """Return text (T,) int64: one of the captions, drawn from torch's generator, with its end.

        Raises:
            DataError: The caption is too long.
        """
        caption = target.sentences[int(torch.randint(len(target.sentences), ()))]
        ids = [*self.tokenizer.encode(caption), self.tokenizer.end]
        words = len(ids) - 1
        if words > self.settings.max_words:
            raise DataError(
                f"a caption has {words} words, the limit is {self.settings.max_words}",
                where=caption[:60],
                hint=f"--set task.max_words={words}, or a shorter caption",
            )
        return {"text": torch.tensor(ids)}

    def loss(self, output: CaptionOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the cross entropy of all words and ends."""
        assert output.logits is not None
        assert output.target_ids is not None
        return {
            "loss": functional.cross_entropy(
                output.logits.float().flatten(0, 1),
                output.target_ids.flatten(),
                ignore_index=IGNORE_ID,
                label_smoothing=self.settings.smoothing,
            )
        }

    def decode(self, output: CaptionOutput, batch: Batch) -> list[Text]:
        """Return captions with the attention to the image of each of their words."""
        generated = self._generate(output)
        predictions = []
        for index, (ids, confidence) in enumerate(zip(*generated, strict=True)):
            tokens = tuple(map(self.tokenizer.token, ids))
            maps = self._attention_maps(output, index, ids, batch) if ids else None
            predictions.append(Text((self.tokenizer.decode(ids),), confidence, tokens, maps))
        return predictions

    def _generate(self, output: CaptionOutput) -> tuple[list[list[int]], list[float]]:
        settings = self.settings
        return output.decoder.generate(output.memory, settings.max_words, settings.beams)

    def export_outputs(
        self, backbone: Backbone, head: nn.Module, images: Tensor
    ) -> dict[str, Tensor]:
        """Return prefix (B, P, D): image tokens and learned tokens.

        Raises:
            UsageError: The decoder is pretrained; its tokenizer is code of another library.
        """
        if not isinstance(head, CaptionDecoder) or self.pretrained:
            raise UsageError(
                "a pretrained decoder cannot be exported",
                where="task.decoder",
                hint="a run with --set task.decoder=small",
            )
        return {"prefix": head.prefix_embeddings(backbone(images, self.needs))}

    def export_steps(self, head: nn.Module, outputs: dict[str, Tensor]) -> dict[str, ExportStep]:
        """Return decoder: prefix (b, P, D) and ids (b, T) int64 -> log_probs (b, V) of the next."""
        assert isinstance(head, CaptionDecoder)
        ids = [*head.prompt_ids, *range(self.tokenizer.size)[-3:]]
        example = {**outputs, "ids": torch.tensor([ids] * len(outputs["prefix"]))}
        axes = {"prefix": (0,), "ids": (0, 1)}
        return {"decoder": ExportStep(NextTokenStep(head), example, axes, "log_probs")}

    def export_metadata(self) -> dict[str, Any]:
        settings, tokenizer = self.settings, self.tokenizer
        assert isinstance(tokenizer, WordTokenizer)
        generation = {
            "prompt_ids": [tokenizer.start, *tokenizer.encode(settings.prompt)],
            "end": tokenizer.end,
            "suppressed": tokenizer.suppressed,
            "max_tokens": settings.max_words,
            "beams": settings.beams,
        }
        return {"vocabulary": settings.vocabulary, "generation": generation}

    def explainable_scores(self, output: CaptionOutput, batch: Batch) -> list[ExplainableScore]:
        """Return the score of each word of the caption, punctuation left out."""
        ids = self._generate(output)[0][0]
        words = [self.tokenizer.token(id) for id in ids]
        return [
            self._explainable_score(ids[: index + 1], word)
            for index, word in enumerate(words)
            if any(map(str.isalnum, word))
        ]

    @staticmethod
    def _explainable_score(ids: list[int], word: str) -> ExplainableScore:
        def log_probability(output: CaptionOutput) -> Tensor:
            targets = torch.tensor(ids, device=output.memory.device)
            logits = output.decoder.teacher_forced_logits(
                output.memory, targets.expand(len(output.memory), -1)
            )[:, -1]
            return logits.float().log_softmax(1)[:, ids[-1]]

        return ExplainableScore(word, log_probability, lambda output: log_probability(output).exp())

    def _attention_maps(
        self, output: CaptionOutput, index: int, ids: list[int], batch: Batch
    ) -> np.ndarray:
        """(T, h, w) float16 over one image, without the padding that made it a square."""
        attention = output.decoder.attention_maps(output.memory[index : index + 1], ids)
        grids = attention.reshape(1, len(ids), *output.grid)
        size = (_ATTENTION_GRID, _ATTENTION_GRID)
        maps = functional.interpolate(grids, size, mode="bilinear", align_corners=False)[0]
        side = float(batch.views[index, 2] - batch.views[index, 0])
        height, width = (
            max(1, round(_ATTENTION_GRID * float(length) / side)) for length in batch.sizes[index]
        )
        return maps[:, :height, :width].cpu().numpy().astype(np.float16)
