"""Names and eight images a class: what each tuning by sentences adds to a small CLIP that has never
seen these emoji.

    python bench/small_clip.py --data DATA --out OUT --ways both --seeds 0            # makes the
    CLIP of the test
    python bench/prompts.py --data DATA --out OUT [--ways zeroshot coop ...] [--seeds 0 1 2]
    [--threads 1]
    python bench/prompts.py ... --validate 1 --rates 1e-3 1e-2      # how learning rates were
    chosen, on the CLIP of --validate 1

The question is the category of an emoji (Animals & Nature, Food & Drink, ...), of those names that
bench/small_clip.py left unseen. Each seed draws eight names of every category to train on; all
others are the test. With --validate the names are those that small_clip keeps for validation, and
the CLIP is the one that was not trained on them. Rows land in OUT/prompts.jsonl, and a row that is
there is not measured again.
"""

from __future__ import annotations

import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import foveate
from foveate.evaluation.intervals import wilson
from small_clip import named, parted
from spine import Rows
from spine import words as typed

SHOTS = 8
ZERO = "zeroshot"
RATES = {ZERO: 0.0, "tip": 0.0, "tip_f": 1e-3, "coop": 2e-3, "cocoop": 2e-3, "clip_lora": 2e-4}
PLAIN = {
    "augment": {"policy": "none", "crop": 1, "flip": 0},
    "data.val": 0,
    "data.near_duplicates": 1,
}


def table(folder: Path, rows: list[dict[str, Any]], seed: int, into: Path) -> Path:
    """A table of pictures and categories: SHOTS names of each to train, the others to test."""
    order, taught = np.random.default_rng(seed).permutation(len(rows)), dict[str, int]()
    lines = ["path\tlabel\tsplit"]
    for row in (rows[place] for place in order):
        category = row["category"]
        taught[category] = taught.get(category, 0) + 1
        split = "train" if taught[category] <= SHOTS else "test"
        label = category.lower().replace(" & ", " and ")
        lines.append(f"{folder / 'google' / row['image']}\t{label}\t{split}")
    file = into / "emoji.tsv"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def measured(
    way: str, rate: float, clip: Path, folder: Path, rows: list[dict[str, Any]], seed: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        settings = {**PLAIN, **({"training.lr": rate} if rate else {})}
        data = table(folder, rows, seed, Path(place))
        words = {"tuning": way, "backbone": f"clip:{clip}", "device": "cpu", "seed": seed}
        found = foveate.fit(data, out=Path(place) / "run", settings=settings, **words)
        score = found.evaluation.scores.numbers["accuracy"]  # type: ignore[union-attr]
        return {"accuracy": score.value, "count": score.count, "seconds": found.outcome["seconds"]}


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| names | tuning | rate | accuracy, mean | by seed | 95 % interval of one draw |",
        "|---|---|---|---|---|---|",
    ]
    for kind, way, rate in dict.fromkeys((row["names"], row["way"], row["rate"]) for row in rows):
        own = [row for row in rows if (row["names"], row["way"], row["rate"]) == (kind, way, rate)]
        mean = statistics.mean(row["accuracy"] for row in own)
        low, high = wilson(mean * own[0]["count"], own[0]["count"])
        each = ", ".join(f"{row['accuracy']:.3f}" for row in own)
        lines.append(
            f"| {kind} | {way} | {rate:g} | {mean:.3f} | {each} | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    options = typed(__doc__, ["emoji"], list(RATES), threads=1, validate=0, rates=[])
    folder, rows = options.data / "emoji", Rows(options.out / "prompts.jsonl")
    known, kind = named(folder), "validation" if options.validate else "unseen"
    unseen, validation, _ = parted(sorted(known))
    asked = [known[name] for name in (validation if options.validate else unseen)]
    for way, seed in product(options.ways, options.seeds):
        for rate in options.rates if RATES[way] and options.rates else [RATES[way]]:
            about = {"names": kind, "way": way, "rate": rate, "seed": seed}
            if not rows.has(**about):
                rows.add(
                    {
                        **about,
                        **measured(
                            way,
                            rate,
                            options.out / f"small-clip-{kind}-both-0",
                            folder,
                            asked,
                            seed,
                        ),
                    }
                )
    print(summary(rows.rows))


if __name__ == "__main__":
    main()
