"""Counting red blood cells without boxes: the number of RBC boxes of each BCCD image is learned.

    python bench/regress.py --data DATA --out OUT [--cases probe full] [--seeds 0 1 2] [--threads 2]

The 87 images of BCCD's own validation list are the test images. Of the other 205 a seventh is drawn
by the seed as validation images, from which the 90 % intervals are made. `probe` is the default;
`full` trains all weights for 15 epochs at 224 px, after the same start.

Rows are appended to OUT/regress.jsonl; those already there are not measured again. Prints the table
of docs/benchmarks/regression.md.
"""

from __future__ import annotations

import csv
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

import foveate
from common import ResultFile, parse_options
from foveate.data.formats import read_table

CELL = "RBC"


def main() -> None:
    options = parse_options(__doc__, [], ["probe", "full"], threads=2)
    torch.set_num_threads(options.threads)
    results = ResultFile(options.out / "regress.jsonl")
    table = write_counts(options.data / "bccd" / "BCCD", options.out / "bccd-counts.csv")
    for case in options.cases:
        for seed in options.seeds:
            if not results.has(case=case, seed=seed):
                run = options.out / f"regress-{case}-{seed}"
                results.add({"case": case, "seed": seed, **measure(table, case, seed, run)})
    print(summary(results.rows))


def write_counts(data: Path, path: Path) -> Path:
    """Write a table of images and their numbers of cells; BCCD's validation list is for testing."""
    samples = read_table(data, "voc").samples
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "count", "split"])
        for sample in samples:
            count = sum(name == CELL for name in sample.target.names)
            split = "test" if sample.split == "val" else "train"
            writer.writerow([sample.file.resolve(), count, split])
    return path


def measure(table: Path, case: str, seed: int, run: Path) -> dict[str, Any]:
    """Fit, and return the scores of the test images with their intervals."""
    shutil.rmtree(run, ignore_errors=True)
    result = foveate.fit(
        table, tuning=case, weights="offline", size=224, seed=seed, device="cpu", out=run
    )
    numbers = result.evaluation.scores.numbers
    scores = {name: [each.value, each.low, each.high] for name, each in numbers.items()}
    return {"count": numbers["r2"].count, "seconds": result.outcome["seconds"], **scores}


def summary(rows: list[dict[str, Any]]) -> str:
    """The table of the documentation: a row for each fit, and the mean of the seeds."""
    lines = [
        "| | MAE | RMSE | R² | Spearman | gain in MAE over the median | interval coverage, width |",
        "|---|---|---|---|---|---|---|",
    ]
    names = ("mae", "rmse", "r2", "spearman", "mae_gain")
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        for row in own:
            cells = [with_interval(row[name]) for name in names]
            coverage, width = with_interval(row["interval_coverage"]), row["interval_width"][0]
            cells.append(f"{coverage}, {width:.1f}")
            lines.append(f"| {case}, seed {row['seed']} | {' | '.join(cells)} |")
        means = [statistics.mean(row[name][0] for row in own) for name in names]
        coverage = statistics.mean(row["interval_coverage"][0] for row in own)
        cells = [*(f"{mean:.2f}" for mean in means), f"{coverage:.2f}"]
        lines.append(f"| **{case}, mean** | {' | '.join(cells)} |")
    for name, text in (("median_mae", "always the median"), ("mean_rmse", "always the mean")):
        values = with_interval(rows[0][name])
        cells = [values, "", ""] if name == "median_mae" else ["", values, ""]
        lines.append(f"| {text} of the training images | {' | '.join(cells)} | | | |")
    return "\n".join(lines)


def with_interval(score: list[float]) -> str:
    value, low, high = score
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
