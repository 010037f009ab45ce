"""The figures of detection and segmentation: BCCD, CamVid and EM membranes, pretrained weights
against random ones.

    python bench/places.py --data DATA --out OUT [--sets bccd camvid em] [--ways offline none]
    [--seeds 0 1 2] [--threads 2]

Every run trains on all training images with nothing held out, for a number of epochs that was fixed
beforehand, and keeps the last weights: so the scored images (BCCD's and CamVid's val, the left-out
fold of EM) chose nothing. Every row lands in OUT/places.jsonl at once, and a row that is there is
not measured again.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import yaml

from spine import Rows, python, words

CAMVID = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
]
FOLDS = 5
# what is said to `foveate fit` beside the data; chosen inside the training images (docs/log.md)
WORDS = {
    "bccd": ["--size", "416", "--epochs", "20"],
    "camvid": ["--size", "480", "--epochs", "20"],
    "em": ["--size", "512", "--epochs", "40", "--set", "augment.flip_vertical=0.5"],
}
MAIN = {"bccd": "map_50", "camvid": "mean_iou", "em": "dice"}


def pairs(name: str, data: Path, out: Path) -> list[tuple[Path, Path]]:
    """Training data and data to score: one pair, or one for each fold."""
    place = out / name
    place.mkdir(parents=True, exist_ok=True)
    if name == "bccd":
        return [(_voc_part(data, place, "train"), _voc_part(data, place, "val"))]
    if name == "camvid":
        return [(_camvid(data, place, "train"), _camvid(data, place, "val"))]
    return [(_em(data, place, fold, True), _em(data, place, fold, False)) for fold in range(FOLDS)]


def _voc_part(data: Path, place: Path, split: str) -> Path:
    source, folder = data / "bccd" / "BCCD", place / split
    for stem in (source / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        for inner, ending in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
            _linked(source / inner / (stem + ending), folder / inner / (stem + ending))
    return folder


def _camvid(data: Path, place: Path, split: str) -> Path:
    card = place / f"{split}.yaml"
    folder = str((data / "camvid").resolve())
    content = {
        "path": folder,
        "images": {split: split},
        "masks": {split: f"{split}annot"},
        "classes": CAMVID,
        "ignore": [11],
    }
    card.write_text(yaml.safe_dump(content))
    return card


def _em(data: Path, place: Path, fold: int, training: bool) -> Path:
    """Slices of a stack look like their neighbours, so a fold is a run of slices, not every fifth
    one.
    """
    source, folder = (
        data / "em_membrane" / "train",
        place / f"{fold}-{'train' if training else 'test'}",
    )
    files = sorted((source / "image").glob("*.png"), key=lambda file: int(file.stem))
    for number, file in enumerate(files):
        if (number * FOLDS // len(files) == fold) != training:
            for inner, mine in (("image", "images"), ("label", "masks")):
                _linked(source / inner / file.name, folder / mine / file.name)
    return folder


def _linked(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(source.resolve())


def measured(
    name: str, train: Path, test: Path, way: str, seed: int, threads: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        program, run = (
            ["-c", "from foveate.cli.main import main; main()"],
            str(Path(folder) / "run"),
        )
        said = [
            "fit",
            str(train),
            "--weights",
            way,
            "--seed",
            str(seed),
            "--out",
            run,
            "--device",
            "cpu",
            "--json",
            *WORDS[name],
        ]
        python([*program, *said, "--set", "data.val=0", "--set", "data.test=0"], threads)
        outcome = json.loads((Path(run) / "finished.json").read_text())
        found = json.loads(python([*program, "evaluate", run, str(test), "--json"], threads)[0])
        scores = json.loads((Path(found["report"]).parent / "scores.json").read_text())
        numbers = {key: score["value"] for key, score in scores["numbers"].items()}
        told = {
            "training_seconds": outcome["seconds"],
            "epochs": outcome["epochs"],
            "per_class": scores["per_class"],
        }
        return {
            **told,
            "intervals": {
                key: (score["low"], score["high"]) for key, score in scores["numbers"].items()
            },
            **numbers,
        }


def summary(rows: list[dict[str, Any]]) -> str:
    """The table of docs/benchmarks."""
    lines = [
        "| set | weights | number | mean | by seed | minutes of training, median |",
        "|---|---|---|---|---|---|",
    ]
    for name, way in dict.fromkeys((row["set"], row["way"]) for row in rows):
        own = [row for row in rows if (row["set"], row["way"]) == (name, way)]
        by_seed = {
            seed: [row[MAIN[name]] for row in own if row["seed"] == seed]
            for seed in sorted({row["seed"] for row in own})
        }
        means = [statistics.mean(values) for values in by_seed.values()]
        minutes = statistics.median(row["training_seconds"] for row in own) / 60
        each = ", ".join(f"{value:.3f}" for value in means)
        lines.append(
            f"| {name} | {way} | {MAIN[name]} | {statistics.mean(means):.3f} | {each} | "
            f"{minutes:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    options = words(__doc__, list(WORDS), ["offline", "none"], threads=os.cpu_count() or 1)
    rows = Rows(options.out / "places.jsonl")
    for seed in options.seeds:
        for way in options.ways:
            for name in options.sets:
                for fold, (train, test) in enumerate(pairs(name, options.data, options.out)):
                    if not rows.has(set=name, way=way, seed=seed, fold=fold):
                        found = measured(name, train, test, way, seed, options.threads)
                        rows.add(
                            {
                                "set": name,
                                "way": way,
                                "seed": seed,
                                "fold": fold,
                                "threads": options.threads,
                                **found,
                            }
                        )
    print(summary(rows.rows))


if __name__ == "__main__":
    main()
