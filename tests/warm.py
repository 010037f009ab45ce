"""A process that has imported what training needs, and forks itself for each program it is asked for.

A program of its own costs five seconds of imports; a fork costs milliseconds. Reads a request a line
(JSON: `words` of the command line, `signals` to send itself, `place` and `at`: when the function
of that name in that module is called for the n-th time, `environment`, `log`: a file for stderr)
and answers each with a line: the exit status. Used through helpers.WarmProcess.
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


def strike(module: str, path: str, numbers: list[int], at: int) -> None:
    """Send this process the signals when the function is called for the n-th time."""
    *outer, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in outer:
        owner = getattr(owner, each)
    real, calls = getattr(owner, name), itertools.count(1)

    def call(*args: Any, **words: Any) -> Any:
        if next(calls) == at:
            for number in numbers:
                os.kill(os.getpid(), number)
        return real(*args, **words)

    setattr(owner, name, call)


def run(request: dict[str, Any]) -> None:
    log = os.open(request["log"], os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["environment"])
    strike(*request["place"], request["signals"], request["at"])
    sys.argv = ["foveate", *request["words"]]
    cli.main()


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(json.loads(line))
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
