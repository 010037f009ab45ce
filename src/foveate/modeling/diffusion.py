"""Image generation with a diffusion backbone: conditioning and the sampler.

Letters: B images, C, h, w of the space that the backbone denoises in, L tokens of a prompt, W their
width, S side of an image in px.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from foveate.errors import UnknownName, UsageError
from foveate.messages import counted
from foveate.modeling.backbones import Conditioning, DiffusionBackbone
from foveate.modeling.tokenizer import END, UNKNOWN, WordTokenizer

# time of the first step: at 1, a predicted noise cannot be turned into an image (division by 0)
_MAX_START_TIME = 0.98


class ClassNameTokenizer(WordTokenizer):
    """Whole class names as tokens, case-sensitive; a prompt may name several, with commas."""

    def encode(self, sentence: str) -> list[int]:
        if sentence in self._ids:
            return [self._ids[sentence]]
        return [self._ids.get(name, UNKNOWN) for name in sentence.split(", ") if name]


class ConditioningEncoder(nn.Module):
    """Prompts -> Conditioning, for backbones without a text encoder.

    Embeddings of tokens and of their positions, trained with the backbone.

    Args:
        tokenizer: Its tokenizer.
        width: W, the width of an embedding.
        max_words: Greatest number of tokens; further ones are cut off.
    """

    def __init__(self, tokenizer: WordTokenizer, width: int, max_words: int) -> None:
        super().__init__()
        self.tokenizer, self.max_words = tokenizer, max_words
        self.embedding = nn.Embedding(tokenizer.size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(max_words + 1, width))

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts; an empty one is its end token alone."""
        device = self.positions.device
        ids = [
            torch.tensor([*self.tokenizer.encode(prompt)[: self.max_words], END], device=device)
            for prompt in prompts
        ]
        padded = pad_sequence(ids, True, END)
        lengths = torch.tensor([len(each) for each in ids], device=device)
        mask = torch.arange(padded.shape[1], device=device) < lengths[:, None]
        return Conditioning(self.embedding(padded) + self.positions[: padded.shape[1]], mask)

    def check_prompt(self, prompt: str) -> None:
        """Refuse a prompt that the network has not been trained for.

        Raises:
            UnknownName: A class name is unknown, or every word is.
            UsageError: The prompt is too long.
        """
        ids = self.tokenizer.encode(prompt)
        needs_all = isinstance(self.tokenizer, ClassNameTokenizer)
        if set(ids) == {UNKNOWN} or (needs_all and UNKNOWN in ids):
            kind = "class" if needs_all else "word"
            raise UnknownName(prompt, self.tokenizer.tokens[UNKNOWN + 1 :], kind=kind)
        if len(ids) > self.max_words:
            raise UsageError(
                f"the prompt has {counted(len(ids), 'word', 'words')}, the limit of this model is "
                f"{self.max_words}",
                where=prompt[:60],
                hint="a shorter prompt",
            )


@dataclass(frozen=True)
class InitialImage:
    """An image to start from.

    Attributes:
        clean: (B, C, h, w), the image without noise.
        start_time: Time to start at, in (0, 1]: 1 generates anew, near 0 little changes.
        inpaint_mask: (B, 1, h, w), 1 where to generate and 0 where to keep the image; None
            generates everywhere.
    """

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
    """Generate an image for each prompt.

    In steps of equal time, the output of the network is split into image and noise, which are mixed
    again with less noise. That is Euler's method for flow matching, and DDIM (Song et al. 2021) for
    other diffusion models.

    Args:
        backbone: The denoiser.
        encode: Turns prompts into conditioning.
        prompts: B prompts.
        seeds: Their seeds. The noise of an image depends on its seed only, not on device or batch.
        steps: Number of steps.
        guidance: Scale of classifier-free guidance (Ho & Salimans 2022, as w + 1). 1 turns it off,
            and then each step calls the network once instead of twice.
        initial: An image to start from.
        on_step: Called with 1 after each step.

    Returns:
        (B, 3, S, S), normalized.
    """
    device = next(backbone.parameters()).device
    noise = torch.stack([_noise(backbone.latent_shape, seed) for seed in seeds]).to(device)
    conditioning = encode(prompts)
    unconditional = encode([""] * len(prompts)) if guidance != 1 else None
    start = 1.0 if initial is None else initial.start_time
    times = torch.linspace(min(_MAX_START_TIME, start), 0, steps + 1).tolist()
    # generated anew, the image must not show through
    noisy = (
        noise
        if initial is None or start >= 1
        else backbone.add_noise(initial.clean, noise, _expand(times[0], noise))
    )
    for time, next_time in pairwise(times):
        now, after = _expand(time, noise), _expand(next_time, noise)
        output = backbone.denoise(noisy, now, conditioning)
        if unconditional is not None:
            base = backbone.denoise(noisy, now, unconditional)
            output = base + guidance * (output - base)
        noisy = backbone.add_noise(*backbone.predict_x0_eps(noisy, output, now), after)
        if initial is not None and initial.inpaint_mask is not None:
            kept = backbone.add_noise(initial.clean, noise, after)
            noisy = kept + initial.inpaint_mask * (noisy - kept)
        on_step(1)
    return backbone.decode(noisy)


def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _expand(time: float, like: Tensor) -> Tensor:
    """(B,): one time for all images."""
    return torch.full((len(like),), time, device=like.device)
