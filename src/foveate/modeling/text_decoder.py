"""Caption heads: a causal language model attends to image tokens that stand before its text.

Tsimpoukelli et al. 2021 (Frozen) and Mokady et al. 2021 (ClipCap) prompt a language model with
images in this way.

Letters: B images, N tokens of an image, P learned prefix tokens, D width of the language model,
T token ids of a caption, V size of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from foveate.errors import UsageError, WeightsError
from foveate.modeling.tokenizer import SubwordTokenizer, Tokenizer, WordTokenizer
from foveate.types import Batch, Features

_HEAD_WIDTH = 64  # of an attention head
_SPARE_POSITIONS = 64  # of a small decoder, for prompts
IGNORE_ID = -100  # target id of padding: the ignore_index of torch's cross entropy


class GeneratedTokens(NamedTuple):
    """Generated captions.

    Attributes:
        ids: Token ids of each caption, without start and end.
        confidences: The geometric mean of the token probabilities of each caption, in [0, 1].
    """

    ids: list[list[int]]
    confidences: list[float]


@dataclass
class CaptionOutput:
    """What a caption head returns.

    Attributes:
        memory: (B, N, D), image tokens that the decoder attends to.
        grid: (h, w) of the image tokens, h * w = N.
        decoder: The head, which generates captions from the memory.
        logits: (B, T, V) for each id of the targets; None without targets.
        target_ids: (B, T), IGNORE_ID where padded; None without targets.
    """

    memory: Tensor
    grid: tuple[int, int]
    decoder: CaptionDecoder | NativeCaptionDecoder
    logits: Tensor | None = None
    target_ids: Tensor | None = None


class CaptionDecoder(nn.Module):
    """Project the coarsest map to tokens, and generate text after them.

    Args:
        channels: Channels of the coarsest map.
        language_model: A causal language model of the transformers library.
        tokenizer: Its tokenizer.
        prompt: Text that begins every caption.
        prefix_tokens: Number of learned tokens between image and text.
    """

    def __init__(
        self,
        channels: int,
        language_model: Any,
        tokenizer: Tokenizer,
        prompt: str,
        prefix_tokens: int,
    ) -> None:
        super().__init__()
        self.tokenizer, self.language_model = tokenizer, language_model
        width = self.width = int(language_model.get_input_embeddings().embedding_dim)
        self.project = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width)
        )
        self.prefix = (
            nn.Parameter(0.02 * torch.randn(prefix_tokens, width)) if prefix_tokens else None
        )
        self.prompt_ids = [tokenizer.start, *tokenizer.encode(prompt)]

    def forward(self, features: Features, batch: Batch) -> CaptionOutput:
        last = features.maps[-1]
        output = CaptionOutput(self._memory(last), (last.shape[-2], last.shape[-1]), self)
        return _with_logits(output, batch)

    def prefix_embeddings(self, features: Features) -> Tensor:
        """Return (B, N + P, D): image tokens and learned prefix, before any text."""
        return self._with_prefix(self._memory(features.maps[-1]))

    def _memory(self, last: Tensor) -> Tensor:
        height, width = last.shape[-2:]
        tokens = last.flatten(2).transpose(1, 2)
        projected: Tensor = self.project(tokens)
        return projected + _position_encoding(height, width, self.width).to(tokens)

    def _with_prefix(self, memory: Tensor) -> Tensor:
        if self.prefix is None:
            return memory
        return torch.cat([memory, self.prefix.to(memory).expand(len(memory), -1, -1)], 1)

    def teacher_forced_logits(self, memory: Tensor, ids: Tensor) -> Tensor:
        """Return (B, T, V): logits of each of the ids (B, T), given the true ids before it."""
        context = self._context(memory)
        known = self._embed(ids[:, :-1].clamp(min=0))
        logits: Tensor = self.language_model(inputs_embeds=torch.cat([context, known], 1)).logits
        return logits[:, context.shape[1] - 1 :]

    def _embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.language_model.get_input_embeddings()(ids)
        return embedded

    def _context(self, memory: Tensor) -> Tensor:
        """(B, N + P + prompt, D): image tokens, learned prefix, prompt."""
        prompt = self._embed(torch.tensor(self.prompt_ids, device=memory.device))
        prompts = prompt.to(memory).expand(len(memory), -1, -1)
        return torch.cat([self._with_prefix(memory), prompts], 1)

    def generate(self, memory: Tensor, max_tokens: int, beams: int) -> GeneratedTokens:
        """Generate captions of at most `max_tokens` ids by beam search (greedy with one beam)."""
        context = self._context(memory.float())
        mask = torch.ones(context.shape[:2], dtype=torch.long, device=context.device)
        return beam_search(
            self.language_model,
            self.tokenizer,
            max_tokens,
            beams,
            inputs_embeds=context,
            attention_mask=mask,
        )

    def attention_maps(self, memory: Tensor, ids: list[int]) -> Tensor:
        """Return (T, N): attention to the image before each id was generated.

        It is the mean over layers and heads, normalized to a sum of 1 over the image.

        Args:
            memory: (1, N, D) of one image.
            ids: The T generated ids.
        """
        context = self._context(memory.float())
        known = self._embed(torch.tensor([ids[:-1]], dtype=torch.long, device=memory.device))
        layers = self.language_model(
            inputs_embeds=torch.cat([context, known], 1), output_attentions=True
        ).attentions
        mean = torch.stack([layer[0].float().mean(0) for layer in layers]).mean(0)
        return _normalize_rows(mean[context.shape[1] - 1 :, : memory.shape[1]])


class NextTokenStep(nn.Module):
    """One step of a CaptionDecoder, for other runtimes.

    Inputs are prefix embeddings (b, P, D) and ids (b, T), which begin with the prompt. The output,
    (b, V), is the log-probabilities of the next id.
    """

    def __init__(self, decoder: CaptionDecoder) -> None:
        super().__init__()
        self.language_model = decoder.language_model

    def forward(self, prefix: Tensor, ids: Tensor) -> Tensor:
        embedded = self.language_model.get_input_embeddings()(ids)
        logits: Tensor = self.language_model(
            inputs_embeds=torch.cat([prefix, embedded], 1), use_cache=False
        ).logits
        return logits[:, -1].float().log_softmax(1)


class NativeCaptionDecoder(nn.Module):
    """The head of a CaptioningBackbone, which has a decoder of its own: nothing is added.

    It refers to the backbone but does not register it: its weights belong to the model already.
    """

    def __init__(self, backbone: Any, prompt: str) -> None:
        super().__init__()
        self._backbone = [backbone]  # a list hides it from nn.Module
        self.prompt_ids = [backbone.tokenizer.start, *backbone.tokenizer.encode(prompt)]

    def forward(self, features: Features, batch: Batch) -> CaptionOutput:
        memory: Tensor = features.native
        side = math.isqrt(memory.shape[1])
        return _with_logits(CaptionOutput(memory, (side, side), self), batch)

    def teacher_forced_logits(self, memory: Tensor, ids: Tensor) -> Tensor:
        """Like that of CaptionDecoder."""
        prompt = torch.tensor(self.prompt_ids, device=memory.device).expand(len(memory), -1)
        logits: Tensor = self._backbone[0].next_token_logits(
            memory, torch.cat([prompt, ids[:, :-1].clamp(min=0)], 1)
        )
        return logits[:, len(self.prompt_ids) - 1 :]

    def generate(self, memory: Tensor, max_tokens: int, beams: int) -> GeneratedTokens:
        """Like that of CaptionDecoder."""
        generated: GeneratedTokens = self._backbone[0].generate(
            memory.float(), self.prompt_ids, max_tokens, beams
        )
        return generated

    def attention_maps(self, memory: Tensor, ids: list[int]) -> Tensor:
        """Like that of CaptionDecoder, over the tokens that lie in the grid."""
        side = math.isqrt(memory.shape[1])
        attention: Tensor = self._backbone[0].attention_maps(
            memory.float(), [*self.prompt_ids, *ids[:-1]]
        )
        return _normalize_rows(attention[len(self.prompt_ids) - 1 :, -side * side :])


def _normalize_rows(attention: Tensor) -> Tensor:
    return attention / attention.sum(1, keepdim=True).clamp(min=1e-9)


def _with_logits(output: CaptionOutput, batch: Batch) -> CaptionOutput:
    """Add the logits of the target captions, if there are any."""
    if all(batch.targets):
        ids = [target["text"] for target in batch.targets]
        output.target_ids = pad_sequence(ids, True, IGNORE_ID)
        output.logits = output.decoder.teacher_forced_logits(output.memory, output.target_ids)
    return output


def beam_search(
    language_model: Any, tokenizer: Tokenizer, max_tokens: int, beams: int, **context: Tensor
) -> GeneratedTokens:
    """Generate text with a language model of the transformers library.

    Args:
        language_model: The model.
        tokenizer: Says which id ends a caption, and which are suppressed.
        max_tokens: Greatest number of ids.
        beams: Number of beams; 1 is greedy.
        context: What `generate` of the library conditions on.
    """
    result = language_model.generate(
        **context,
        max_new_tokens=max_tokens,
        num_beams=beams,
        do_sample=False,
        eos_token_id=tokenizer.end,
        pad_token_id=tokenizer.end,
        suppress_tokens=tokenizer.suppressed or None,
        return_dict_in_generate=True,
        output_scores=True,
    )
    scores = language_model.compute_transition_scores(
        result.sequences, result.scores, result.get("beam_indices"), normalize_logits=True
    )
    new = result.sequences[:, -scores.shape[1] :].tolist()
    ids = [_before_end(row, tokenizer.end) for row in new]
    # the end of a caption counts as well
    logs = [row[: len(own) + 1] for row, own in zip(scores, ids, strict=True)]
    return GeneratedTokens(ids, [math.exp(float(row.clamp(min=-50).mean())) for row in logs])


def _before_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def build_small_decoder(
    tokenizer: Tokenizer, width: int, depth: int, dropout: float, positions: int
) -> Any:
    """Build a small GPT-2 with random weights.

    Args:
        tokenizer: Its tokenizer.
        width: Width of the embeddings.
        depth: Number of blocks.
        dropout: Dropout probability everywhere.
        positions: Positions for image tokens and text; some more are added for prompts.

    Raises:
        UsageError: The width is not a multiple of the width of an attention head.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    if width % _HEAD_WIDTH:
        nearest = max(1, width // _HEAD_WIDTH) * _HEAD_WIDTH
        raise UsageError(
            f"a width of {width} is not a multiple of {_HEAD_WIDTH}",
            where="task.width",
            hint=f"--set task.width={nearest}",
        )
    config = GPT2Config(
        vocab_size=tokenizer.size,
        n_positions=positions + _SPARE_POSITIONS,
        n_embd=width,
        n_layer=depth,
        n_head=width // _HEAD_WIDTH,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=tokenizer.start,
        eos_token_id=tokenizer.end,
    )
    config._attn_implementation = "eager"  # the others do not return attention weights
    return GPT2LMHeadModel(config)


def load_pretrained_decoder(location: str) -> Any:
    """Load a causal language model from a folder or the hub.

    Raises:
        WeightsError: It is unavailable.
    """
    from transformers import AutoModelForCausalLM

    load = partial(AutoModelForCausalLM.from_pretrained, attn_implementation="eager")
    return _load(load, location)


def load_pretrained_tokenizer(location: str) -> SubwordTokenizer:
    """Load the tokenizer of a language model.

    Raises:
        WeightsError: It is unavailable.
    """
    from transformers import AutoTokenizer

    return SubwordTokenizer(_load(AutoTokenizer.from_pretrained, location))


def disable_progress_bars() -> None:
    """Turn off the progress bars that transformers draws while it reads weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _load(from_pretrained: Callable[..., Any], location: str) -> Any:
    disable_progress_bars()
    try:
        return from_pretrained(location, local_files_only=Path(location).is_dir())
    except (OSError, ValueError) as error:
        raise WeightsError(
            "this language model cannot be loaded",
            where=location,
            why=str(error).splitlines()[0],
            hint="a folder with config.json, model.safetensors and a tokenizer, "
            "or --set task.decoder=small",
        ) from None


def _position_encoding(height: int, width: int, channels: int) -> Tensor:
    """(h * w, channels): sines and cosines of the row in one half, of the column in the other.

    Vaswani et al. 2017, section 3.5, in two dimensions.
    """
    quarter = channels // 4
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (rows, columns)]
    encoding = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)
    return functional.pad(encoding, (0, channels - encoding.shape[1]))


def word_tokenizer(vocabulary: list[str]) -> WordTokenizer:
    """Return a tokenizer of these words.

    Raises:
        UsageError: There are none.
    """
    if not vocabulary:
        raise UsageError(
            "the vocabulary of the decoder is empty",
            where="task.vocabulary",
            hint="foveate fit fills it with the words of the training captions",
        )
    return WordTokenizer(vocabulary)
