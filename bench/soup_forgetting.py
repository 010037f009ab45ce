"""Averaging of weights under domain shift (`soup`), and forgetting when classes are added.

    python bench/soup_forgetting.py --data DATA --out OUT [--cases soup forgetting]
        [--seeds 0 1 2] [--threads 1]

soup        EfficientNet-Lite0, fine-tuned in full on Google's drawings of emoji (the split of
            bench/shift.py), is averaged with its initial weights in ten steps. Each average is
            scored on the run's validation images, which select one, and on Twitter's drawings of
            names that were not used for training, which do not.
forgetting  Seven classes of clothing, then the other three with `foveate continue`: with all old
            training images replayed, with a fifth of them, with none, and with none but a
            distillation loss. Scored on clothing's validation folder, old and new classes apart.

96 and 128 px, 6 epochs, everything else at its default. Rows are appended to
OUT/soup_forgetting.jsonl; those already there are not measured again. Prints a table.
"""

from __future__ import annotations

import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch

import foveate
from common import ResultFile, parse_options
from foveate.data.discovery import find_images
from foveate.evaluation.intervals import wilson
from shift import emoji, write_table

OLD_CLASSES = 7
EPOCHS = 6
RECIPES: dict[str, dict[str, float]] = {
    "replay 1": {},
    "replay 0.2": {"start.replay": 0.2},
    "replay 0": {"start.replay": 0},
    "replay 0, distill 1": {"start.replay": 0, "start.distill": 1},
}


def fit_full(data: Path, size: int, seed: int, out: Path) -> Path:
    """Fine-tune all weights; return the run."""
    options: dict[str, Any] = {
        "weights": "offline",
        "backbone": "tf_efficientnet_lite0",
        "device": "cpu",
        "seed": seed,
        "size": size,
    }
    return foveate.fit(
        data,
        out=out,
        tuning="full",
        settings={"data.test": 0, "training.epochs": EPOCHS},
        **options,
    ).run


def measure_soup(data: Path, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each average: alpha, accuracy on the source and on the target domain."""
    pair = emoji(data / "emoji", seed, False, folder)
    result = foveate.soup(
        [fit_full(pair.train, 96, seed, folder / "run")],
        shift=pair.target,
        out=folder / "soup",
        device="cpu",
    )
    selected = result.selection.candidates[result.selection.best]
    return [
        {
            "alpha": candidate.alpha,
            "source": candidate.validation.value,
            "target": candidate.shifted.value,
            "selected": candidate is selected,
        }  # type: ignore[union-attr]
        for candidate in result.selection.candidates
    ]


def measure_forgetting(data: Path, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each recipe: accuracy on images of old and of new classes."""
    classes = sorted(
        child.name for child in (data / "clothing" / "train").iterdir() if child.is_dir()
    )
    tables = {}
    for split, (age, names) in product(
        ("train", "validation"), (("old", classes[:OLD_CLASSES]), ("new", classes[OLD_CLASSES:]))
    ):
        pairs = (
            (path, name) for name in names for path in find_images(data / "clothing" / split / name)
        )
        tables[split, age] = write_table(pairs, folder / f"{split}-{age}.tsv")
    first = fit_full(tables["train", "old"], 128, seed, folder / "first")
    rows = [{"recipe": "before", "old": score(first, tables["validation", "old"])}]
    for name, settings in RECIPES.items():
        out = folder / name.replace(" ", "-").replace(",", "")
        run = foveate.continue_(
            first, tables["train", "new"], out=out, settings={"training.epochs": EPOCHS, **settings}
        ).run
        rows.append(
            {
                "recipe": name,
                **{age: score(run, tables["validation", age]) for age in ("old", "new")},
            }
        )
    return rows


def score(run: Path, table: Path) -> dict[str, float]:
    numbers = foveate.evaluate(run, table, device="cpu").numbers()
    return {"accuracy": numbers["accuracy"], "count": numbers["count"]}


def summary(rows: list[dict[str, Any]]) -> str:
    """Return table rows: seed, alpha or recipe, and the two accuracies."""
    lines = []
    for row in rows:
        for each in row["rows"]:
            if row["case"] == "soup":
                note = ", selected" if each["selected"] else ""
                lines.append(
                    f"| {row['seed']} | {each['alpha']:.1f}{note} | {each['source']:.3f} | "
                    f"{each['target']:.3f} |"
                )
            else:
                cells = [_with_interval(each[age]) if age in each else "" for age in ("old", "new")]
                lines.append(f"| {row['seed']} | {each['recipe']} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _with_interval(score: dict[str, float]) -> str:
    low, high = wilson(score["accuracy"] * score["count"], int(score["count"]))
    return f"{score['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


MEASURES = {"soup": measure_soup, "forgetting": measure_forgetting}


def main() -> None:
    options = parse_options(__doc__, [], list(MEASURES), threads=1)
    torch.set_num_threads(options.threads)
    results = ResultFile(options.out / "soup_forgetting.jsonl")
    for case, seed in product(options.cases, options.seeds):
        if not results.has(case=case, seed=seed):
            with tempfile.TemporaryDirectory() as folder:
                results.add(
                    {
                        "case": case,
                        "seed": seed,
                        "rows": MEASURES[case](options.data, seed, Path(folder)),
                    }
                )
    print(summary(results.rows))


if __name__ == "__main__":
    main()
