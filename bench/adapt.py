"""Every way to adapt on the same images, and the ladder that chooses: accuracy, parameters trained,
megabytes saved, seconds.

    python bench/adapt.py --data DATA --out OUT [--sets clothing] [--ways probe lora ladder]
    [--seeds 0 1 2] [--threads 1]
                           [--size 128] [--epochs 5]
    python bench/adapt.py ... --ways ladder --minutes 1 3 10 --seeds 0      # how well a budget is
    kept

The images are those of bench/spine.py: clothing's own validation folder, and a quarter of
brain_mri's Training, are scored at the end and choose nothing. Each way holds out 15 % of its
training images, by which it keeps its best epoch and the ladder compares; all else but size and
epochs are the defaults. Times are of a whole process from words to a saved run, with an empty
cache: by the clock, and of the processor, which other work on the machine disturbs less. Every row
lands in OUT/adapt.jsonl at once, and a row that is there is not measured again.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from foveate.evaluation.intervals import wilson
from foveate.modeling.tunings import TUNINGS
from spine import Rows, python, sets, spent, words

LADDER = "ladder"
REFUSED = {"adaptformer", "fourierft", "peft", "vera", "vpt"}  # by EfficientNet-Lite0
REFUSED |= {"clip_lora", "cocoop", "coop", "tip", "tip_f", "zeroshot"}  # need sentences
WAYS = [name for name in TUNINGS.names() if name not in REFUSED]


def measured(way: str, train: Path, test: Path, said: list[str], threads: int) -> dict[str, Any]:
    """`said`: further words for fit."""
    with tempfile.TemporaryDirectory() as folder:
        cache, run = {"FOVEATE_CACHE": str(Path(folder) / "cache")}, Path(folder) / "run"
        program = ["-c", "from foveate.cli.main import main; main()"]
        said = [
            "fit",
            str(train),
            "--tuning",
            "auto" if way == LADDER else way,
            "--out",
            str(run),
            *said,
        ]
        before = spent()
        line, seconds = python([*program, *said], threads, **cache)
        processor = spent() - before
        found = json.loads(
            python([*program, "evaluate", str(run), str(test), "--json"], threads, **cache)[0]
        )
        told, fitted = json.loads((run / "finished.json").read_text()), json.loads(line)
        row = {
            "accuracy": found["accuracy"],
            "count": found["count"],
            "seconds": seconds,
            "processor": processor,
        }
        row |= {
            "megabytes": (run / "model.safetensors").stat().st_size / 1e6,
            "parameters": told["parameters"]["trained"],
        }
        row |= {
            "validation": fitted["accuracy"],
            "frozen": told["frozen"],
            "trained_epochs": told["epochs"],
        }
        return row | (
            {"picked": fitted["tuning"], "leaderboard": fitted["leaderboard"]}
            if way == LADDER
            else {}
        )


def summary(rows: list[dict[str, Any]]) -> str:
    """The table of docs/benchmarks: a row a way and set, the best mean first, and what the ladder
    picked.
    """
    lines = [
        "| set | way | accuracy, mean | by seed | 95 % interval of one run | trained | MB | "
        "seconds | of the processor |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    pairs = dict.fromkeys((row["set"], row["way"]) for row in rows if row["minutes"] is None)
    grouped = [
        [row for row in rows if (row["set"], row["way"]) == pair and row["minutes"] is None]
        for pair in pairs
    ]
    for own in sorted(
        grouped, key=lambda own: (own[0]["set"], -statistics.mean(row["accuracy"] for row in own))
    ):
        own = sorted(own, key=lambda row: row["seed"])
        mean, first = statistics.mean(row["accuracy"] for row in own), own[0]
        low, high = wilson(mean * first["count"], first["count"])
        each = ", ".join(f"{row['accuracy']:.3f}" for row in own)
        picks = f" ({', '.join(row['picked'] for row in own)})" if first["way"] == LADDER else ""
        clock, processor = (
            statistics.median(row[name] for row in own) for name in ("seconds", "processor")
        )
        size = f"{first['parameters']:,} | {first['megabytes']:.2f} | {clock:.0f} | {processor:.0f}"
        lines.append(
            f"| {first['set']} | {first['way']}{picks} | {mean:.3f} | {each} | {low:.3f} to "
            f"{high:.3f} | {size} |"
        )
    for row in rows:
        if row["minutes"] is not None:
            over = row["seconds"] / (60 * row["minutes"])
            said = (
                f"{row['minutes']:g} minutes: {row['picked']} in {row['seconds']:.0f} s, "
                f"{over:.2f} of the time"
            )
            lines.append(f"| {row['set']} | {said} | {row['accuracy']:.3f} | | | | | |")
    return "\n".join(lines)


def main() -> None:
    options = words(
        __doc__,
        ["clothing", "brain_mri"],
        [*WAYS, LADDER],
        threads=1,
        minutes=[],
        size=128,
        epochs=5,
    )
    rows = Rows(options.out / "adapt.jsonl")
    known = sets(options.data, options.out)
    same = ["--weights", "offline", "--device", "cpu", "--json", "--set", "data.test=0"]
    same += ["--size", str(options.size), "--epochs", str(options.epochs)]
    for seed, way, name, minutes in product(
        options.seeds, options.ways, options.sets, options.minutes or [None]
    ):
        key = {
            "set": name,
            "way": way,
            "seed": seed,
            "minutes": minutes,
            "size": options.size,
            "epochs": options.epochs,
        }
        if not rows.has(**key):
            said = [
                *same,
                "--seed",
                str(seed),
                *([] if minutes is None else ["--minutes", str(minutes)]),
            ]
            rows.add(
                {
                    **key,
                    "threads": options.threads,
                    **measured(way, *known[name], said, options.threads),
                }
            )
    print(summary(rows.rows))


if __name__ == "__main__":
    main()
