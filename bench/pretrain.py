"""What pictures without labels teach: on CIFAR-10 from nothing, from a teacher, and from a
pretrained Vision Transformer.

    python bench/pretrain.py --data DATA --out OUT [--ways resnet vit ...] [--seeds 0] [--minutes
    30] [--threads 2]

resnet, vit: the 10,000 training images of cifar10, labels unused, in a small ResNet and a small
Vision Transformer (LeViT, whose first layers are convolutions). Compared are the accuracy of 20
nearest neighbours (features of the training images answer for the test images) before and after,
and on 100 labels, ten of each class, drawn three times, a linear probe on what was learnt with the
same network trained from scratch. distill: EfficientNet-Lite0 taught to a ResNet-18 on all photos
of DATA; a probe on clothing, of the ResNet before and after and of the teacher. explora:FILE: a
DINOv2 ViT-S/14 with the weights in FILE goes on over the training part of brain_mri; the verdict is
by the labels of bench/sets.py's test part, which nothing else has seen.

Rows land in OUT/pretrain.jsonl, and a row that is there is not measured again. The minutes are
those of each training.
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
from spine import Rows, sets, words

NETWORKS = {"resnet": ("resnet10t", 64, "simclr", 3e-3), "vit": ("levit_128s", 96, "simclr", 1e-3)}
LABELS, DRAWS = 10, 3  # of each class, and how often
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


def knn(backbone: str, weights: str, size: int, train: Path, test: Path) -> tuple[float, int]:
    """Accuracy of 20 neighbours on the test images, and their number."""
    settings = {
        "backbone": {"name": backbone, "weights": weights, "size": size},
        "task": "classify",
        "tuning": "probe",
    }
    known, asked = read_table(train), read_table(test)
    model = build_model(with_settings(Recipe(), settings), known.classes)
    found = [features(model, table.samples) for table in (known, asked)]
    middle = found[0].mean(0)
    truths = [
        torch.tensor([known.classes.index(sample.target.names[0]) for sample in table.samples])
        for table in (known, asked)
    ]
    answers = torch.eye(len(known.classes))[truths[0]]
    parts = torch.cat(
        [knn_vote(part - middle, found[0] - middle, answers) for part in found[1].split(256)]
    )
    return float((parts.argmax(1) == truths[1]).float().mean()), len(truths[1])


def features(model: Any, samples: Sequence[Sample], framing: Framing = "crop") -> torch.Tensor:
    """(N, D): the pooled features of the model's backbone."""
    cache = ImageCache(model.backbone.input.size, framing, keep=False)
    return pooled_features(model.backbone.eval(), samples, cache, framing, torch.device("cpu"))


def few(train: Path, test: Path, seed: int, into: Path) -> Path:
    """A table of ten training images of each class, and all test images."""
    known, asked, rng = read_table(train), read_table(test), np.random.default_rng(seed)
    lines = ["path\tlabel\tsplit"]
    for name in known.classes:
        own = [sample for sample in known.samples if sample.target.names[0] == name]
        lines += [
            f"{own[place].path}\t{name}\ttrain" for place in rng.permutation(len(own))[:LABELS]
        ]
    lines += [f"{sample.path}\t{sample.target.names[0]}\ttest" for sample in asked.samples]
    into.write_text("\n".join(lines), encoding="utf-8")
    return into


def from_nothing(way: str, seed: int, minutes: float, data: Path, run: Path) -> dict[str, Any]:
    name, size, objective, lr = NETWORKS[way]
    train, test = data / "cifar10" / "train", data / "cifar10" / "test"
    said: dict[str, Any] = {
        "backbone": name,
        "weights": "none",
        "size": size,
        "seed": seed,
        "device": "cpu",
        "minutes": minutes,
    }
    if not (run / "finished.json").is_file():
        foveate.pretrain(train, objective=objective, lr=lr, out=run, **said)
    learnt = Run.open(run).outcome()
    row: dict[str, Any] = {
        "seconds": learnt["seconds"],
        "epochs": learnt["epochs"],
        "objective": objective,
        "backbone": name,
    }
    row["knn_random"], row["count"] = knn(name, "none", size, train, test)
    row["knn"], _ = knn(str(run), "auto", size, train, test)
    for draw in range(DRAWS):
        table = few(train, test, draw, run.parent / f"{run.name}-few-{draw}.tsv")
        plain = {
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
            **plain,
        )
        scratch = foveate.fit(
            table,
            tuning="full",
            backbone=name,
            weights="none",
            epochs=60,
            out=run.parent / f"{run.name}-scratch-{draw}",
            **plain,
        )
        for word, fitted in (("probe", probe), ("scratch", scratch)):
            row.setdefault(f"{word}_100", []).append(fitted.numbers()["accuracy"])
    return row


