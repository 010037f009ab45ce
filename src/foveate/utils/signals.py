"""Signals that ask to stop: a training saves first, everything else tidies up and leaves. They reach the main thread only."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# USR1 is what SLURM sends before the time is up (--signal=USR1@60); Windows has none
_ASKING = [signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


@dataclass
class Stop:
    """`signal`: the number of the signal that asked to stop."""

    signal: int | None = None


class Terminated(SystemExit):
    """A signal has ended the program; `code` is 128 and its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number, self.name = number, signal.Signals(number).name


@contextmanager
def asked() -> Iterator[Stop]:
    """The first signal asks, and whoever looks at the Stop ends when it suits; a second Ctrl-C does not wait."""
    stop = Stop()

    def ask(number: int, _: object) -> None:
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = number

    with _handled(_ASKING, ask):
        yield stop


@contextmanager
def tidied() -> Iterator[None]:
    """Signals that would end the process on the spot raise Terminated, so that locks and half-written files go first."""

    def end(number: int, _: object) -> None:
        raise Terminated(number)

    with _handled([number for number in _ASKING if number != signal.SIGINT], end):
        yield


@contextmanager
def _handled(
    numbers: list[signal.Signals], handler: Callable[[int, object], None]
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {
        number: signal.signal(number, handler) for number in numbers
    }
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)
