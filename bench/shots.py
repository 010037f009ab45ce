"""Few images a class: heads on the features of a frozen backbone, and a nearest neighbour on raw
pixels beside them.

    python bench/shots.py --data DATA --out OUT [--ways centroid knn pixels ...] [--draws 10]

Each draw takes images of clothing's training folder as `fit --shots` does; the head is solved as
`fit` solves it, on features of EfficientNet-Lite0 that are computed once, and scored on clothing's
validation folder, which chose nothing. `pixels`: the nearest of the drawn images by thumbnails of
32 x 32 pixels, each centred and of length 1. Rows land in OUT/shots.jsonl, and a row that is there
is not measured again.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t

from foveate.api.episodes.protocol import fit_and_predict
from foveate.api.models.cross_validation import one_hot_targets
from foveate.data.scan import ScannedTable
from foveate.data.splits import duplicate_groups, group_folds, subsample_shots
from foveate.data.tables import label_names
from foveate.inference.engine import scan_with_progress
from foveate.inference.features import backbone_features
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.model import build_model
from foveate.recipe import Recipe, with_settings
from foveate.training.data import read_data
from foveate.training.resolve import resolve_recipe
from foveate.types import Table
from foveate.utils.device import resolve_device
from spine import Rows, sets, words

SHOTS = (1, 2, 4, 8, 16)
PIXELS = "pixels"
WAYS = [PIXELS, "knn", "centroid", "ridge", "probe", "lpplus"]
_SIDE = 32
_FOLDS = 5  # as `fit` takes


class Bench:
    """The images of both folders and their features, each computed once."""

    def __init__(self, train: Path, test: Path) -> None:
        self.recipes = {way: self._recipe(train, way) for way in WAYS if way != PIXELS}
        self.model = build_model(self.recipes["probe"][0], self.recipes["probe"][1].classes)
        table = self.recipes["probe"][1]
        taught = table.with_samples(
            tuple(replace(sample, split="train") for sample in table.samples)
        )
        self.train = scan_with_progress(taught, self.model, self.data)
        self.test = scan_with_progress(read_data(self._said(test)), self.model, self.data)
        self.groups = duplicate_groups(self.train, self.data)
        self.known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def data(self) -> Any:
        return self.recipes["probe"][0].data

    @staticmethod
    def _said(folder: Path) -> Recipe:
        said = {
            "data.path": str(folder),
            "backbone.weights": "offline",
            "training.channels_last": True,
        }
        return with_settings(Recipe(), said)

    def _recipe(self, train: Path, way: str) -> tuple[Recipe, Table]:
        recipe = with_settings(self._said(train), {"tuning": way})
        table = read_data(recipe)
        return resolve_recipe(recipe, table)[0], table

    def accuracy(self, way: str, shots: int, seed: int) -> float:
        drawn, groups = subsample_shots(self.train, self.groups, shots, seed)
        truths = one_hot_targets(self.test.table).argmax(1)
        found = self._on_pixels(drawn) if way == PIXELS else self._solved(way, drawn, groups, seed)
        return float((found == truths).mean())

    def _solved(self, way: str, drawn: ScannedTable, groups: list[str], seed: int) -> np.ndarray:
        recipe, table = self.recipes[way]
        model = build_model(recipe, table.classes)
        taught, asked = self._features(recipe.task.settings["features"])
        place = {digest: index for index, digest in enumerate(self.train.hashes)}
        rows = taught[[place[digest] for digest in drawn.hashes]]
        folds = group_folds(
            [label_names(sample) for sample in drawn.table.samples], groups, _FOLDS, seed
        )
        return fit_and_predict(
            model, LabeledFeatures(rows, one_hot_targets(drawn.table), folds), asked
        ).argmax(1)

    def _features(self, reads: str) -> tuple[np.ndarray, np.ndarray]:
        if reads not in self.known:
            recipe = with_settings(self.recipes["probe"][0], {"task.features": reads})
            model = build_model(recipe, self.recipes["probe"][1].classes)
            both = (
                backbone_features(model, scanned, recipe, resolve_device("cpu"))
                for scanned in (self.train, self.test)
            )
            self.known[reads] = (next(both), next(both))
        return self.known[reads]

    def _on_pixels(self, drawn: ScannedTable) -> np.ndarray:
        nearest = (thumbnails(self.test) @ thumbnails(drawn).T).argmax(1)
        return np.asarray(one_hot_targets(drawn.table).argmax(1)[nearest])


def thumbnails(scanned: ScannedTable) -> np.ndarray:
    """(N, 3072) rows of mean 0 and length 1."""
    rows = np.stack(
        [_thumbnail(scanned.cache.read(sample.path)[0]) for sample in scanned.table.samples]
    )
    rows -= rows.mean(1, keepdims=True)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    return torch.nn.functional.adaptive_avg_pool2d(planes, _SIDE).flatten().numpy()


def summary(rows: list[dict[str, Any]]) -> str:
    """Mean accuracy and the 95 % interval of the mean over the draws: t over the deviation of the
    draws.
    """
    lines = [
        "| head | " + " | ".join(f"{shots} a class" for shots in SHOTS) + " |",
        "|---" * (len(SHOTS) + 1) + "|",
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = []
        for shots in SHOTS:
            found = [row["accuracy"] for row in rows if row["way"] == way and row["shots"] == shots]
            reach = (
                t.ppf(0.975, len(found) - 1) * statistics.stdev(found) / len(found) ** 0.5
                if len(found) > 1
                else float("nan")
            )
            cells.append(f"{statistics.mean(found):.3f} ± {reach:.3f}" if found else "")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    options = words(__doc__, ["clothing"], WAYS, threads=1, draws=10)
    torch.set_num_threads(options.threads)
    rows = Rows(options.out / "shots.jsonl")
    bench = Bench(*sets(options.data, options.out)["clothing"])
    for way in options.ways:
        for shots in SHOTS:
            for seed in range(options.draws):
                if not rows.has(way=way, shots=shots, seed=seed):
                    rows.add(
                        {
                            "way": way,
                            "shots": shots,
                            "seed": seed,
                            "accuracy": bench.accuracy(way, shots, seed),
                        }
                    )
    print(summary(rows.rows))


if __name__ == "__main__":
    main()
