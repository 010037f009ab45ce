"""Kill processes while they save checkpoints, and report what is left.

One process that has imported everything forks the savers, so that a kill costs milliseconds and not
the seconds of an import. As a program: SEED TIMES FOLDER; prints a line of JSON for each kill. Used
by test_trust_kill.py and bench/crash_safety.py.
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

VALUES = 60_000  # in a state, of 4 bytes
MAX_SAVES, MAX_SECONDS = 2, 0.03  # saves to wait for, and seconds after them, until the kill


def save_forever(run: Run, start: int, pipe: int) -> None:
    """Save one checkpoint after the other; the step of each complete one goes down the pipe."""
    for step in range(start, start + 10**6):
        state = {"a": torch.full((VALUES,), float(step)), "b": torch.arange(7) + step}
        save_checkpoint(run.folder, f"step-{step:09d}", Checkpoint(state, {"step": step}))
        os.write(pipe, step.to_bytes(8, "little"))


def kill_saver(run: Run, start: int, saves: int, seconds: float) -> int:
    """Start a saver and send it SIGKILL `seconds` after it has reported `saves` saves.

    Returns:
        The last step that was reported as saved; `start` - 1 if there was none.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            save_forever(run, start, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read(8 * saves)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        content += pipe.read()
    return int.from_bytes(content[-8:], "little") if content else start - 1


def is_complete(checkpoint: Checkpoint) -> bool:
    step, tensors = checkpoint.state["step"], checkpoint.tensors
    expected = [step + index for index in range(7)]
    return bool((tensors["a"] == float(step)).all()) and tensors["b"].tolist() == expected


def main(seed: int, times: int, folder: Path) -> None:
    torch.set_num_threads(1)
    run, rng, step = Run.create(folder, "x"), random.Random(seed), 0
    for _ in range(times):
        warnings: list[str] = []
        reported = kill_saver(run, step, rng.randint(0, MAX_SAVES), rng.uniform(0, MAX_SECONDS))
        partial = sum("aside" in path.name for path in run.folder.rglob("*"))
        newest = newest_checkpoint(run.folder, warnings.append)
        newest_step = None if newest is None else newest.state["step"]
        row = {
            "reported": reported,
            "newest": newest_step,
            "partial": partial,
            "warnings": warnings,
            "complete": newest is None or is_complete(newest),
        }
        print(json.dumps(row), flush=True)
        run.remove_partial_files()
        step = max(step, reported + 1, -1 if newest_step is None else newest_step + 1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
