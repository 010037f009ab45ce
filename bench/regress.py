"""Counting without boxes: the number of RBC boxes of each BCCD image, or of drawn dots, is learned.

    python bench/regress.py --data DATA --out OUT [--cases dots probe probe_448 full]
        [--seeds 0 1 2] [--threads 2]

The 87 images of BCCD's own validation list are the test images. Of the other 205 a seventh is drawn
by the seed as validation images, from which the 90 % intervals are made. `probe` is the default, at
224 px; `probe_448` sees more pixels; `full` trains all weights for 15 epochs at 224 px, and starts
from the probe. `dots` are 300 drawings of 0 to 15 dots, whose numbers are exact: a probe at 96 px,
with the default shares of the splits.

Rows are appended to OUT/regress.jsonl; those already there are not measured again. Prints the table
of docs/benchmarks/regression.md.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

import foveate
from common import ResultFile, parse_options
from foveate.data.formats import read_table

CELL = "RBC"
CASES = {
    "dots": ("dots", "probe", 96),
    "probe": ("bccd", "probe", 224),
    "probe_448": ("bccd", "probe", 448),
    "full": ("bccd", "full", 224),
}


def main() -> None:
    options = parse_options(__doc__, [], list(CASES), threads=2)
    torch.set_num_threads(options.threads)
    results = ResultFile(options.out / "regress.jsonl")
    tables = {
        "dots": draw_dots(options.out / "dots"),
        "bccd": write_counts(options.data / "bccd" / "BCCD", options.out / "bccd-counts.csv"),
    }
    for case in options.cases:
        for seed in options.seeds:
            if not results.has(case=case, seed=seed):
                run = options.out / f"regress-{case}-{seed}"
                results.add({"case": case, "seed": seed, **measure(tables, case, seed, run)})
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


def draw_dots(folder: Path, count: int = 300, side: int = 64) -> Path:
    """Draw images with 0 to 15 bright dots, which may overlap; write a table of their numbers."""
    folder.mkdir(exist_ok=True)
    rng, rows = np.random.default_rng(0), ["path,value"]
    for index in range(count):
        dots = int(rng.integers(0, 16))
        image = Image.new("RGB", (side, side), tuple(rng.integers(0, 60, 3).tolist()))
        draw = ImageDraw.Draw(image)
        for _ in range(dots):
            x, y = rng.integers(0, side - 6, 2).tolist()
            draw.ellipse([x, y, x + 6, y + 6], fill=tuple(rng.integers(150, 255, 3).tolist()))
        image.save(folder / f"{index:03d}.png")
        rows.append(f"{index:03d}.png,{dots}")
    path = folder / "numbers.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def measure(tables: dict[str, Path], case: str, seed: int, run: Path) -> dict[str, Any]:
    """Fit, and return the scores of the test images with their intervals."""
    shutil.rmtree(run, ignore_errors=True)
    dataset, tuning, size = CASES[case]
    result: Any = foveate.fit(
        tables[dataset],
        tuning=tuning,
        weights="offline",
        size=size,
        seed=seed,
        device="cpu",
        out=run,
    )
    numbers = result.evaluation.scores.numbers
    scores = {name: [each.value, each.low, each.high] for name, each in numbers.items()}
    return {"count": numbers["r2"].count, "seconds": result.outcome["seconds"], **scores}


def summary(rows: list[dict[str, Any]]) -> str:
    """The table of the documentation: a row for each fit."""
    lines = [
        "| | R² | MAE | always the median | gain over it | Spearman | interval coverage, width |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        names = ("r2", "mae", "median_mae", "mae_gain", "spearman", "interval_coverage")
        cells = " | ".join(with_interval(row[name]) for name in names)
        width = row["interval_width"][0]
        lines.append(f"| {row['case']}, seed {row['seed']} | {cells}, {width:.1f} |")
    return "\n".join(lines)


def with_interval(score: list[float]) -> str:
    value, low, high = score
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
