"""A process that has imported what training needs and forks itself for each command it is sent.

A program of its own costs five seconds of imports; a fork costs milliseconds. It reads one request
per line and answers each with a line: the exit status. A request is JSON with `arguments` of the
command line, `signals` to send itself, `trigger` (module, function) and `nth_call`: the signals are
sent when that function is called for the n-th time, `environment`, and `log`, a file for the output.
Used through helpers.ForkServer.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
from typing import Any

import torch

import foveate.api.evaluate.core
import foveate.api.fit.core  # noqa: F401  so that the forks need not
from foveate.cli import main as cli


def send_signals_on_call(module: str, path: str, signals: list[int], nth_call: int) -> None:
    """Send this process the signals when the function is called for the n-th time."""
    *outer, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for attribute in outer:
        owner = getattr(owner, attribute)
    original, calls = getattr(owner, name), itertools.count(1)

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == nth_call:
            for number in signals:
                os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, call)


def run(request: dict[str, Any]) -> None:
    log = os.open(request["log"], os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["environment"])
    send_signals_on_call(*request["trigger"], request["signals"], request["nth_call"])
    sys.argv = ["foveate", *request["arguments"]]
    cli.main()


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(json.loads(line))
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
