"""Fine-tuning methods of CLIP models with eight images per class: the small CLIP, unseen emoji.

    python bench/small_clip.py --data DATA --out OUT --cases both --seeds 0  # trains the CLIP
    python bench/clip_tunings.py --data DATA --out OUT [--cases zeroshot coop ...] [--seeds 0 1 2]
        [--threads 1]
    python bench/clip_tunings.py ... --validate --rates 1e-3 1e-2
        # how learning rates were selected, with the CLIP of `small_clip.py --validate`

The task is the category of an emoji (Animals & Nature, Food & Drink, ...) among the names that
bench/small_clip.py left unseen. Each seed draws eight names of every category for training; all
others are the test split. With --validate the names are those that small_clip.py keeps for
validation, and the CLIP is the one that was not trained on them.

Rows are appended to OUT/clip_tunings.jsonl; those already there are not measured again. Prints the
table of docs/benchmarks/few-shot.md.
"""

from __future__ import annotations

import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import foveate
from common import ResultFile, parse_options
from foveate.evaluation.intervals import wilson
from small_clip import rows_by_name, split_names

SHOTS = 8
ZERO_SHOT = "zeroshot"
LEARNING_RATES = {
    ZERO_SHOT: 0.0,
    "tip": 0.0,
    "tip_f": 1e-3,
    "coop": 2e-3,
    "cocoop": 2e-3,
    "clip_lora": 2e-4,
}
SETTINGS = {
    "augment": {"policy": "none", "crop": 1, "flip": 0},
    "data.val": 0,
    "data.near_duplicates": 1,
}


def write_table(folder: Path, rows: list[dict[str, Any]], seed: int, out: Path) -> Path:
    """Write a table of images and categories: per category SHOTS names train, the others test."""
    order, counts = np.random.default_rng(seed).permutation(len(rows)), dict[str, int]()
    lines = ["path\tlabel\tsplit"]
    for row in (rows[index] for index in order):
        category = row["category"]
        counts[category] = counts.get(category, 0) + 1
        split = "train" if counts[category] <= SHOTS else "test"
        label = category.lower().replace(" & ", " and ")
        lines.append(f"{folder / 'google' / row['image']}\t{label}\t{split}")
    file = out / "emoji.tsv"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def measure(
    tuning: str, rate: float, clip: Path, folder: Path, rows: list[dict[str, Any]], seed: int
) -> dict[str, Any]:
    """Fit and score one draw."""
    with tempfile.TemporaryDirectory() as out:
        settings = {**SETTINGS, **({"training.lr": rate} if rate else {})}
        data = write_table(folder, rows, seed, Path(out))
        options = {"tuning": tuning, "backbone": f"clip:{clip}", "device": "cpu", "seed": seed}
        fitted = foveate.fit(data, out=Path(out) / "run", settings=settings, **options)
        score = fitted.evaluation.scores.numbers["accuracy"]  # type: ignore[union-attr]
        return {"accuracy": score.value, "count": score.count, "seconds": fitted.outcome["seconds"]}


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table."""
    lines = [
        "| names | tuning | rate | accuracy, mean | by seed | 95 % interval of one draw |",
        "|---|---|---|---|---|---|",
    ]
    for kind, case, rate in dict.fromkeys((row["names"], row["case"], row["rate"]) for row in rows):
        group = [
            row for row in rows if (row["names"], row["case"], row["rate"]) == (kind, case, rate)
        ]
        mean = statistics.mean(row["accuracy"] for row in group)
        low, high = wilson(mean * group[0]["count"], group[0]["count"])
        by_seed = ", ".join(f"{row['accuracy']:.3f}" for row in group)
        lines.append(
            f"| {kind} | {case} | {rate:g} | {mean:.3f} | {by_seed} | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    options = parse_options(__doc__, [], list(LEARNING_RATES), threads=1, validate=False, rates=[])
    folder, results = options.data / "emoji", ResultFile(options.out / "clip_tunings.jsonl")
    by_name, kind = rows_by_name(folder), "validation" if options.validate else "unseen"
    unseen, validation, _ = split_names(sorted(by_name))
    rows = [by_name[name] for name in (validation if options.validate else unseen)]
    for case, seed in product(options.cases, options.seeds):
        for rate in (
            options.rates if LEARNING_RATES[case] and options.rates else [LEARNING_RATES[case]]
        ):
            key = {"names": kind, "case": case, "rate": rate, "seed": seed}
            if not results.has(**key):
                results.add(
                    {
                        **key,
                        **measure(
                            case,
                            rate,
                            options.out / f"small-clip-{kind}-both-0",
                            folder,
                            rows,
                            seed,
                        ),
                    }
                )
    print(summary(results.rows))


if __name__ == "__main__":
    main()
