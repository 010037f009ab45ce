"""What --tuning auto chooses, and what each trial is worth on images of other occasions.

    python bench/ladder.py DATA --truth LABELED --minutes 20 --out OUT
    python bench/ladder.py DATA --truth LABELED --epochs 5 --tunings probe full --out OUT

Fits DATA with `--tuning auto`, and then scores every trial and the chosen run on LABELED, images of
the same classes that were taken elsewhere. These choose nothing. `--tunings` leaves others out of
the ladder, for a machine without time for all.

Prints the table of docs/benchmarks/unlike.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import foveate
from foveate.api.fit import tuning_search


def written(row: dict[str, Any], name: str, low: str, high: str) -> str:
    if name not in row:
        return ""
    if row[low] is None:
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} [{row[low]:.3f}, {row[high]:.3f}]"


def true_accuracy(run: Path, truth: Path) -> str:
    return foveate.evaluate(run, truth).scores.numbers["accuracy"].with_interval


def table(out: Path, truth: Path) -> list[str]:
    """Rows of the trials, and of the run."""
    lines = ["| trial | like | gain | unlike | gain | elsewhere | outcome |", f"|{'---|' * 7}"]
    for row in json.loads((out / "leaderboard.json").read_text(encoding="utf-8")):
        trial = out / "trials" / row["tuning"]
        cells = [
            row["tuning"],
            written(row, "accuracy", "low", "high"),
            written(row, "gain", "gain_low", "gain_high"),
            written(row, "unlike", "unlike_low", "unlike_high"),
            written(row, "unlike_gain", "unlike_gain_low", "unlike_gain_high"),
            true_accuracy(trial, truth) if (trial / "finished.json").is_file() else "",
            row["note"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    cells = ["the run", "", "", "", "", true_accuracy(out, truth), ""]
    return [*lines, f"| {' | '.join(cells)} |"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--epochs", type=int, help="of each training")
    parser.add_argument("--tunings", nargs="+", help="that are tried")
    parser.add_argument("--out", type=Path, required=True, help="run folder; scored if finished")
    options = parser.parse_args()
    if options.tunings:
        groups = [[name] for name in options.tunings]
        tuning_search._groups = lambda: iter(groups)
    settings = {} if options.epochs is None else {"training.epochs": options.epochs}
    if not (options.out / "finished.json").is_file():
        foveate.fit(
            options.data,
            tuning="auto",
            minutes=options.minutes,
            out=options.out,
            settings=settings,
        )
    print("\n".join(table(options.out, options.truth)))


if __name__ == "__main__":
    main()
