"""Backbone comparison (`foveate models --compare`): ImageNet weights against random ones.

    python bench/backbones.py --data DATA --out OUT [--datasets clothing] [--cases NAME:WEIGHTS ...]
        [--seeds 0] [--images 400] [--threads 2]

The cases are backbones of four architectures. Each comparison is a process of its own, with an
empty cache, and is timed. The rows of its backbones are appended to OUT/backbones.jsonl at its end;
a comparison that is already there is not run again. Prints the table of
docs/benchmarks/adaptation.md.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from common import FOVEATE, ResultFile, parse_options, run_python

DATASETS = {"clothing": Path("clothing", "train"), "brain_mri": Path("brain_mri", "Training")}
BACKBONES = [
    "tf_efficientnet_lite0:offline",
    "tf_efficientnet_lite0:none",
    "resnet18:none",
    "mobilenetv3_small_100:none",
    "vit_tiny_patch16_224:none",
]


def compare(
    data: Path, backbones: list[str], seed: int, images: int, threads: int
) -> tuple[list[dict[str, Any]], float]:
    """Return a row for each backbone, best first, and the seconds of the whole process."""
    arguments = ["models", *backbones, "--compare", str(data), "--seed", str(seed)]
    arguments += ["--images", str(images), "--device", "cpu", "--json"]
    with tempfile.TemporaryDirectory() as folder:
        line, seconds = run_python([*FOVEATE, *arguments], threads, FOVEATE_CACHE=folder)
    return json.loads(line)["results"], seconds


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table, and the time of each comparison."""
    columns = [
        "data set",
        "seed",
        "backbone",
        "linear",
        "k-NN",
        "gap to best",
        "log loss",
        "seconds",
    ]
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        values = [row[key] for key in ("linear", "knn", "gap_to_best")]
        scores = [
            f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" for score in values
        ]
        name = f"{row['backbone']}:{row['weights']}"
        lines.append(
            [
                row["dataset"],
                str(row["seed"]),
                name,
                *scores,
                f"{row['log_loss']:.3f}",
                f"{row['seconds']:.0f}",
            ]
        )
    comparisons = dict.fromkeys(
        (row["dataset"], row["seed"], row["images"], row["threads"], row["comparison_seconds"])
        for row in rows
    )
    timings = [
        f"{name}, seed {seed}, {images} images, --threads {threads}: {seconds:.0f} s"
        for name, seed, images, threads, seconds in comparisons
    ]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *timings])


def main() -> None:
    options = parse_options(
        __doc__, list(DATASETS), BACKBONES, threads=os.cpu_count() or 1, images=400
    )
    results = ResultFile(options.out / "backbones.jsonl")
    for name in options.datasets:
        for seed in options.seeds:
            key = {
                "dataset": name,
                "seed": seed,
                "images": options.images,
                "threads": options.threads,
            }
            if results.has(**key):
                continue
            compared, seconds = compare(
                options.data / DATASETS[name], options.cases, seed, options.images, options.threads
            )
            for row in compared:
                results.add({**key, "comparison_seconds": round(seconds, 1), **row})
    print(summary(results.rows))


if __name__ == "__main__":
    main()
