"""Arithmetic and memory format, chosen by timing: bf16 doubles a ResNet's speed and slows an EfficientNet on the same CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from foveate.errors import UsageError

_GAIN = 0.15  # a change of arithmetic must save this share of the time to be worth a surprise
_ROUNDS = 2


@dataclass(frozen=True)
class ComputeMode:
    """How to compute."""

    precision: str  # "fp32" or "bf16"
    channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        return (
            torch.autocast(device.type, torch.bfloat16)
            if self.precision == "bf16"
            else nullcontext()
        )

    def __str__(self) -> str:
        return f"{self.precision}{' channels_last' if self.channels_last else ''}"


def resolve_device(word: str) -> torch.device:
    """The device that a word means; auto takes an accelerator when there is one. Raises UsageError when it is not there."""
    if word == "auto":
        word = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        torch.empty(0, device=word)
        return torch.device(word)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise UsageError(
            f"the device {word!r} is not there", where="device", why=why, hint="--device cpu"
        ) from None


def candidate_modes(precision: str, channels_last: bool | None) -> list[ComputeMode]:
    """What is left to choose from, the plainest first."""
    precisions = ["fp32", "bf16"] if precision == "auto" else [precision]
    layouts = [False, True] if channels_last is None else [channels_last]
    return [
        ComputeMode(p, layout)
        for p in precisions
        for layout in layouts
        if p == "fp32" or layout or len(layouts) == 1
    ]


def fastest_mode(candidates: list[ComputeMode], step: Callable[[ComputeMode], None]) -> tuple[ComputeMode, str]:
    """The way whose `step` takes least time, and the measurement in words. The first keeps its place unless beaten by 15 %.

    Runs are interleaved and the least times compared, because other programs share the machine, and only add to them.
    """
    if len(candidates) == 1:
        return candidates[0], "as asked"
    times: dict[ComputeMode, list[float]] = {way: [] for way in candidates}
    for round_ in range(_ROUNDS + 1):
        for way in candidates:
            start = time.perf_counter()
            step(way)
            if round_:  # the first one warms up
                times[way].append(time.perf_counter() - start)
    least = {way: min(found) for way, found in times.items()}
    best = min(least, key=lambda way: least[way])
    if least[best] > (1 - _GAIN) * least[candidates[0]]:
        best = candidates[0]
    return best, "measured: " + ", ".join(f"{way} {1000 * least[way]:.0f} ms" for way in candidates)
