"""`--minutes`: how much of the time that they are given commands use, from start to end.

    python bench/budgets.py --data DATA --out OUT [--cases boxes masks] [--minutes 1 3] [--busy]

Each row is a fresh process, timed from outside, imports included. `--busy` keeps one core busy with
a process that never waits. The numbers of epochs and steps are those of the run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from caption import write_table
from common import FOVEATE, ResultFile, parse_options, run_python

CASES = ["classes", "boxes", "masks", "captions", "pretrain", "auto", "probe"]
_SPIN = "while True: pass"


def arguments(case: str, data: Path, out: Path) -> list[str]:
    """Return the command of a case, without its time."""
    clothing, bccd = data / "clothing" / "train", data / "bccd" / "BCCD"
    commands = {
        "classes": ["fit", clothing, "--tuning", "full"],
        "probe": ["fit", clothing],
        "auto": ["fit", clothing, "--tuning", "auto"],
        "boxes": ["fit", bccd, "--size", "256"],
        "masks": ["fit", data / "camvid", "--size", "224"],
        "pretrain": ["pretrain", data / "cifar10" / "train", "--backbone", "resnet18"],
    }
    if case == "captions":
        return [
            "fit",
            str(write_table("emoji", data, out)),
            "--task",
            "caption",
            "--size",
            "96",
            "--allow-outside",
        ]
    command = [str(word) for word in commands[case]]
    return [*command, "--weights", "none"] if case == "pretrain" else command


@contextmanager
def busy_core(wanted: bool) -> Iterator[None]:
    """Keep one core busy with another process for the length of a block."""
    if not wanted:
        yield
        return
    spinning = subprocess.Popen([sys.executable, "-c", _SPIN])
    try:
        yield
    finally:
        spinning.kill()
        spinning.wait()


def measure(
    command: list[str], minutes: float, seed: int, run: Path, threads: int
) -> dict[str, object]:
    """Run a command within a time budget, with an empty cache; return what it did."""
    shutil.rmtree(run, ignore_errors=True)
    limits = ["--minutes", f"{minutes:g}", "--seed", str(seed), "--out", str(run), "--json"]
    with_cache = {"FOVEATE_CACHE": str(run.with_suffix(".cache"))}
    shutil.rmtree(with_cache["FOVEATE_CACHE"], ignore_errors=True)
    load = os.getloadavg()[0]
    start = time.monotonic()
    run_python([*FOVEATE, *command, *limits], threads, **with_cache)
    seconds = time.monotonic() - start
    outcome = json.loads((run / "finished.json").read_text(encoding="utf-8"))
    return {
        "seconds": round(seconds, 1),
        "share": round(seconds / (60 * minutes), 3),
        "load_before": round(load, 1),
        "epochs": outcome["epochs"],
        "steps": outcome["steps"],
        "training_seconds": round(outcome["seconds"], 1),
        "ended": outcome["reason"]["id"],
        "foveate": version("foveate"),
        "torch": version("torch"),
    }


def main() -> None:
    options = parse_options(__doc__, [], CASES, threads=2, minutes=[1.0], busy=False)
    results = ResultFile(options.out / "budgets.jsonl")
    for minutes in options.minutes:
        for case in options.cases:
            command = arguments(case, options.data, options.out)
            for seed in options.seeds:
                key = {"case": case, "minutes": minutes, "seed": seed, "busy": options.busy}
                if not results.has(**key):
                    with busy_core(options.busy):
                        row = measure(
                            command, minutes, seed, options.out / "budget-run", options.threads
                        )
                    results.add(key | row)


if __name__ == "__main__":
    main()
