"""Fine-tuning methods on the same images, and the tuning search (`--tuning auto`).

    python bench/tunings.py --data DATA --out OUT [--datasets clothing brain_mri]
        [--cases probe lora auto] [--seeds 0 1 2] [--threads 1] [--size 128] [--epochs 5]
    python bench/tunings.py ... --cases auto --minutes 1 3 10 --seeds 0  # is a budget kept?

Measured are accuracy, number of trained parameters, size of the saved weights, and seconds. The
test images are those of bench/baseline.py (clothing's validation folder and a quarter of
brain_mri's folder Training), and are used for nothing else. Each run holds out 15 % of its training
images, by which it selects its best epoch and the search compares methods; everything but size and
epochs is at its default. Seconds are those of a whole process from the command to a saved run, with
an empty cache: wall clock, and CPU time, which other work on the machine disturbs less.

Rows are appended to OUT/tunings.jsonl; those already there are not measured again. Prints the
table of docs/benchmarks/adaptation.md.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from common import (
    FOVEATE,
    ResultFile,
    child_cpu_seconds,
    parse_options,
    prepare_datasets,
    run_python,
)
from foveate.evaluation.intervals import wilson
from foveate.modeling.tunings import TUNINGS

SEARCH = "auto"
UNSUPPORTED = {"adaptformer", "fourierft", "peft", "vera", "vpt"}  # by EfficientNet-Lite0
# need a network that reads class names:
UNSUPPORTED |= {"clip_lora", "cocoop", "coop", "tip", "tip_f", "zeroshot"}
TUNINGS_TO_COMPARE = [name for name in TUNINGS.names() if name not in UNSUPPORTED]


def measure(
    tuning: str, train: Path, test: Path, options: list[str], threads: int
) -> dict[str, Any]:
    """Fit with further options of `foveate fit`, and score the test folder."""
    with tempfile.TemporaryDirectory() as folder:
        cache, run = {"FOVEATE_CACHE": str(Path(folder) / "cache")}, Path(folder) / "run"
        arguments = ["fit", str(train), "--tuning", tuning, "--out", str(run), *options]
        before = child_cpu_seconds()
        line, seconds = run_python([*FOVEATE, *arguments], threads, **cache)
        cpu_seconds = child_cpu_seconds() - before
        evaluate = [*FOVEATE, "evaluate", str(run), str(test), "--json"]
        scores = json.loads(run_python(evaluate, threads, **cache)[0])
        outcome, fitted = json.loads((run / "finished.json").read_text()), json.loads(line)
        row = {
            "accuracy": scores["accuracy"],
            "count": scores["count"],
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
        }
        row |= {
            "megabytes": (run / "model.safetensors").stat().st_size / 1e6,
            "parameters": outcome["parameters"]["trained"],
        }
        row |= {
            "validation": fitted["accuracy"],
            "frozen_hash": outcome["frozen"],
            "trained_epochs": outcome["epochs"],
        }
        return row | (
            {"selected": fitted["tuning"], "leaderboard": fitted["leaderboard"]}
            if tuning == SEARCH
            else {}
        )


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: a row for each method and data set, by descending mean accuracy.

    The rows of the search say what it selected; those with a time budget come last.
    """
    lines = [
        "| data set | tuning | accuracy, mean | by seed | 95 % interval of one run | trained | "
        "MB | seconds | CPU seconds |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    pairs = dict.fromkeys((row["dataset"], row["case"]) for row in rows if row["minutes"] is None)
    grouped = [
        [row for row in rows if (row["dataset"], row["case"]) == pair and row["minutes"] is None]
        for pair in pairs
    ]
    for group in sorted(
        grouped,
        key=lambda group: (group[0]["dataset"], -statistics.mean(row["accuracy"] for row in group)),
    ):
        group = sorted(group, key=lambda row: row["seed"])
        mean, one = statistics.mean(row["accuracy"] for row in group), group[0]
        low, high = wilson(mean * one["count"], one["count"])
        by_seed = ", ".join(f"{row['accuracy']:.3f}" for row in group)
        selected = (
            f" ({', '.join(row['selected'] for row in group)})" if one["case"] == SEARCH else ""
        )
        seconds, cpu_seconds = (
            statistics.median(row[name] for row in group) for name in ("seconds", "cpu_seconds")
        )
        size = f"{one['parameters']:,} | {one['megabytes']:.2f} | {seconds:.0f} | {cpu_seconds:.0f}"
        lines.append(
            f"| {one['dataset']} | {one['case']}{selected} | {mean:.3f} | {by_seed} | {low:.3f} to "
            f"{high:.3f} | {size} |"
        )
    for row in rows:
        if row["minutes"] is not None:
            over = row["seconds"] / (60 * row["minutes"])
            text = (
                f"{row['minutes']:g} minutes: {row['selected']} in {row['seconds']:.0f} s, "
                f"{over:.2f} of the time"
            )
            lines.append(f"| {row['dataset']} | {text} | {row['accuracy']:.3f} | | | | | |")
    return "\n".join(lines)


def main() -> None:
    options = parse_options(
        __doc__,
        ["clothing", "brain_mri"],
        [*TUNINGS_TO_COMPARE, SEARCH],
        threads=1,
        minutes=[],
        size=128,
        epochs=5,
    )
    results = ResultFile(options.out / "tunings.jsonl")
    folders = prepare_datasets(options.data, options.out)
    shared = ["--weights", "offline", "--device", "cpu", "--json", "--set", "data.test=0"]
    shared += ["--size", str(options.size), "--epochs", str(options.epochs)]
    for seed, case, name, minutes in product(
        options.seeds, options.cases, options.datasets, options.minutes or [None]
    ):
        key = {
            "dataset": name,
            "case": case,
            "seed": seed,
            "minutes": minutes,
            "size": options.size,
            "epochs": options.epochs,
        }
        if not results.has(**key):
            arguments = [
                *shared,
                "--seed",
                str(seed),
                *([] if minutes is None else ["--minutes", str(minutes)]),
            ]
            results.add(
                {
                    **key,
                    "threads": options.threads,
                    **measure(case, *folders[name], arguments, options.threads),
                }
            )
    print(summary(results.rows))


if __name__ == "__main__":
    main()
