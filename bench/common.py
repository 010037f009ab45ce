"""Shared by the benchmarks: command-line options, data sets, result files and child processes."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from split_dataset import link_splits

BENCH = Path(__file__).parent
FOVEATE = ["-c", "from foveate.cli.main import main; main()"]  # arguments of the interpreter


def parse_options(
    description: str | None,
    datasets: list[str],
    cases: list[str],
    threads: int,
    **extra: bool | float | str | list[float],
) -> argparse.Namespace:
    """Parse the command line, and create the folder of results.

    Args:
        description: Help text, usually the docstring of the benchmark.
        datasets: Names for `--datasets`; without any there is no such option.
        cases: Names for `--cases`; without any there is no such option.
        threads: Default of `--threads`.
        extra: Options of this benchmark alone, with their defaults. False makes a
            flag; a list takes several numbers.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = BENCH.parent.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=data, help="folder with the data sets")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-out"), help="folder for results and runs"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=threads, help="CPU threads")
    for name, values in (("cases", cases), ("datasets", datasets)):
        if values:
            text = f"what to measure; default: {' '.join(values)}"
            parser.add_argument(f"--{name}", nargs="+", default=values, help=text)
    for name, default in extra.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(option, action="store_true")
        elif isinstance(default, list):
            parser.add_argument(option, type=float, nargs="+", default=default)
        else:
            parser.add_argument(option, type=type(default), default=default)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def prepare_datasets(data: Path, out: Path) -> dict[str, tuple[Path, Path]]:
    """Return training and test folder by name of the data set; brain_mri is split if need be."""
    brain = out / "brain_mri"
    if not brain.exists():
        link_splits(data / "brain_mri" / "Training", brain, test=0.25, seed=0)
    return {
        "clothing": (data / "clothing" / "train", data / "clothing" / "validation"),
        "brain_mri": (brain / "train", brain / "test"),
    }


class ResultFile:
    """A JSON Lines file of measurements; those that it has need not be repeated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.rows = [json.loads(line) for line in lines]

    def has(self, **key: Any) -> bool:
        """Whether there is a row with these values."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row to the file at once, and print it."""
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def run_python(arguments: list[str], threads: int, **environment: str) -> tuple[str, float]:
    """Run a fresh interpreter; return its last line of output and its wall-clock seconds.

    A program that fails ends the benchmark with its error output.
    """
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **limits, **environment},
    )
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(process.stderr[-3000:])
    return process.stdout.strip().splitlines()[-1], seconds


def child_cpu_seconds() -> float:
    """Return the CPU seconds of all child processes that have ended.

    Other work on the machine changes them little.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
