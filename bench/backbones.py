"""The race of backbones on two sets: ImageNet weights against random ones of four architectures,
with the seconds of the race.

    python bench/race.py --data DATA --out OUT [--sets clothing] [--seeds 0] [--images 400]
    [--threads 2]

Each race is one `foveate models --compare` in a process of its own, with an empty cache. Every
backbone's row lands in OUT/race.jsonl at the end of its race, and a race that is there is not run
again.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from spine import Rows, python, words

SETS = {"clothing": Path("clothing", "train"), "brain_mri": Path("brain_mri", "Training")}
BACKBONES = [
    "tf_efficientnet_lite0:offline",
    "tf_efficientnet_lite0:none",
    "resnet18:none",
    "mobilenetv3_small_100:none",
    "vit_tiny_patch16_224:none",
]


def raced(
    data: Path, backbones: list[str], seed: int, images: int, threads: int
) -> tuple[list[dict[str, Any]], float]:
    """A row for each backbone, the best first, and the seconds from words to table."""
    said = [
        "models",
        *backbones,
        "--compare",
        str(data),
        "--seed",
        str(seed),
        "--images",
        str(images),
        "--device",
        "cpu",
        "--json",
    ]
    with tempfile.TemporaryDirectory() as folder:
        last, seconds = python(
            ["-c", "from foveate.cli.main import main; main()", *said],
            threads,
            FOVEATE_CACHE=folder,
        )
    return json.loads(last)["results"], seconds


def summary(rows: list[dict[str, Any]]) -> str:
    heads = ["set", "seed", "backbone", "linear", "kNN", "behind the first", "log loss", "seconds"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        found = [row[key] for key in ("linear", "knn", "gap_to_best")]
        scores = [
            f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" for score in found
        ]
        name = f"{row['backbone']}:{row['weights']}"
        lines.append(
            [
                row["set"],
                str(row["seed"]),
                name,
                *scores,
                f"{row['log_loss']:.3f}",
                f"{row['seconds']:.0f}",
            ]
        )
    races = dict.fromkeys(
        (row["set"], row["seed"], row["images"], row["threads"], row["race_seconds"])
        for row in rows
    )
    told = [
        f"{name}, seed {seed}, {images} images, {threads} threads: {took:.0f} s"
        for name, seed, images, threads, took in races
    ]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *told])


def main() -> None:
    options = words(__doc__, list(SETS), BACKBONES, threads=os.cpu_count() or 1, images=400)
    rows = Rows(options.out / "race.jsonl")
    for name in options.sets:
        for seed in options.seeds:
            about = {
                "set": name,
                "seed": seed,
                "images": options.images,
                "threads": options.threads,
            }
            if rows.has(**about):
                continue
            found, seconds = raced(
                options.data / SETS[name], options.ways, seed, options.images, options.threads
            )
            for row in found:
                rows.add({**about, "race_seconds": round(seconds, 1), **row})
    print(summary(rows.rows))


if __name__ == "__main__":
    main()
