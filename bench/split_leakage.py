"""Optimistic bias of random splits: cross-validation with ever larger near-duplicate clusters.

    python bench/split_leakage.py ../shared/data/brain_mri/Training [--seeds 0 1 2]

The default probe is cross-validated inside one folder of images. Images whose similarity exceeds a
threshold stay in one fold: 1 would keep only identical files together, and `random` divides even
those. The regularization strength is selected by cross-validation in the same folds, so that all
rows are equally (and hardly) biased by it.

Prints the table of docs/benchmarks/shift.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from foveate.data.dataset import ImageDataset
from foveate.data.duplicates import near_duplicates
from foveate.data.formats import read_table
from foveate.data.scan import scan
from foveate.data.splits import group_folds
from foveate.data.transforms import evaluation_transform
from foveate.evaluation.intervals import wilson
from foveate.inference.features import head_features
from foveate.modeling.classifiers.logistic import solve
from foveate.modeling.model import build_model
from foveate.recipe import Recipe, with_settings
from foveate.utils.device import ComputeMode

FOLDS = 5
THRESHOLDS = (0.99, 0.97, 0.95, 0.9, 0.85, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    table = read_table(options.folder)
    task = {"name": "classify", "features": "maps", "multilabel": False, "class_weights": "none"}
    model = build_model(
        with_settings(
            Recipe(), {"backbone.weights": "offline", "task": task, "tuning.name": "probe"}
        ),
        table.classes,
    )
    scanned = scan(table, model.backbone.input.size, "crop", Recipe().data)
    transform = evaluation_transform(model.backbone.input, model.task.framing)
    dataset = ImageDataset(scanned.table.samples, scanned.cache, transform, model.task.encode, 0)
    arguments = {
        "batch_size": 32,
        "device": torch.device("cpu"),
        "mode": ComputeMode("fp32", channels_last=True),
    }
    features = head_features(model, dataset, scanned.hashes, **arguments).numpy()
    labels = [sample.target.names for sample in scanned.table.samples]
    targets = np.eye(len(table.classes))[[table.classes.index(names[0]) for names in labels]]

    def accuracy(groups: list[str], seed: int) -> float:
        folds = group_folds(labels, groups, FOLDS, seed)
        probabilities = solve(features, targets, folds, False).out_of_fold
        assert probabilities is not None
        return float((probabilities.argmax(1) == targets.argmax(1)).mean())

    print(
        "| threshold | clusters | largest | accuracy, mean | by seed | 95 % interval "
        "|\n|---|---|---|---|---|---|"
    )
    for threshold in (None, *THRESHOLDS):
        clusters = (
            np.arange(len(labels))
            if threshold is None
            else near_duplicates(scanned.thumbnails, threshold)
        )
        values = [accuracy([str(cluster) for cluster in clusters], seed) for seed in options.seeds]
        low, high = wilson(mean(values) * len(labels), len(labels))
        by_seed = ", ".join(f"{value:.3f}" for value in values)
        cluster_cells = (
            f"{threshold or 'random'} | {len(set(clusters))} | {np.bincount(clusters).max()}"
        )
        print(
            f"| {cluster_cells} | {mean(values):.3f} | {by_seed} | {low:.3f} to {high:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
