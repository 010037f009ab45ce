"""From noise to pictures: the words that say what to paint, and the way there.

Letters: B pictures, C, h, w of the space that a painter paints in, L words, W width of a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from foveate.errors import UnknownName, UsageError
from foveate.modeling.backbones import Conditioning, DiffusionBackbone
from foveate.modeling.tokenizer import END, UNKNOWN, WordTokenizer

_HIGHEST = 0.98  # time of the first look, where painters that divide by what is left of the picture still can


class ClassNameTokenizer(WordTokenizer):
    """Whole names in the place of words, as they are written: 'A' and 'a' are two. Several stand with commas between them."""

    def encode(self, sentence: str) -> list[int]:
        parts = (
            [sentence]
            if sentence in self._numbers
            else [part for part in sentence.split(", ") if part]
        )
        return [self._numbers.get(part, UNKNOWN) for part in parts]


class ConditioningEncoder(nn.Module):
    """Sentences -> Said, for painters that do not read: a table of words and of their places, learnt with the picture."""

    def __init__(self, vocabulary: WordTokenizer, width: int, most: int) -> None:
        super().__init__()
        self.tokenizer, self.max_words = vocabulary, most
        self.table = nn.Embedding(vocabulary.size, width)
        self.places = nn.Parameter(0.02 * torch.randn(most + 1, width))

    def forward(self, sentences: Sequence[str]) -> Conditioning:
        """An empty sentence is its end alone."""
        where = self.places.device
        numbers = [
            torch.tensor([*self.tokenizer.encode(sentence)[: self.max_words], END], device=where)
            for sentence in sentences
        ]
        padded = pad_sequence(numbers, True, END)
        lengths = torch.tensor([len(each) for each in numbers], device=where)
        there = torch.arange(padded.shape[1], device=where) < lengths[:, None]
        return Conditioning(self.table(padded) + self.places[: padded.shape[1]], there)

    def check_prompt(self, sentence: str) -> None:
        """Raises UnknownName for a name, or a sentence of names alone, that was not learnt, UsageError for one that is too long."""
        numbers = self.tokenizer.encode(sentence)
        if numbers and (
            set(numbers) == {UNKNOWN} or (isinstance(self.tokenizer, ClassNameTokenizer) and UNKNOWN in numbers)
        ):
            raise UnknownName(sentence, self.tokenizer.tokens[UNKNOWN + 1 :], kind="thing to paint")
        if len(numbers) > self.max_words:
            what = (
                f"a sentence has {len(numbers)} words, more than the {self.max_words} that were learnt"
            )
            raise UsageError(what, where=sentence[:60], hint="a shorter one")


@dataclass(frozen=True)
class InitialImage:
    """What is there before anything is painted. `clean`: (B, C, h, w). `begin`: the time to begin at: 1 paints anew, 0 leaves all.
    `open`: (B, 1, h, w), 1 where to paint and 0 where the picture stays; None = everywhere."""

    clean: Tensor
    start_time: float = 1.0
    inpaint_mask: Tensor | None = None


@torch.inference_mode()
def generate_images(
    backbone: DiffusionBackbone,
    encode: Callable[[Sequence[str]], Conditioning],
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    initial: InitialImage | None = None,
    on_step: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """(B, 3, S, S) normalised: a picture for each sentence, from the noise of its seed, wherever and beside whatever it is painted.

    In equal steps of time the network's answer is parted into picture and noise, which are mixed again with less noise: Euler's
    method for straight lines, and DDIM (Song et al. 2021) for others. `guidance`: how far the answer goes from that to an empty
    sentence towards that to the sentence and beyond it (Ho & Salimans 2022, as w + 1); 1 asks once alone.
    """
    device = next(backbone.parameters()).device
    noise = torch.stack(
        [
            torch.randn(backbone.latent_shape, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    ).to(device)
    said = encode(prompts)
    empty = encode([""] * len(prompts)) if guidance != 1 else None
    times = torch.linspace(
        min(_HIGHEST, 1.0 if initial is None else initial.start_time), 0, steps + 1
    ).tolist()
    # painted anew, nothing of what was there may shine through
    seen = (
        noise
        if initial is None or initial.start_time >= 1
        else backbone.add_noise(initial.clean, noise, _all(times[0], noise))
    )
    for time, after in pairwise(times):
        now = _all(time, noise)
        answer = backbone.denoise(seen, now, said)
        if empty is not None:
            nothing = backbone.denoise(seen, now, empty)
            answer = nothing + guidance * (answer - nothing)
        seen = backbone.add_noise(*backbone.predict_x0_eps(seen, answer, now), _all(after, noise))
        if initial is not None and initial.inpaint_mask is not None:
            kept = backbone.add_noise(initial.clean, noise, _all(after, noise))
            seen = kept + initial.inpaint_mask * (seen - kept)
        on_step(1)
    return backbone.decode(seen)


def _all(time: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), time, device=like.device)