def distilled(seed: int, minutes: float, data: Path, run: Path) -> dict[str, Any]:
    photos = run.parent / "photos"
    for place in PHOTOS:
        for number, path in enumerate(find_images(data / place)):
            link = photos / place / f"{number:06d}{path.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    said: dict[str, Any] = {
        "backbone": STUDENT,
        "weights": "none",
        "size": 128,
        "seed": seed,
        "device": "cpu",
        "minutes": minutes,
    }
    own = {"task.teacher": TEACHER, "task.teacher_weights": "offline"}
    found = foveate.pretrain(photos, objective="distill", out=run, settings=own, **said)
    row: dict[str, Any] = {"seconds": found.outcome["seconds"], "epochs": found.outcome["epochs"]}
    for word, name, weights in (
        ("random", STUDENT, "none"),
        ("student", str(run), "auto"),
        ("teacher", TEACHER, "offline"),
    ):
        out = run.parent / f"{run.name}-{word}"
        plain = {
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
            **plain,
        )
        told = foveate.evaluate(fitted.run, data / "clothing" / "validation").numbers()
        row |= {word: told["accuracy"], "count": told["count"]}
    return row


def explored(
    seed: int, minutes: float, weights: str, brain: tuple[Path, Path], run: Path
) -> dict[str, Any]:
    said: dict[str, Any] = {
        "backbone": "vit_small_patch14_dinov2",
        "weights": weights,
        "size": 112,
        "seed": seed,
        "device": "cpu",
    }
    found = foveate.pretrain(
        brain[0],
        objective="lejepa",
        labels=brain[1],
        out=run,
        minutes=minutes,
        batch_size=32,
        **said,
    )
    return {**found.numbers(), "epochs": found.outcome["epochs"], "run": run.name}


def summary(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        low, high = wilson(row["knn"] * row["count"], row["count"]) if "knn" in row else (0.0, 0.0)
        first = (
            f"{row['way']}, seed {row['seed']}, {row['epochs']} epochs in "
            f"{row['seconds'] / 60:.0f} minutes: "
        )
        if "knn" in row:
            probe, scratch = (statistics.mean(row[f"{word}_100"]) for word in ("probe", "scratch"))
            rest = f"k-NN {row['knn_random']:.3f} -> {row['knn']:.3f} [{low:.3f}, {high:.3f}]; "
            rest += f"100 labels: probe {probe:.3f}, from scratch {scratch:.3f}"
        elif "teacher" in row:
            closed = (row["student"] - row["random"]) / (row["teacher"] - row["random"])
            rest = (
                f"probe on clothing: random {row['random']:.3f}, student {row['student']:.3f}, "
                f"teacher {row['teacher']:.3f}, "
            )
            rest += f"{closed:.2f} of the gap"
        else:
            rest = (
                f"{row['verdict']}, k-NN {row['start_knn_accuracy']:.3f} -> "
                f"{row['end_knn_accuracy']:.3f}, gain {row['gain']}"
            )
        lines.append(first + rest)
    return "\n".join(lines)


def main() -> None:
    options = words(__doc__, [], [*NETWORKS, "distill"], threads=2, minutes=30.0)
    rows = Rows(options.out / "pretrain.jsonl")
    torch.set_num_threads(options.threads)
    for way, seed in product(options.ways, options.seeds):
        about = {"way": way.partition(":")[0], "seed": seed, "minutes": options.minutes}
        if rows.has(**about):
            continue
        run = options.out / f"pretrain-{about['way']}-{seed}"
        if way in NETWORKS:
            row = from_nothing(way, seed, options.minutes, options.data, run)
        elif way == "distill":
            row = distilled(seed, options.minutes, options.data, run)
        else:
            row = explored(
                seed,
                options.minutes,
                way.partition(":")[2],
                sets(options.data, options.out)["brain_mri"],
                run,
            )
        rows.add({**about, "threads": options.threads, **row})
    print(summary(rows.rows))


if __name__ == "__main__":
    main()
