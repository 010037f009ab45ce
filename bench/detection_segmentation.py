"""Detection and segmentation: BCCD, CamVid and EM membranes, pretrained and random weights.

    python bench/detection_segmentation.py --data DATA --out OUT [--datasets bccd camvid em]
        [--cases offline none] [--seeds 0 1 2] [--threads 2]

The cases are the initial weights. Every run trains on all training images with nothing held out,
for a number of epochs that was fixed beforehand, and keeps the last weights, so that the scored
images (val of BCCD and CamVid, the left-out fold of EM) selected nothing.

Rows are appended to OUT/detection_segmentation.jsonl; those already there are not measured again.
Prints a table.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import yaml

from common import FOVEATE, ResultFile, parse_options, run_python

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
# options of `foveate fit` beside the data; chosen inside the training images (docs/log.md)
FIT_OPTIONS = {
    "bccd": ["--size", "416", "--epochs", "20"],
    "camvid": ["--size", "480", "--epochs", "20"],
    "em": ["--size", "512", "--epochs", "40", "--set", "augment.flip_vertical=0.5"],
}
MAIN_METRIC = {"bccd": "map_50", "camvid": "mean_iou", "em": "dice"}


def train_test_pairs(name: str, data: Path, out: Path) -> list[tuple[Path, Path]]:
    """Return training data and data to score: one pair, or one for each fold."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "bccd":
        return [(_bccd(data, folder, "train"), _bccd(data, folder, "val"))]
    if name == "camvid":
        return [(_camvid(data, folder, "train"), _camvid(data, folder, "val"))]
    return [
        (_em(data, folder, fold, True), _em(data, folder, fold, False)) for fold in range(FOLDS)
    ]


def _bccd(data: Path, folder: Path, split: str) -> Path:
    source, target = data / "bccd" / "BCCD", folder / split
    for stem in (source / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        for inner, ending in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
            _link(source / inner / (stem + ending), target / inner / (stem + ending))
    return target


def _camvid(data: Path, folder: Path, split: str) -> Path:
    file = folder / f"{split}.yaml"
    content = {
        "path": str((data / "camvid").resolve()),
        "images": {split: split},
        "masks": {split: f"{split}annot"},
        "classes": CAMVID,
        "ignore": [11],
    }
    file.write_text(yaml.safe_dump(content))
    return file


def _em(data: Path, folder: Path, fold: int, training: bool) -> Path:
    """Link the images and masks of a fold.

    Neighboring slices of a stack look alike, so a fold is a run of slices, not every fifth one.
    """
    source = data / "em_membrane" / "train"
    target = folder / f"{fold}-{'train' if training else 'test'}"
    files = sorted((source / "image").glob("*.png"), key=lambda file: int(file.stem))
    for number, file in enumerate(files):
        if (number * FOLDS // len(files) == fold) != training:
            for inner, kind in (("image", "images"), ("label", "masks")):
                _link(source / inner / file.name, target / kind / file.name)
    return target


def _link(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(source.resolve())


def measure(
    name: str, train: Path, test: Path, weights: str, seed: int, threads: int
) -> dict[str, Any]:
    """Fit and evaluate in processes of their own; return scores, intervals and training time."""
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        arguments = [
            "fit",
            str(train),
            "--weights",
            weights,
            "--seed",
            str(seed),
            "--out",
            run,
            "--device",
            "cpu",
            "--json",
            *FIT_OPTIONS[name],
        ]
        arguments += ["--set", "data.val=0", "--set", "data.test=0"]
        run_python([*FOVEATE, *arguments], threads)
        outcome = json.loads((Path(run) / "finished.json").read_text())
        line, _ = run_python([*FOVEATE, "evaluate", run, str(test), "--json"], threads)
        scores = json.loads((Path(json.loads(line)["report"]).parent / "scores.json").read_text())
        return {
            "training_seconds": outcome["seconds"],
            "epochs": outcome["epochs"],
            "per_class": scores["per_class"],
            "intervals": {
                key: (score["low"], score["high"]) for key, score in scores["numbers"].items()
            },
            **{key: score["value"] for key, score in scores["numbers"].items()},
        }


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: the main metric by data set and weights."""
    lines = [
        "| data set | weights | metric | mean | by seed | minutes of training, median |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in dict.fromkeys((row["dataset"], row["case"]) for row in rows):
        group = [row for row in rows if (row["dataset"], row["case"]) == (name, case)]
        by_seed = {
            seed: [row[MAIN_METRIC[name]] for row in group if row["seed"] == seed]
            for seed in sorted({row["seed"] for row in group})
        }
        means = [statistics.mean(values) for values in by_seed.values()]
        minutes = statistics.median(row["training_seconds"] for row in group) / 60
        by_seed_text = ", ".join(f"{value:.3f}" for value in means)
        lines.append(
            f"| {name} | {case} | {MAIN_METRIC[name]} | {statistics.mean(means):.3f} | "
            f"{by_seed_text} | {minutes:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    options = parse_options(
        __doc__, list(FIT_OPTIONS), ["offline", "none"], threads=os.cpu_count() or 1
    )
    results = ResultFile(options.out / "detection_segmentation.jsonl")
    for seed in options.seeds:
        for case in options.cases:
            for name in options.datasets:
                for fold, (train, test) in enumerate(
                    train_test_pairs(name, options.data, options.out)
                ):
                    if not results.has(dataset=name, case=case, seed=seed, fold=fold):
                        scores = measure(name, train, test, case, seed, options.threads)
                        results.add(
                            {
                                "dataset": name,
                                "case": case,
                                "seed": seed,
                                "fold": fold,
                                "threads": options.threads,
                                **scores,
                            }
                        )
    print(summary(results.rows))


if __name__ == "__main__":
    main()
