"""A head that writes: the picture's tokens stand before a causal language model's words, which may look back at them.

Letters: B images, N tokens of a picture, D the language model's width, T numbers of a sentence, V of the vocabulary.
Tsimpoukelli et al. 2021 (Frozen) and Mokady et al. 2021 (ClipCap) put pictures before a language model in this way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from foveate.errors import UsageError, WeightsError
from foveate.modeling.tokenizer import SubwordTokenizer, Tokenizer, WordTokenizer
from foveate.types import Batch, Features

_HEAD = 64  # width of an attention head
_SPARE = 64  # positions of a small decoder beyond picture and sentence, for prompts
GeneratedTokens = tuple[list[list[int]], list[float]]
"""Sentences as numbers, and how sure each is: the geometric mean of its words' probabilities."""
IGNORE_ID = -100  # where no word is asked for: cross entropy's own mark


@dataclass
class CaptionOutput:
    """`memory`: (B, N, D), what the decoder sees of the pictures, `grid` (h, w) of which h * w = N. `logits`: (B, T, V) at the
    places where the sentences' `numbers` (B, T) are asked for, NOTHING in padding; None where there is no truth."""

    memory: Tensor
    grid: tuple[int, int]
    decoder: CaptionDecoder | NativeCaptionDecoder
    logits: Tensor | None = None
    target_ids: Tensor | None = None


class CaptionDecoder(nn.Module):
    """Coarsest maps -> tokens -> a decoder. `decoder`: a causal language model of the transformers library; `prefix`: how many
    learnt tokens stand between picture and words; `prompt`: words that begin every sentence."""

    def __init__(
        self, channels: int, decoder: Any, vocabulary: Tokenizer, prompt: str, prefix: int
    ) -> None:
        super().__init__()
        self.tokenizer, self.decoder = vocabulary, decoder
        width = self.width = int(decoder.get_input_embeddings().embedding_dim)
        self.project = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width)
        )
        self.prefix = nn.Parameter(0.02 * torch.randn(prefix, width)) if prefix else None
        self.prompt_ids = [vocabulary.start, *vocabulary.encode(prompt)]

    def forward(self, features: Features, batch: Batch) -> CaptionOutput:
        last = features.maps[-1]
        return _taught(CaptionOutput(self._memory(last), (last.shape[-2], last.shape[-1]), self), batch)

    def prefix_embeddings(self, features: Features) -> Tensor:
        """(B, N + P, D): picture and learnt tokens, before any word."""
        return self._with_learnt(self._memory(features.maps[-1]))

    def _memory(self, last: Tensor) -> Tensor:
        tokens = last.flatten(2).transpose(1, 2)
        found: Tensor = self.project(tokens) + _places(
            last.shape[-2], last.shape[-1], self.width
        ).to(tokens)
        return found

    def _with_learnt(self, memory: Tensor) -> Tensor:
        if self.prefix is None:
            return memory
        return torch.cat([memory, self.prefix.to(memory).expand(len(memory), -1, -1)], 1)

    def teacher_forced_logits(self, memory: Tensor, numbers: Tensor) -> Tensor:
        """Each word is asked for after the true words before it."""
        before = self._before(memory)
        words = self.decoder.get_input_embeddings()(numbers[:, :-1].clamp(min=0))
        logits: Tensor = self.decoder(inputs_embeds=torch.cat([before, words], 1)).logits
        return logits[:, before.shape[1] - 1 :]

    def _before(self, memory: Tensor) -> Tensor:
        """(B, N + P, D): picture, learnt tokens, opening words."""
        opening = self.decoder.get_input_embeddings()(
            torch.tensor(self.prompt_ids, device=memory.device)
        )
        return torch.cat(
            [self._with_learnt(memory), opening.to(memory).expand(len(memory), -1, -1)], 1
        )

    def generate(self, memory: Tensor, most: int, beams: int) -> GeneratedTokens:
        """Sentences of at most `most` numbers, by beam search (greedy with one beam)."""
        before = self._before(memory.float())
        there = torch.ones(before.shape[:2], dtype=torch.long, device=before.device)
        return beam_search(
            self.decoder, self.tokenizer, most, beams, inputs_embeds=before, attention_mask=there
        )

    def attention_maps(self, memory: Tensor, numbers: list[int]) -> Tensor:
        """(T, N): where in one picture, `memory` (1, N, D), the decoder looked before it wrote each number: attention, the mean
        over layers and heads, of which the picture's part is brought to a sum of 1."""
        before = self._before(memory.float())
        words = self.decoder.get_input_embeddings()(
            torch.tensor([numbers[:-1]], dtype=torch.long, device=memory.device)
        )
        seen = self.decoder(
            inputs_embeds=torch.cat([before, words], 1), output_attentions=True
        ).attentions
        mean = torch.stack([layer[0].float().mean(0) for layer in seen]).mean(0)
        pictured = mean[before.shape[1] - 1 :, : memory.shape[1]]
        return pictured / pictured.sum(1, keepdim=True).clamp(min=1e-9)


class NextTokenStep(nn.Module):
    """One step of a Writer, for other runtimes: before (b, P, D) and numbers (b, T), the opening words among them -> (b, V) log
    probabilities of the next number."""

    def __init__(self, writer: CaptionDecoder) -> None:
        super().__init__()
        self.decoder = writer.decoder

    def forward(self, before: Tensor, numbers: Tensor) -> Tensor:
        words = self.decoder.get_input_embeddings()(numbers)
        logits: Tensor = self.decoder(
            inputs_embeds=torch.cat([before, words], 1), use_cache=False
        ).logits
        return logits[:, -1].float().log_softmax(1)


