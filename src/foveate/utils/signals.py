"""Signals that ask to stop: a training saves first, everything else cleans up and exits.

Python delivers signals to the main thread only.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# USR1 is what SLURM sends before the time is up (--signal=USR1@60); Windows has none
_SIGNALS = [
    signal.SIGTERM,
    signal.SIGINT,
    *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []),
]


@dataclass
class StopRequest:
    """Whether a signal asked to stop.

    Attributes:
        signal: Number of the signal; None as long as there was none.
    """

    signal: int | None = None


def signal_name(number: int | None) -> str:
    """Return what users call a signal: "Ctrl-C", "SIGTERM"; None is one of another process."""
    if number is None:
        return "a signal"
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class Terminated(SystemExit):
    """A signal ended the program; `code` is 128 plus its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number, self.name = number, signal_name(number)


@contextmanager
def stop_requested() -> Iterator[StopRequest]:
    """Record the first signal in a StopRequest; a second Ctrl-C raises KeyboardInterrupt."""
    stop = StopRequest()

    def record(number: int, _: object) -> None:
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = number

    with _handled(_SIGNALS, record):
        yield stop


@contextmanager
def terminate_cleanly() -> Iterator[None]:
    """Raise Terminated for signals that would end the process at once.

    Locks and half-written files are removed on the way out.
    """

    def end(number: int, _: object) -> None:
        raise Terminated(number)

    with _handled([number for number in _SIGNALS if number != signal.SIGINT], end):
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
        for number, previous in before.items():
            signal.signal(number, previous)
