"""Self-supervised pretraining: from scratch on CIFAR-10, distillation, and continued pretraining.

    python bench/pretrain.py --data DATA --out OUT [--cases resnet vit ...] [--seeds 0]
        [--minutes 30] [--threads 2]

resnet, vit   A small ResNet and a small Vision Transformer (LeViT, whose first layers are
              convolutions) on the 10,000 training images of cifar10, without labels. Compared are
              the k-NN accuracy (k = 20; training images predict test images) before and after,
              and, with 100 labels (ten of each class, drawn three times), a linear probe on the
              pretrained network with the same network trained from scratch.
distill       EfficientNet-Lite0 distilled into a ResNet-18 on all photographs of DATA; a probe on
              clothing, of the ResNet before and after and of the teacher.
explora:FILE  A DINOv2 ViT-S/14 with the weights in FILE is pretrained further on the training part
              of brain_mri; the verdict is by the labels of the test part, which is used for nothing
              else.

--minutes is the time budget of each training. Rows are appended to OUT/pretrain.jsonl; those
already there are not measured again. Prints a line for each row.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import foveate
from common import ResultFile, parse_options, prepare_datasets
from foveate.data.discovery import find_images
from foveate.data.formats import read_table
from foveate.data.image_cache import ImageCache
from foveate.evaluation.intervals import wilson
from foveate.images.preprocessing import Framing
from foveate.inference.features import pooled_features
from foveate.modeling.classifiers.knn import knn_vote
from foveate.modeling.model import build_model
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.types import Sample

NETWORKS = {"resnet": ("resnet10t", 64, "simclr", 3e-3), "vit": ("levit_128s", 96, "simclr", 1e-3)}
LABELS, DRAWS = 10, 3  # labels per class, and random draws
PHOTOS = (
    "clothing/train",
    "brain_mri/Training",
    "bccd",
    "camvid/train",
    "camvid/val",
    "dreambooth",
    "cifar10/train",
    "nlvr_dev",
)
STUDENT, TEACHER = "resnet18", "tf_efficientnet_lite0"


def knn_accuracy(
    backbone: str, weights: str, size: int, train: Path, test: Path
) -> tuple[float, int]:
    """Return the accuracy of 20-NN on the test images, and their number."""
    settings = {
        "backbone": {"name": backbone, "weights": weights, "size": size},
        "task": "classify",
        "tuning": "probe",
    }
    train_table, test_table = read_table(train), read_table(test)
    model = build_model(with_settings(Recipe(), settings), train_table.classes)
    vectors = [features(model, table.samples) for table in (train_table, test_table)]
    center = vectors[0].mean(0)
    targets = [
        torch.tensor(
            [train_table.classes.index(sample.target.names[0]) for sample in table.samples]
        )
        for table in (train_table, test_table)
    ]
    one_hot = torch.eye(len(train_table.classes))[targets[0]]
    votes = torch.cat(
        [knn_vote(part - center, vectors[0] - center, one_hot) for part in vectors[1].split(256)]
    )
    return float((votes.argmax(1) == targets[1]).float().mean()), len(targets[1])


def features(model: Any, samples: Sequence[Sample], framing: Framing = "crop") -> torch.Tensor:
    """Return the pooled features (N, D) of the model's backbone."""
    cache = ImageCache(model.backbone.input.size, framing, keep=False)
    return pooled_features(model.backbone.eval(), samples, cache, framing, torch.device("cpu"))


def write_few_labels(train: Path, test: Path, seed: int, file: Path) -> Path:
    """Write a table of ten training images of each class, and all test images."""
    train_table, test_table, rng = read_table(train), read_table(test), np.random.default_rng(seed)
    lines = ["path\tlabel\tsplit"]
    for name in train_table.classes:
        samples = [sample for sample in train_table.samples if sample.target.names[0] == name]
        lines += [
            f"{samples[index].path}\t{name}\ttrain"
            for index in rng.permutation(len(samples))[:LABELS]
        ]
    lines += [f"{sample.path}\t{sample.target.names[0]}\ttest" for sample in test_table.samples]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def measure_from_scratch(
    case: str, seed: int, minutes: float, data: Path, run: Path
) -> dict[str, Any]:
    """Pretrain on CIFAR-10 without labels, and score the features."""
    name, size, objective, lr = NETWORKS[case]
    train, test = data / "cifar10" / "train", data / "cifar10" / "test"
    options: dict[str, Any] = {
        "backbone": name,
        "weights": "none",
        "size": size,
        "seed": seed,
        "device": "cpu",
        "minutes": minutes,
    }
    if not (run / "finished.json").is_file():
        foveate.pretrain(train, objective=objective, lr=lr, out=run, **options)
    outcome = Run.open(run).outcome()
    row: dict[str, Any] = {
        "seconds": outcome["seconds"],
        "epochs": outcome["epochs"],
        "objective": objective,
        "backbone": name,
    }
    row["knn_random"], row["count"] = knn_accuracy(name, "none", size, train, test)
    row["knn"], _ = knn_accuracy(str(run), "auto", size, train, test)
    for draw in range(DRAWS):
        table = write_few_labels(train, test, draw, run.parent / f"{run.name}-few-{draw}.tsv")
        fit_options = {
            "settings": {"data.val": 0, "data.near_duplicates": 1},
            "device": "cpu",
            "seed": draw,
            "size": size,
        }
        probe = foveate.fit(
            table,
            tuning="probe",
            backbone=str(run),
            out=run.parent / f"{run.name}-probe-{draw}",
            **fit_options,
        )
        scratch = foveate.fit(
            table,
            tuning="full",
            backbone=name,
            weights="none",
            epochs=60,
            out=run.parent / f"{run.name}-scratch-{draw}",
            **fit_options,
        )
        for start, fitted in (("probe", probe), ("scratch", scratch)):
            row.setdefault(f"{start}_100", []).append(fitted.numbers()["accuracy"])
    return row


