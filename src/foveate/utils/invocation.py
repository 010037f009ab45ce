"""The command or Python call that is running, as a run records it, and when it started."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Invocation:
    """What the user called.

    Attributes:
        command: The command as typed, or the Python call: "foveate.fit(...)". Empty for internal
            calls.
        started: The moment of `time.monotonic()` from which a time budget counts.
    """

    command: str = ""
    started: float = field(default_factory=time.monotonic)


_current: ContextVar[Invocation | None] = ContextVar("invocation", default=None)


def current_invocation() -> Invocation:
    """Return the invocation that is running; one that starts now where there is none."""
    return _current.get() or Invocation()


@contextmanager
def invocation(command: str, started: float | None = None) -> Iterator[None]:
    """Run a block on behalf of a command; inside another one the outer one stays.

    Args:
        command: The command as it is to be recorded.
        started: When it began, in seconds of `time.monotonic()`; now by default.
    """
    if _current.get() is not None:
        yield
        return
    token = _current.set(Invocation(command, time.monotonic() if started is None else started))
    try:
        yield
    finally:
        _current.reset(token)


def shell_command(*words: object) -> str:
    """Return a foveate command that can be pasted into a shell: paths in it are quoted."""
    return shlex.join(["foveate", *map(str, words)])


def entry_point(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function, so that the runs that it writes record its call."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with invocation(f"foveate.{function.__name__}(...)"):
            return function(*args, **kwargs)

    return call
