"""Image generation from scratch: how recognizable generated images are, and their KID to real ones.

    python bench/generate.py --data DATA --out OUT [--cases digits emoji style] [--seeds 0]
        [--minutes 30] [--threads 2]

digits  Half of scikit-learn's 8 px digits train a class-conditional generator at 16 px, for
        --minutes, and a support vector machine at 8 px, which then classifies 50 generated images
        of each class; its accuracy on the other half of the real ones is given for comparison.
emoji   Google's drawings, by category, at 32 px.
style   Style transfer between three pairs of photographs and drawings from DATA.

digits and emoji report the KID of 50 generated images of each class to real images that the
generator has not seen (the other half, or its test split), next to that of noise, by the features
of EfficientNet-Lite0. The guidance scale is selected by the KID of 20 other images of each class to
validation images. OUT has a grid of each.

Rows are appended to OUT/generate.jsonl; those already there are not measured again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import foveate
from common import ResultFile, parse_options
from foveate.data.discovery import find_images
from foveate.evaluation.intervals import wilson
from foveate.images.codec import read_image, resize
from foveate.images.encoding import write_image
from foveate.run.folder import Run

PER_CLASS, FEW_PER_CLASS = 50, 20  # generated images, to report and to select the guidance by
GUIDANCE = (2.0, 3.0, 4.5)
PAIRS = [
    ("dreambooth", 3, "emoji/google", 40),
    ("clothing/train", 5, "camvid/train", 7),
    ("camvid/train", 11, "dreambooth", 60),
]


def main() -> None:
    options = parse_options(__doc__, [], ["digits", "emoji", "style"], threads=2, minutes=30.0)
    results = ResultFile(options.out / "generate.jsonl")
    torch.set_num_threads(options.threads)
    for case in options.cases:
        for seed in options.seeds:
            key = {"case": case, "seed": seed, "minutes": options.minutes}
            if results.has(**key):
                continue
            run = options.out / f"generate-{case}-{seed}"
            if case == "style":
                results.add({**key, **measure_style(options.data, run)})
            else:
                folder = {"digits": write_digits, "emoji": link_categories}[case](
                    options.data, options.out
                )
                results.add(
                    {
                        **key,
                        "threads": options.threads,
                        **measure_generation(case, folder, seed, options.minutes, run),
                    }
                )


def write_digits(_data: Path, out: Path) -> Path:
    """Write the digits in a folder per class; return the half for training."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    for position, index in enumerate(order.tolist()):
        folder = out / ("digits" if position % 2 else "digits-other") / str(digits.target[index])
        folder.mkdir(parents=True, exist_ok=True)
        gray = (digits.images[index] * 255 / 16).round().astype(np.uint8)
        write_image(np.repeat(gray[..., None], 3, 2), folder / f"{index:04d}.png")
    return out / "digits"


def link_categories(data: Path, out: Path) -> Path:
    """Link the drawings into a folder per category."""
    rows = json.loads((data / "emoji" / "emoji.json").read_text(encoding="utf-8"))
    for row in rows:
        source = (data / "emoji" / "google" / row["image"]).resolve()
        link = out / "emoji-by-category" / row["category"].replace(" & ", " and ") / row["image"]
        link.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file() and not link.is_symlink():
            link.symlink_to(source)
    return out / "emoji-by-category"