class NativeCaptionDecoder(nn.Module):
    """The head where the backbone writes by itself (a WritingBackbone, which it looks at and does not hold): nothing is added."""

    def __init__(self, backbone: Any, prompt: str) -> None:
        super().__init__()
        self._whose = [backbone]  # in a list: its weights are the model's already
        self.prompt_ids = [backbone.vocabulary.start, *backbone.vocabulary.encode(prompt)]

    def forward(self, features: Features, batch: Batch) -> CaptionOutput:
        memory: Tensor = features.native
        side = math.isqrt(memory.shape[1])
        return _taught(CaptionOutput(memory, (side, side), self), batch)

    def teacher_forced_logits(self, memory: Tensor, numbers: Tensor) -> Tensor:
        """As Writer's."""
        opening = torch.tensor(self.prompt_ids, device=memory.device).expand(len(memory), -1)
        said: Tensor = self._whose[0].next_token_logits(
            memory, torch.cat([opening, numbers[:, :-1].clamp(min=0)], 1)
        )
        return said[:, len(self.prompt_ids) - 1 :]

    def generate(self, memory: Tensor, most: int, beams: int) -> GeneratedTokens:
        found: GeneratedTokens = self._whose[0].generate(memory.float(), self.prompt_ids, most, beams)
        return found

    def attention_maps(self, memory: Tensor, numbers: list[int]) -> Tensor:
        """As Writer's: of the tokens that lie in the grid."""
        side = math.isqrt(memory.shape[1])
        seen: Tensor = self._whose[0].attention_maps(memory.float(), [*self.prompt_ids, *numbers[:-1]])
        pictured = seen[len(self.prompt_ids) - 1 :, -side * side :]
        return pictured / pictured.sum(1, keepdim=True).clamp(min=1e-9)


def _taught(found: CaptionOutput, batch: Batch) -> CaptionOutput:
    """With what the writer says where the true sentences are known."""
    if all(batch.targets):
        found.target_ids = pad_sequence([target["text"] for target in batch.targets], True, IGNORE_ID)
        found.logits = found.decoder.teacher_forced_logits(found.memory, found.target_ids)
    return found


def beam_search(decoder: Any, words: Tokenizer, most: int, beams: int, **given: Tensor) -> GeneratedTokens:
    """What a language model of the transformers library writes behind what it is `given`."""
    found = decoder.generate(
        **given,
        max_new_tokens=most,
        num_beams=beams,
        do_sample=False,
        eos_token_id=words.end,
        pad_token_id=words.end,
        suppress_tokens=words.suppressed or None,
        return_dict_in_generate=True,
        output_scores=True,
    )
    steps = decoder.compute_transition_scores(
        found.sequences, found.scores, found.get("beam_indices"), normalize_logits=True
    )
    numbers = [_ended(row, words.end) for row in found.sequences[:, -steps.shape[1] :].tolist()]
    sure = [row[: len(own) + 1] for row, own in zip(steps, numbers, strict=True)]
    return numbers, [math.exp(float(row.clamp(min=-50).mean())) for row in sure]


def build_small_decoder(vocabulary: Tokenizer, width: int, depth: int, dropout: float, room: int) -> Any:
    """GPT-2's architecture with random weights; `room`: positions for picture and sentence."""
    from transformers import GPT2Config, GPT2LMHeadModel

    if width % _HEAD:
        hint = f"--set task.width={max(1, width // _HEAD) * _HEAD}"
        raise UsageError(
            f"a width of {width} is no multiple of {_HEAD}", where="task.width", hint=hint
        )
    config = GPT2Config(
        vocab_size=vocabulary.size,
        n_positions=room + _SPARE,
        n_embd=width,
        n_layer=depth,
        n_head=width // _HEAD,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=vocabulary.start,
        eos_token_id=vocabulary.end,
    )
    config._attn_implementation = "eager"  # the others do not tell where they looked
    return GPT2LMHeadModel(config)


def load_pretrained_decoder(folder: str) -> Any:
    """A causal language model from a folder or the hub; raises WeightsError where it cannot be had."""
    from transformers import AutoModelForCausalLM

    return _opened(
        partial(AutoModelForCausalLM.from_pretrained, attn_implementation="eager"), folder
    )


def load_pretrained_tokenizer(folder: str) -> SubwordTokenizer:
    """Its tokenizer; raises WeightsError where it cannot be had."""
    from transformers import AutoTokenizer

    return SubwordTokenizer(_opened(AutoTokenizer.from_pretrained, folder))


def disable_progress_bars() -> None:
    """The transformers library draws bars while it reads weights, whoever asked."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _opened(open_: Callable[..., Any], folder: str) -> Any:
    disable_progress_bars()
    try:
        return open_(folder, local_files_only=Path(folder).is_dir())
    except (OSError, ValueError) as error:
        hint = "a folder with config.json, model.safetensors and a tokenizer, or task.decoder=small"
        why = str(error).splitlines()[0]
        raise WeightsError(
            "this language model cannot be opened", where=folder, why=why, hint=hint
        ) from None


def _ended(numbers: list[int], end: int) -> list[int]:
    return numbers[: numbers.index(end)] if end in numbers else numbers


def _places(height: int, width: int, size: int) -> Tensor:
    """(h * w, size): where a token lies, half of it for the row and half for the column (Vaswani et al. 2017, section 3.5)."""
    quarter = size // 4
    rates = torch.exp(-math.log(10_000.0) * torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [place.reshape(-1, 1) * rates for place in (rows, columns)]
    found = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)
    return torch.nn.functional.pad(found, (0, size - found.shape[1]))


def word_tokenizer(words: list[str]) -> WordTokenizer:
    """The listed words; raises UsageError where there are none."""
    if not words:
        raise UsageError(
            "the decoder knows no word",
            where="task.words",
            hint="foveate fit lists those of the training sentences",
        )
    return WordTokenizer(words)
