"""What is kept of what was known: averages of weights on images from elsewhere, and old classes
when new ones are learnt.

    python bench/keeping.py --data DATA --out OUT [--ways soup forget] [--seeds 0 1 2] [--threads 1]

soup: EfficientNet-Lite0 tuned in full on google's drawings of emoji (bench/shift.py's case),
averaged with its start in ten steps; each average is scored on the run's validation images, which
choose, and on twitter's drawings of names that were never taught, which do not. forget: seven
classes of clothing, then the other three in a run that goes on: with all old training images shown
again, with a fifth of them, with none, and with none but the first run's answers held to. Scored on
clothing's validation folder, old and new classes apart. 96 and 128 px, 6 epochs, all else the
defaults. Rows land in OUT/keeping.jsonl.
"""

from __future__ import annotations

import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch

import foveate
from foveate.data.discovery import find_images
from foveate.evaluation.intervals import wilson
from shift import emoji, tabled
from spine import Rows, words

OLD = 7  # classes
EPOCHS = 6
RECIPES: dict[str, dict[str, float]] = {
    "replay 1": {},
    "replay 0.2": {"start.replay": 0.2},
    "replay 0": {"start.replay": 0},
    "replay 0, distill 1": {"start.replay": 0, "start.distill": 1},
}


def fitted(data: Path, size: int, seed: int, out: Path) -> Path:
    said: dict[str, Any] = {
        "weights": "offline",
        "backbone": "tf_efficientnet_lite0",
        "device": "cpu",
        "seed": seed,
        "size": size,
    }
    return foveate.fit(
        data, out=out, tuning="full", settings={"data.test": 0, "training.epochs": EPOCHS}, **said
    ).run


def soup(data: Path, seed: int, into: Path) -> list[dict[str, Any]]:
    """A row for each average: alpha, accuracy on validation images at home and on the names that
    were asked away.
    """
    case = emoji(data / "emoji", seed, False, into)
    found = foveate.soup(
        [fitted(case.taught, 96, seed, into / "run")],
        shift=case.away,
        out=into / "soup",
        device="cpu",
    )
    chosen = found.selection.candidates[found.selection.best]
    return [
        {
            "alpha": point.alpha,
            "home": point.validation.value,
            "away": point.shifted.value,
            "chosen": point is chosen,
        }  # type: ignore[union-attr]
        for point in found.selection.candidates
    ]


def forget(data: Path, seed: int, into: Path) -> list[dict[str, Any]]:
    """A row for each recipe: accuracy on images of old and of new classes, before and after."""
    classes = sorted(
        folder.name for folder in (data / "clothing" / "train").iterdir() if folder.is_dir()
    )
    tables = {}
    for which, (word, own) in product(
        ("train", "validation"), (("old", classes[:OLD]), ("new", classes[OLD:]))
    ):
        pairs = (
            (path, name) for name in own for path in find_images(data / "clothing" / which / name)
        )
        tables[which, word] = tabled(pairs, into / f"{which}-{word}.tsv")
    first = fitted(tables["train", "old"], 128, seed, into / "first")
    rows = [{"recipe": "before", "old": scored(first, tables["validation", "old"])}]
    for name, settings in RECIPES.items():
        out = into / name.replace(" ", "-").replace(",", "")
        run = foveate.continue_(
            first, tables["train", "new"], out=out, settings={"training.epochs": EPOCHS, **settings}
        ).run
        rows.append(
            {
                "recipe": name,
                **{word: scored(run, tables["validation", word]) for word in ("old", "new")},
            }
        )
    return rows


def scored(run: Path, table: Path) -> dict[str, float]:
    told = foveate.evaluate(run, table, device="cpu").numbers()
    return {"accuracy": told["accuracy"], "count": told["count"]}


def summary(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        for each in row["rows"]:
            if row["way"] == "soup":
                mark = ", chosen" if each["chosen"] else ""
                lines.append(
                    f"| {row['seed']} | {each['alpha']:.1f}{mark} | {each['home']:.3f} | "
                    f"{each['away']:.3f} |"
                )
            else:
                cells = [shown(each[word]) if word in each else "" for word in ("old", "new")]
                lines.append(f"| {row['seed']} | {each['recipe']} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def shown(part: dict[str, float]) -> str:
    low, high = wilson(part["accuracy"] * part["count"], int(part["count"]))
    return f"{part['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    options = words(__doc__, [], ["soup", "forget"], threads=1)
    torch.set_num_threads(options.threads)
    rows = Rows(options.out / "keeping.jsonl")
    for way, seed in product(options.ways, options.seeds):
        if not rows.has(way=way, seed=seed):
            with tempfile.TemporaryDirectory() as place:
                measure = {"soup": soup, "forget": forget}[way]
                rows.add(
                    {"way": way, "seed": seed, "rows": measure(options.data, seed, Path(place))}
                )
    print(summary(rows.rows))


if __name__ == "__main__":
    main()
