"""A sentence about a picture."""

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
from foveate.modeling.backbones import Backbone, CaptioningBackbone
from foveate.modeling.tasks import (
    DataFacts,
    ExplainableScore,
    ExportStep,
    Settled,
    Task,
    TaskSettings,
)
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
from foveate.types import Batch, Provides, TargetTensors

_SMALL, _NATIVE, _HF = "small", "native", "hf:"
_GRID = 56  # cells along the square in which attention is kept
_PICTURE = 1024  # tokens of a picture that a small decoder has positions for


class CaptionSettings(TaskSettings):
    decoder: str = Field(
        _SMALL,
        description="small: from nothing; hf:FOLDER, hf:NAME: a language model; native: the backbone's",
    )
    vocabulary: list[str] = Field(
        default_factory=list,
        description="vocabulary of the small decoder; default: that of the sentences",
    )
    width: int = Field(256, ge=64, description="width of the small decoder")
    depth: int = Field(4, ge=1, description="blocks of the small decoder")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout in the small decoder")
    freeze_decoder: bool = Field(
        False,
        description="leave a pretrained decoder as it is, and train what leads the picture to it",
    )
    prefix_tokens: int = Field(
        0,
        ge=0,
        description="learnt tokens between picture and words (prefix tuning, Li & Liang 2021)",
    )
    prompt: str = Field(
        "",
        description="words that begin every sentence, such as 'a photo of'; they are no part of the answer",
    )
    max_words: int = Field(40, ge=1, description="words (or subwords) of a sentence at the most")
    beams: int = Field(3, ge=1, description="beams of the search for the best sentence; 1 = greedy")
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing of the words")


