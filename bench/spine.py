"""The figures of the spine: probe and full against the plain tutorial loop, on the same images,
backbone and weights.

    python bench/spine.py --data DATA --out OUT [--seeds 0 1 2] [--threads 1] [--sets brain_mri]
    [--ways probe]

DATA holds `clothing` and `brain_mri`. Every row lands in OUT/rows.jsonl at once, and a row that is
there is not measured again, so a long measurement can be cut and continued. Accuracy is measured on
images that no training saw and no choice used: clothing's validation folder, and a quarter of
brain_mri's Training split off by near-copy cluster.

Times: the probe from words to a saved run with an empty cache (decoding, features and solving
included), in a process of its own; the tutorial's training alone. `ratio` rows interleave one probe
with one tutorial epoch, times 20, because machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from foveate.evaluation.intervals import wilson
from sets import materialise

HERE = Path(__file__).parent
EPOCHS = 20  # of the tutorial
ROUNDS = 3  # interleaved timings


def sets(data: Path, out: Path) -> dict[str, tuple[Path, Path]]:
    """name -> training folder, test folder."""
    brain = out / "brain_mri"
    if not brain.exists():
        materialise(data / "brain_mri" / "Training", brain, test=0.25, seed=0)
    return {
        "clothing": (data / "clothing" / "train", data / "clothing" / "validation"),
        "brain_mri": (brain / "train", brain / "test"),
    }


def python(code: list[str], threads: int, **environment: str) -> tuple[str, float]:
    """Runs a fresh interpreter; gives its last line and the seconds it took (`spent` tells the
    processor's).
    """
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *code],
        capture_output=True,
        text=True,
        env={**os.environ, **limits, **environment},
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return done.stdout.strip().splitlines()[-1], seconds


def spent() -> float:
    """Seconds of processor time of all processes that were run and have ended: what else the
    machine does counts little in it.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tutorial(
    train: Path, test: Path, seed: int, threads: int, epochs: int = EPOCHS
) -> dict[str, Any]:
    said = [
        str(train),
        str(test),
        "--seed",
        str(seed),
        "--threads",
        str(threads),
        "--epochs",
        str(epochs),
    ]
    row = json.loads(python([str(HERE / "tutorial.py"), *said], threads)[0])
    return {"accuracy": row["accuracy"], "seconds": row["seconds"]}


def foveate(tuning: str, train: Path, test: Path, seed: int, threads: int) -> dict[str, Any]:
    """Fits on all training images with the defaults, then scores the test folder; seconds are those
    of the fit.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache = {"FOVEATE_CACHE": str(Path(folder) / "cache")}
        program = ["-c", "from foveate.cli.main import main; main()"]
        run = str(Path(folder) / "run")
        said = [
            "fit",
            str(train),
            "--tuning",
            tuning,
            "--seed",
            str(seed),
            "--out",
            run,
            "--device",
            "cpu",
        ]
        keep_all = ["--set", "data.val=0", "--set", "data.test=0", "--json"]
        _, seconds = python([*program, *said, *keep_all], threads, **cache)
        found = json.loads(
            python([*program, "evaluate", run, str(test), "--json"], threads, **cache)[0]
        )
        return {"accuracy": found["accuracy"], "count": found["count"], "seconds": seconds}


def ratio(train: Path, test: Path, threads: int) -> list[dict[str, Any]]:
    rows = []
    for _ in range(ROUNDS):
        probe = foveate("probe", train, test, 0, threads)["seconds"]
        epoch = tutorial(train, test, 0, threads, epochs=1)["seconds"]
        rows.append({"probe": probe, "tutorial": EPOCHS * epoch, "ratio": EPOCHS * epoch / probe})
    return rows


class Rows:
    """rows.jsonl: what is measured already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.rows = [json.loads(line) for line in lines]

    def has(self, **wanted: Any) -> bool:
        return any(all(row.get(key) == value for key, value in wanted.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def summary(rows: list[dict[str, Any]]) -> str:
    """The table of docs/benchmarks: mean accuracy, each seed's, and the interval of the pooled
    images.
    """
    lines = [
        "| set | way | accuracy, mean | by seed | 95 % interval of one run | seconds, median |",
        "|---|---|---|---|---|---|",
    ]
    counts = {row["set"]: row["count"] for row in rows if "count" in row}
    for place, way in dict.fromkeys(
        (row["set"], row["way"]) for row in rows if row["way"] != "ratio"
    ):
        found = sorted(
            (row for row in rows if (row["set"], row["way"]) == (place, way)),
            key=lambda row: row["seed"],
        )
        values = [row["accuracy"] for row in found]
        mean, seconds = statistics.mean(values), statistics.median(row["seconds"] for row in found)
        low, high = (
            wilson(mean * counts[place], counts[place]) if place in counts else (float("nan"),) * 2
        )
        each = ", ".join(f"{value:.3f}" for value in values)
        lines.append(
            f"| {place} | {way} | {mean:.3f} | {each} | {low:.3f} to {high:.3f} | {seconds:.0f} |"
        )
    for row in rows:
        if row["way"] == "ratio":
            lines.append(
                f"| {row['set']} | tutorial's 20 epochs / probe | {row['ratio']:.0f} times | | | |"
            )
    return "\n".join(lines)


def words(
    about: str | None,
    sets: list[str],
    ways: list[str],
    threads: int,
    **numbers: float | list[float],
) -> argparse.Namespace:
    """What was typed; the folder of results is there afterwards.

    `numbers`: options of this bench alone, with their defaults.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--ways", nargs="+", default=ways)
    parser.add_argument("--sets", nargs="+", default=sets)
    for name, default in numbers.items():
        several = isinstance(default, list)
        parser.add_argument(
            f"--{name}",
            type=float if several else type(default),
            nargs="+" if several else None,
            default=default,
        )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def main() -> None:
    options = words(
        __doc__, ["clothing", "brain_mri"], ["probe", "ratio", "tutorial", "full"], threads=1
    )
    rows = Rows(options.out / "rows.jsonl")
    for way in options.ways:
        known = sets(options.data, options.out)
        for name, (train, test) in ((name, known[name]) for name in options.sets):
            for seed in options.seeds if way != "ratio" else [0]:
                if rows.has(set=name, way=way, seed=seed):
                    continue
                if way == "ratio":
                    for row in ratio(train, test, options.threads):
                        rows.add(
                            {
                                "set": name,
                                "way": way,
                                "seed": seed,
                                "threads": options.threads,
                                **row,
                            }
                        )
                    continue
                measure = (
                    tutorial if way == "tutorial" else lambda *said, way=way: foveate(way, *said)
                )
                found = measure(train, test, seed, options.threads)
                rows.add(
                    {"set": name, "way": way, "seed": seed, "threads": options.threads, **found}
                )
    print(summary(rows.rows))


if __name__ == "__main__":
    main()
