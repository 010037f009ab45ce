"""Savers that are killed: one warm process forks them, so that a kill costs milliseconds and not the seconds of an import.

As a program: SEED TIMES FOLDER; prints a line of JSON for each kill. Used by test_trust_kill.py and bench/trust.py.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from foveate.run.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from foveate.run.folder import Run

NUMBERS = 60_000  # in a state, of 4 bytes
MOST, LONGEST = 2, 0.03  # saves that are waited for, and seconds after them, until the kill


def saved_for_ever(run: Run, start: int, told: int) -> None:
    """One save after the other; the number of each that is done goes down the pipe."""
    for step in range(start, start + 10**6):
        state = {"a": torch.full((NUMBERS,), float(step)), "b": torch.arange(7) + step}
        save_checkpoint(run.folder, f"step-{step:09d}", Checkpoint(state, {"step": step}))
        os.write(told, step.to_bytes(8, "little"))


def killed(run: Run, start: int, saves: int, seconds: float) -> int:
    """The last step that was told to be done before the SIGKILL, `seconds` after so many `saves`; `start` - 1 where none was."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            saved_for_ever(run, start, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        content = told.read(8 * saves)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        content += told.read()
    return int.from_bytes(content[-8:], "little") if content else start - 1


def whole(found: Checkpoint) -> bool:
    step = found.state["step"]
    return bool((found.tensors["a"] == float(step)).all()) and found.tensors["b"].tolist() == [
        step + place for place in range(7)
    ]


def main(seed: int, times: int, folder: Path) -> None:
    torch.set_num_threads(1)
    run, chance, step = Run.create(folder, "x"), random.Random(seed), 0
    for _ in range(times):
        warned: list[str] = []
        last = killed(run, step, chance.randint(0, MOST), chance.uniform(0, LONGEST))
        strays = sum("aside" in path.name for path in run.folder.rglob("*"))
        found = newest_checkpoint(run.folder, warned.append)
        row = {
            "told": last,
            "found": None if found is None else found.state["step"],
            "strays": strays,
            "warned": warned,
        }
        print(json.dumps({**row, "whole": found is None or whole(found)}), flush=True)
        run.remove_partial_files()
        step = max(step, last + 1, -1 if found is None else found.state["step"] + 1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