class Caption(Task):
    """Reads the coarsest maps, so that every backbone will do; or leaves the writing to the backbone."""

    needs: frozenset[Provides] = frozenset({Provides.MAPS})
    prediction_type: ClassVar[type[Text]] = Text
    question: ClassVar[str] = "What is there to say about a picture?"
    framing: Framing = "whole"
    default_overrides: ClassVar[dict[str, Any]] = {
        "tuning": "head",
        "augment.policy": "none",
        "augment.flip": 0.0,  # left and right are words
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
        if self.native:
            self.needs = frozenset({Provides.WORDS})
            return  # the vocabulary is the backbone's
        self.folder = "" if settings.decoder == _SMALL else settings.decoder.removeprefix(_HF)
        self.tokenizer = (
            load_pretrained_tokenizer(self.folder) if self.folder else word_tokenizer(settings.words)
        )

    @classmethod
    def resolve_settings(
        cls, settings: dict[str, Any], truths: Sequence[Any], classes: tuple[str, ...], facts: DataFacts
    ) -> list[Settled]:
        if settings.get("words") or settings.get("decoder", _SMALL) != _SMALL:
            return []
        words = WordTokenizer.build_vocabulary(
            sentence for truth in truths if isinstance(truth, Text) for sentence in truth.sentences
        )
        return [
            ("words", words, f"the {len(words)} words and marks of the sentences to learn from")
        ]

    def head(self, backbone: Backbone) -> nn.Module:
        asked = self.settings
        if isinstance(backbone, CaptioningBackbone) and self.native:
            self.tokenizer = backbone.tokenizer
            return NativeCaptionDecoder(backbone, asked.prompt)
        words = self.tokenizer
        if self.folder:
            decoder = load_pretrained_decoder(self.folder)
        else:
            decoder = build_small_decoder(
                words, asked.width, asked.depth, asked.dropout, _PICTURE + asked.max_words
            )
        return CaptionDecoder(backbone.map_widths[-1], decoder, words, asked.prompt, asked.prefix_tokens)

    def prepare(self, backbone: Backbone, head: nn.Module) -> None:
        if self.settings.freeze_decoder and isinstance(head, CaptionDecoder):
            head.decoder.requires_grad_(False)

    def encode(self, truth: Text, size: tuple[int, int]) -> TargetTensors:
        """One of the sentences, drawn from torch's generator, and its end. Raises DataError for one that is too long."""
        sentence = truth.sentences[int(torch.randint(len(truth.sentences), ()))]
        numbers = [*self.tokenizer.encode(sentence), self.tokenizer.end]
        if len(numbers) > self.settings.max_words + 1:
            what = f"a sentence has {len(numbers) - 1} words, more than the {self.settings.max_words} that fit"
            raise DataError(
                what, where=sentence[:60], hint=f"--set task.most={len(numbers) - 1}, or shorten it"
            )
        return {"text": torch.tensor(numbers)}

    def loss(self, output: CaptionOutput, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the words, their ends included."""
        assert output.logits is not None
        assert output.target_ids is not None
        flat, asked = output.logits.float().flatten(0, 1), output.target_ids.flatten()
        return {
            "loss": functional.cross_entropy(
                flat, asked, ignore_index=IGNORE_ID, label_smoothing=self.settings.smoothing
            )
        }

    def decode(self, output: CaptionOutput, batch: Batch) -> list[Text]:
        """The sentences found by beam search, and where the decoder looked for each of their words."""
        found, answers = (
            output.decoder.generate(output.memory, self.settings.max_words, self.settings.beams),
            [],
        )
        for place, (numbers, sure) in enumerate(zip(*found, strict=True)):
            words = tuple(map(self.tokenizer.token, numbers))
            looks = self._looks(output, place, numbers, batch) if numbers else None
            answers.append(Text((self.tokenizer.decode(numbers),), sure, words, looks))
        return answers

    def export_outputs(self, backbone: Backbone, head: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """before (B, P, D): the picture, and the learnt tokens behind it. Raises UsageError for pretrained decoders, whose
        tokenizers are programs of other libraries."""
        if not isinstance(head, CaptionDecoder) or self.folder:
            hint = "a run with --set task.decoder=small"
            raise UsageError(
                "a pretrained decoder cannot be exported", where="task.decoder", hint=hint
            )
        return {"before": head.prefix_embeddings(backbone(images, self.needs))}

    def export_steps(self, head: nn.Module, outputs: dict[str, Tensor]) -> dict[str, ExportStep]:
        """words: `before` (b, P, D) and numbers (b, T) int64 -> logs (b, V), the log probabilities of the next number."""
        assert isinstance(head, CaptionDecoder)
        numbers = torch.tensor(
            [[*head.prompt_ids, *range(self.tokenizer.size)[-3:]]] * len(outputs["before"])
        )
        return {
            "words": ExportStep(
                NextTokenStep(head),
                {**outputs, "numbers": numbers},
                {"before": (0,), "numbers": (0, 1)},
                "logs",
            )
        }

    def export_metadata(self) -> dict[str, Any]:
        asked, words = self.settings, self.tokenizer
        assert isinstance(words, WordTokenizer)
        opening = [words.start, *words.encode(asked.prompt)]
        searched = {
            "opening": opening,
            "end": words.end,
            "banned": words.suppressed,
            "most": asked.max_words,
            "beams": asked.beams,
        }
        return {"words": asked.vocabulary, "search": searched}

    def explainable_scores(self, output: CaptionOutput, batch: Batch) -> list[ExplainableScore]:
        """Why each word of the sentence that is written; punctuation asks nothing."""
        numbers = output.decoder.generate(output.memory, self.settings.max_words, self.settings.beams)[0][0]
        words = [(place, self.tokenizer.token(number)) for place, number in enumerate(numbers)]
        return [
            self._question(numbers[: place + 1], word)
            for place, word in words
            if any(map(str.isalnum, word))
        ]

    @staticmethod
    def _question(numbers: list[int], word: str) -> ExplainableScore:
        def logs(output: CaptionOutput) -> Tensor:
            asked = torch.tensor(numbers, device=output.memory.device).expand(
                len(output.memory), -1
            )
            logits = output.decoder.teacher_forced_logits(output.memory, asked)[:, -1]
            return logits.float().log_softmax(1)[:, numbers[-1]]

        return ExplainableScore(word, logs, lambda output: logs(output).exp())

    def _looks(self, output: CaptionOutput, place: int, numbers: list[int], batch: Batch) -> np.ndarray:
        """(T, h, w) float16: over the picture, without the padding that made it a square."""
        cells = output.decoder.attention_maps(output.memory[place : place + 1], numbers).reshape(
            1, len(numbers), *output.grid
        )
        square = functional.interpolate(
            cells, (_GRID, _GRID), mode="bilinear", align_corners=False
        )[0]
        side = float(batch.views[place, 2] - batch.views[place, 0])
        height, width = (
            max(1, round(_GRID * float(length) / side)) for length in batch.sizes[place]
        )
        return square[:, :height, :width].cpu().numpy().astype(np.float16)
