"""Devices, precision and memory format: what to compute on, and how.

The mode is chosen by timing: bf16 doubles the speed of a ResNet and slows an EfficientNet down on
the same CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from foveate.errors import UsageError, did_you_mean
from foveate.messages import Message

_MIN_SPEEDUP = 0.15  # share of the time that a change of precision must save to be worth it
_DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps")  # that messages name
MODE_ROUNDS = 2
"""Timed runs of each mode, after one that warms up."""

T = TypeVar("T")


class ComputeSettings(Protocol):
    """The fields of a recipe's `training` section that say how to compute."""

    precision: Any
    channels_last: Any


@dataclass(frozen=True)
class ComputeMode:
    """How to compute.

    Attributes:
        precision: "fp32" or "bf16" (autocast; the weights stay float32).
        channels_last: whether images and convolution weights are NHWC in memory.
    """

    precision: str
    channels_last: bool

    @classmethod
    def for_training(cls, settings: ComputeSettings) -> ComputeMode:
        """Return the mode of a recipe whose precision and memory format are resolved."""
        return cls(settings.precision, bool(settings.channels_last))

    @classmethod
    def for_inference(cls, settings: ComputeSettings) -> ComputeMode:
        """Return the mode that a trained model predicts in: float32, same memory format."""
        return cls("fp32", bool(settings.channels_last))

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which a forward pass and its loss are computed."""
        if self.precision == "bf16":
            return torch.autocast(device.type, torch.bfloat16)
        return nullcontext()

    def __str__(self) -> str:
        return f"{self.precision}{' channels_last' if self.channels_last else ''}"


def to_device(value: T, device: torch.device, mode: ComputeMode) -> T:
    """Move a model (in place), a batch or a tensor to a device, in the memory format of `mode`."""
    moved: T = value.to(device, memory_format=mode.memory_format)  # type: ignore[attr-defined]
    return moved


def resolve_device(name: str) -> torch.device:
    """Return the device of that name; "auto" takes an accelerator if there is one.

    Raises:
        UsageError: The device is not available.
    """
    if name == "auto":
        name = _best_device()
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, TypeError):
        raise _no_device(str(name)) from None


def _no_device(name: str) -> UsageError:
    """The error for a device that there is not: of an unknown name, or not in this computer."""
    kind, _, number = name.partition(":")
    if kind not in ("cuda", "mps") or (number and not number.isdigit()):
        hint = did_you_mean(name, _DEVICES) or f"one of: {', '.join(_DEVICES)}"
        return UsageError(f"no device is called {name!r}", where="--device", hint=hint)
    count = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    what = f"there is no {kind.upper()} device on this computer"
    if count:
        what = f"there is no {kind.upper()} device {number} on this computer: they count from 0, "
        what += f"and there {'is' if count == 1 else 'are'} {count}"
    return UsageError(what, where="--device", hint="--device cpu, or --device auto")


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def candidate_modes(precision: str, channels_last: bool | None) -> list[ComputeMode]:
    """Return the modes that the settings leave open, the default first.

    Where the memory format is open, bf16 is tried in channels_last alone.

    Args:
        precision: "auto", "fp32" or "bf16".
        channels_last: The memory format; None leaves it open.
    """
    precisions = ["fp32", "bf16"] if precision == "auto" else [precision]
    formats = [False, True] if channels_last is None else [channels_last]
    return [
        ComputeMode(precision, last)
        for precision in precisions
        for last in formats
        if precision == "fp32" or last or len(formats) == 1
    ]


def fastest_mode(
    candidates: list[ComputeMode], step: Callable[[ComputeMode], None]
) -> tuple[ComputeMode, Message]:
    """Return the mode whose `step` takes the least time, and a message with the measurements.

    The first candidate is kept unless another one is faster by 15 %. Runs are interleaved and the
    least times compared, because other programs share the machine, and can only add to them.
    """
    if len(candidates) == 1:
        return candidates[0], Message("choice.as_set", "as set")
    times: dict[ComputeMode, list[float]] = {mode: [] for mode in candidates}
    for round_ in range(MODE_ROUNDS + 1):
        for mode in candidates:
            start = time.perf_counter()
            step(mode)
            if round_:  # the first one warms up
                times[mode].append(time.perf_counter() - start)
    least = {mode: min(seconds) for mode, seconds in times.items()}
    default, best = candidates[0], min(least, key=lambda mode: least[mode])
    measured = ", ".join(f"{mode} {1000 * least[mode]:.0f} ms" for mode in least)
    reason = Message("choice.measured", "measured: {times}", times=measured)
    if best != default and least[best] > (1 - _MIN_SPEEDUP) * least[default]:
        text = "{measured}; a change must save at least {percent} % of the time"
        percent = round(100 * _MIN_SPEEDUP)
        reason = Message("choice.speedup_too_small", text, measured=reason, percent=percent)
        return default, reason
    return best, reason