def measure_generation(
    case: str, folder: Path, seed: int, minutes: float, run: Path
) -> dict[str, Any]:
    """Train a generator, select the guidance scale, and compare generated with real images."""
    options: dict[str, Any] = {
        "size": 16 if case == "digits" else 32,
        "minutes": minutes,
        "epochs": 2000,
        "device": "cpu",
    }
    fitted = foveate.fit(
        folder,
        task="generate",
        out=run,
        settings={"data.leakage_audit": False},
        seed=seed,
        **options,
    )
    names = sorted(child.name for child in folder.iterdir())
    out = run.parent / f"{run.name}-generated"
    real = folder.with_name("digits-other") if case == "digits" else link_split(run, folder, "test")
    kids = {
        guidance: validation_kid(run, names, guidance, link_split(run, folder, "val"))
        for guidance in GUIDANCE
    }
    best = min(kids, key=lambda guidance: kids[guidance])
    result = foveate.generate(
        run, names, count=PER_CLASS, out=out, device="cpu", reference=real, guidance=best
    )
    assert result.distances is not None
    row: dict[str, Any] = {
        "seconds": fitted.outcome["seconds"],
        "epochs": fitted.outcome["epochs"],
        **fitted.numbers(),
    }
    row |= {
        "guidance": best,
        "kid_by_guidance": {str(guidance): kid for guidance, kid in kids.items()},
    }
    row |= {
        "comparisons": result.distances.rows,
        "features": result.distances.features,
        "generated": result.count,
    }
    row["kid_share_of_noise"] = (
        result.distances.rows["generated"]["kid"] / result.distances.rows["noise"]["kid"]
    )
    return row | (measure_recognition(folder, out, names) if case == "digits" else {})


def link_split(run: Path, folder: Path, split: str) -> Path:
    """Return a folder of links to the images of a split of the run."""
    links = run.parent / f"{run.name}-{split}"
    for number, row in enumerate(Run(run).splits()):
        link = links / f"{number:05d}.png"
        if row["split"] == split and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((folder / row["path"]).resolve())
    return links


def validation_kid(run: Path, names: list[str], guidance: float, real: Path) -> float:
    """Return the KID of a few images, of other seeds than those reported, to validation images."""
    out = run.parent / f"{run.name}-generated-{guidance}"
    result = foveate.generate(
        run,
        names,
        count=FEW_PER_CLASS,
        out=out,
        device="cpu",
        reference=real,
        guidance=guidance,
        seed=10_000,
    )
    assert result.distances is not None
    return float(result.distances.rows["generated"]["kid"])


def measure_recognition(folder: Path, generated: Path, names: list[str]) -> dict[str, Any]:
    """Return the accuracy of an SVM trained on real digits, on generated and on other real ones."""

    def read(child: Path) -> np.ndarray:
        return np.stack(
            [
                resize(read_image(file)[0], (8, 8)).mean(-1).ravel() / 255
                for file in find_images(child)
            ]
        )

    def labeled(root: Path) -> tuple[np.ndarray, np.ndarray]:
        parts = [read(root / name) for name in names]
        return np.concatenate(parts), np.repeat(
            np.arange(len(names)), [len(part) for part in parts]
        )

    classifier = SVC(gamma="scale").fit(*labeled(folder))
    pixels = read_generated(generated, len(names) * PER_CLASS)
    correct = int((classifier.predict(pixels) == np.repeat(np.arange(len(names)), PER_CLASS)).sum())
    real, classes = labeled(folder.with_name("digits-other"))
    return {
        "recognized": correct / len(pixels),
        "recognized_interval": list(wilson(correct, len(pixels))),
        "real_recognized": float((classifier.predict(real) == classes).mean()),
    }


def read_generated(folder: Path, count: int) -> np.ndarray:
    files = [folder / f"{index:04d}.png" for index in range(count)]
    return np.stack([resize(read_image(file)[0], (8, 8)).mean(-1).ravel() / 255 for file in files])


def measure_style(data: Path, run: Path) -> dict[str, Any]:
    """Return the relative reduction of the style loss of each pair."""
    reductions = []
    for number, (content_folder, first, style_folder, second) in enumerate(PAIRS):
        content, style = (
            sorted(find_images(data / folder))[index]
            for folder, index in ((content_folder, first), (style_folder, second))
        )
        run.mkdir(parents=True, exist_ok=True)
        restyled = foveate.restyle(content, style, out=run / f"{number}.png", device="cpu")
        reductions.append(restyled.numbers()["style_loss_reduction"])
    return {"style_loss_reductions": reductions}


if __name__ == "__main__":
    main()
