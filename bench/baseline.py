"""Baseline: probe and full fine-tuning against a plain PyTorch loop (bench/tutorial.py).

    python bench/baseline.py --data DATA --out OUT [--seeds 0 1 2] [--threads 1]
        [--datasets brain_mri] [--cases probe]

All cases use the same images, backbone and initial weights. DATA holds `clothing` and `brain_mri`.
Accuracy is measured on images that were not used for training or model selection: clothing's
validation folder, and a quarter of brain_mri's folder Training, split off by near-duplicate
cluster.

Seconds of `probe` and `full` are those of a process of its own, from the command to a saved run
with an empty cache (decoding, features and solving included); those of `tutorial` are its training
alone. The case `ratio` alternates a probe with one epoch of the tutorial loop, times 20, because
the speed of a machine varies.

Rows are appended to OUT/baseline.jsonl; those already there are not measured again, so that a
benchmark can be interrupted and continued. Prints the table of docs/benchmarks/baseline.md.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from common import BENCH, FOVEATE, ResultFile, parse_options, prepare_datasets, run_python
from foveate.evaluation.intervals import wilson

EPOCHS = 20  # of the tutorial loop
ROUNDS = 3  # of alternating timings


def run_tutorial(
    train: Path, test: Path, seed: int, threads: int, epochs: int = EPOCHS
) -> dict[str, Any]:
    """Train and score the plain loop in a process of its own."""
    arguments = [str(BENCH / "tutorial.py"), str(train), str(test), "--seed", str(seed)]
    arguments += ["--threads", str(threads), "--epochs", str(epochs)]
    row = json.loads(run_python(arguments, threads)[0])
    return {"accuracy": row["accuracy"], "seconds": row["seconds"]}


def run_foveate(tuning: str, train: Path, test: Path, seed: int, threads: int) -> dict[str, Any]:
    """Fit on all training images with the defaults, and score the test folder.

    The seconds are those of the fit.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache, run = {"FOVEATE_CACHE": str(Path(folder) / "cache")}, str(Path(folder) / "run")
        arguments = ["fit", str(train), "--tuning", tuning, "--seed", str(seed), "--out", run]
        arguments += ["--device", "cpu", "--set", "data.val=0", "--set", "data.test=0", "--json"]
        _, seconds = run_python([*FOVEATE, *arguments], threads, **cache)
        line, _ = run_python([*FOVEATE, "evaluate", run, str(test), "--json"], threads, **cache)
        scores = json.loads(line)
        return {"accuracy": scores["accuracy"], "count": scores["count"], "seconds": seconds}


def measure_ratio(train: Path, test: Path, threads: int) -> list[dict[str, Any]]:
    """Return seconds of a probe and of 20 tutorial epochs, and their ratio, for each round."""
    rows = []
    for _ in range(ROUNDS):
        probe = run_foveate("probe", train, test, 0, threads)["seconds"]
        tutorial = EPOCHS * run_tutorial(train, test, 0, threads, epochs=1)["seconds"]
        rows.append({"probe": probe, "tutorial": tutorial, "ratio": tutorial / probe})
    return rows


def measure(case: str, train: Path, test: Path, seed: int, threads: int) -> list[dict[str, Any]]:
    """Return the rows of a case."""
    if case == "ratio":
        return measure_ratio(train, test, threads)
    if case == "tutorial":
        return [run_tutorial(train, test, seed, threads)]
    return [run_foveate(case, train, test, seed, threads)]


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: mean accuracy, that of each seed, and the interval of one run."""
    lines = [
        "| data set | case | accuracy, mean | by seed | 95 % interval of one run | "
        "seconds, median |",
        "|---|---|---|---|---|---|",
    ]
    counts = {row["dataset"]: row["count"] for row in rows if "count" in row}
    scored = [row for row in rows if row["case"] != "ratio"]
    for dataset, case in dict.fromkeys((row["dataset"], row["case"]) for row in scored):
        group = [row for row in scored if (row["dataset"], row["case"]) == (dataset, case)]
        group.sort(key=lambda row: row["seed"])
        values = [row["accuracy"] for row in group]
        mean, seconds = statistics.mean(values), statistics.median(row["seconds"] for row in group)
        low = high = float("nan")
        if dataset in counts:
            low, high = wilson(mean * counts[dataset], counts[dataset])
        by_seed = ", ".join(f"{value:.3f}" for value in values)
        lines.append(
            f"| {dataset} | {case} | {mean:.3f} | {by_seed} | {low:.3f} to {high:.3f} | "
            f"{seconds:.0f} |"
        )
    for row in rows:
        if row["case"] == "ratio":
            lines.append(
                f"| {row['dataset']} | 20 tutorial epochs / probe | {row['ratio']:.0f} times "
                "| | | |"
            )
    return "\n".join(lines)


def main() -> None:
    cases = ["probe", "ratio", "tutorial", "full"]
    options = parse_options(__doc__, ["clothing", "brain_mri"], cases, threads=1)
    results = ResultFile(options.out / "baseline.jsonl")
    folders = prepare_datasets(options.data, options.out)
    for case, name in product(options.cases, options.datasets):
        for seed in options.seeds if case != "ratio" else [0]:
            key = {"dataset": name, "case": case, "seed": seed}
            if not results.has(**key):
                for row in measure(case, *folders[name], seed, options.threads):
                    results.add({**key, "threads": options.threads, **row})
    print(summary(results.rows))


if __name__ == "__main__":
    main()