def measure_distillation(seed: int, minutes: float, data: Path, run: Path) -> dict[str, Any]:
    """Distill on all photographs, and compare probes of student and teacher."""
    photos = run.parent / "photos"
    for folder in PHOTOS:
        for number, path in enumerate(find_images(data / folder)):
            link = photos / folder / f"{number:06d}{path.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    options: dict[str, Any] = {
        "backbone": STUDENT,
        "weights": "none",
        "size": 128,
        "seed": seed,
        "device": "cpu",
        "minutes": minutes,
    }
    settings = {"task.teacher": TEACHER, "task.teacher_weights": "offline"}
    pretrained = foveate.pretrain(
        photos, objective="distill", out=run, settings=settings, **options
    )
    row: dict[str, Any] = {
        "seconds": pretrained.outcome["seconds"],
        "epochs": pretrained.outcome["epochs"],
    }
    for role, name, weights in (
        ("random", STUDENT, "none"),
        ("student", str(run), "auto"),
        ("teacher", TEACHER, "offline"),
    ):
        out = run.parent / f"{run.name}-{role}"
        fit_options = {
            "settings": {"data.val": 0, "data.test": 0},
            "device": "cpu",
            "seed": seed,
            "size": 128,
        }
        fitted = foveate.fit(
            data / "clothing" / "train",
            tuning="probe",
            backbone=name,
            weights=weights,
            out=out,
            **fit_options,
        )
        numbers = foveate.evaluate(fitted.run, data / "clothing" / "validation").numbers()
        row |= {role: numbers["accuracy"], "count": numbers["count"]}
    return row


def measure_explora(
    seed: int, minutes: float, weights: str, brain: tuple[Path, Path], run: Path
) -> dict[str, Any]:
    """Continue pretraining on brain scans by ExPLoRA."""
    options: dict[str, Any] = {
        "backbone": "vit_small_patch14_dinov2",
        "weights": weights,
        "size": 112,
        "seed": seed,
        "device": "cpu",
    }
    pretrained = foveate.pretrain(
        brain[0],
        objective="lejepa",
        labels=brain[1],
        out=run,
        minutes=minutes,
        batch_size=32,
        **options,
    )
    return {**pretrained.numbers(), "epochs": pretrained.outcome["epochs"], "run": run.name}


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a line for each row."""
    lines = []
    for row in rows:
        low, high = wilson(row["knn"] * row["count"], row["count"]) if "knn" in row else (0.0, 0.0)
        prefix = (
            f"{row['case']}, seed {row['seed']}, {row['epochs']} epochs in "
            f"{row['seconds'] / 60:.0f} minutes: "
        )
        if "knn" in row:
            probe, scratch = (
                statistics.mean(row[f"{start}_100"]) for start in ("probe", "scratch")
            )
            rest = f"k-NN {row['knn_random']:.3f} -> {row['knn']:.3f} [{low:.3f}, {high:.3f}]; "
            rest += f"100 labels: probe {probe:.3f}, from scratch {scratch:.3f}"
        elif "teacher" in row:
            share = (row["student"] - row["random"]) / (row["teacher"] - row["random"])
            rest = (
                f"probe on clothing: random {row['random']:.3f}, student {row['student']:.3f}, "
                f"teacher {row['teacher']:.3f}, "
            )
            rest += f"{share:.2f} of the gap"
        else:
            rest = (
                f"{row['verdict']}, k-NN {row['start_knn_accuracy']:.3f} -> "
                f"{row['end_knn_accuracy']:.3f}, gain {row['gain']}"
            )
        lines.append(prefix + rest)
    return "\n".join(lines)


def main() -> None:
    options = parse_options(__doc__, [], [*NETWORKS, "distill"], threads=2, minutes=30.0)
    results = ResultFile(options.out / "pretrain.jsonl")
    torch.set_num_threads(options.threads)
    for case, seed in product(options.cases, options.seeds):
        key = {"case": case.partition(":")[0], "seed": seed, "minutes": options.minutes}
        if results.has(**key):
            continue
        run = options.out / f"pretrain-{key['case']}-{seed}"
        if case in NETWORKS:
            row = measure_from_scratch(case, seed, options.minutes, options.data, run)
        elif case == "distill":
            row = measure_distillation(seed, options.minutes, options.data, run)
        else:
            row = measure_explora(
                seed,
                options.minutes,
                case.partition(":")[2],
                prepare_datasets(options.data, options.out)["brain_mri"],
                run,
            )
        results.add({**key, "threads": options.threads, **row})
    print(summary(results.rows))


if __name__ == "__main__":
    main()
