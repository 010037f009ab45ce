"""Few-shot classification: heads on the features of a frozen backbone, and k-NN on raw pixels.

    python bench/few_shot.py --data DATA --out OUT [--cases centroid knn pixels ...] [--draws 10]

The cases are the heads. Each draw takes images of clothing's training folder as `fit --shots` does.
The head is solved as `fit` solves it, on features of EfficientNet-Lite0 that are computed once, and
scored on clothing's validation folder, which was not used for any choice. `pixels` predicts the
class of the nearest drawn image by thumbnails of 32 x 32 pixels, each centered and of unit length.

Rows are appended to OUT/few_shot.jsonl; those already there are not measured again. Prints the
table of docs/benchmarks/few-shot.md.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t

from common import ResultFile, parse_options, prepare_datasets
from foveate.api.episodes.protocol import fit_and_predict
from foveate.api.models.cross_validation import one_hot_targets
from foveate.data.grouping import find_groups
from foveate.data.scan import ScannedTable
from foveate.data.splits import group_folds, subsample_shots
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

SHOTS = (1, 2, 4, 8, 16)
PIXELS = "pixels"
HEADS = [PIXELS, "knn", "centroid", "ridge", "probe", "lpplus"]
_SIDE = 32
_FOLDS = 5  # as in `fit`


class Bench:
    """The images of both folders and their features, each computed once."""

    def __init__(self, train: Path, test: Path) -> None:
        self.recipes = {head: self._recipe(train, head) for head in HEADS if head != PIXELS}
        self.model = build_model(self.recipes["probe"][0], self.recipes["probe"][1].classes)
        table = self.recipes["probe"][1]
        training = table.with_samples(
            tuple(replace(sample, split="train") for sample in table.samples)
        )
        self.train = scan_with_progress(training, self.model, self.data)
        self.test = scan_with_progress(read_data(self._data_recipe(test)), self.model, self.data)
        self.groups = find_groups(self.train, self.data).names
        self._cached: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def data(self) -> Any:
        return self.recipes["probe"][0].data

    @staticmethod
    def _data_recipe(folder: Path) -> Recipe:
        settings = {
            "data.path": str(folder),
            "backbone.weights": "offline",
            "training.channels_last": True,
        }
        return with_settings(Recipe(), settings)

    def _recipe(self, train: Path, head: str) -> tuple[Recipe, Table]:
        recipe = with_settings(self._data_recipe(train), {"tuning": head})
        table = read_data(recipe)
        return resolve_recipe(recipe, table)[0], table

    def accuracy(self, head: str, shots: int, seed: int) -> float:
        """Return the test accuracy of a head with `shots` training images per class."""
        drawn, groups = subsample_shots(self.train, self.groups, shots, seed)
        targets = one_hot_targets(self.test.table).argmax(1)
        if head == PIXELS:
            predicted = self._predict_by_pixels(drawn)
        else:
            predicted = self._fit_and_predict(head, drawn, groups, seed)
        return float((predicted == targets).mean())

    def _fit_and_predict(
        self, head: str, drawn: ScannedTable, groups: list[str], seed: int
    ) -> np.ndarray:
        recipe, table = self.recipes[head]
        model = build_model(recipe, table.classes)
        train_features, test_features = self._features(recipe.task.settings["features"])
        index_of = {digest: index for index, digest in enumerate(self.train.hashes)}
        rows = train_features[[index_of[digest] for digest in drawn.hashes]]
        folds = group_folds(
            [label_names(sample) for sample in drawn.table.samples], groups, _FOLDS, seed
        )
        return fit_and_predict(
            model, LabeledFeatures(rows, one_hot_targets(drawn.table), folds), test_features
        ).argmax(1)

    def _features(self, layout: str) -> tuple[np.ndarray, np.ndarray]:
        if layout not in self._cached:
            recipe = with_settings(self.recipes["probe"][0], {"task.features": layout})
            model = build_model(recipe, self.recipes["probe"][1].classes)
            both = (
                backbone_features(model, scanned, recipe, resolve_device("cpu"))
                for scanned in (self.train, self.test)
            )
            self._cached[layout] = (next(both), next(both))
        return self._cached[layout]

    def _predict_by_pixels(self, drawn: ScannedTable) -> np.ndarray:
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
    """Return a Markdown table: mean accuracy and its 95 % interval over draws (Student's t)."""
    lines = [
        "| head | " + " | ".join(f"{shots} per class" for shots in SHOTS) + " |",
        "|---" * (len(SHOTS) + 1) + "|",
    ]
    for head in dict.fromkeys(row["case"] for row in rows):
        cells = []
        for shots in SHOTS:
            values = [
                row["accuracy"] for row in rows if row["case"] == head and row["shots"] == shots
            ]
            margin = (
                t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
                if len(values) > 1
                else float("nan")
            )
            cells.append(f"{statistics.mean(values):.3f} ± {margin:.3f}" if values else "")
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    options = parse_options(__doc__, [], HEADS, threads=1, draws=10)
    torch.set_num_threads(options.threads)
    results = ResultFile(options.out / "few_shot.jsonl")
    bench = Bench(*prepare_datasets(options.data, options.out)["clothing"])
    for head in options.cases:
        for shots in SHOTS:
            for seed in range(options.draws):
                if not results.has(case=head, shots=shots, seed=seed):
                    results.add(
                        {
                            "case": head,
                            "shots": shots,
                            "seed": seed,
                            "accuracy": bench.accuracy(head, shots, seed),
                        }
                    )
    print(summary(results.rows))


if __name__ == "__main__":
    main()
