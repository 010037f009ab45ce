"""Pictures of a network's own making: recognised by a classifier that knows real ones alone, and
how far from real ones they are.

    python bench/generate.py --data DATA --out OUT [--ways digits emoji style] [--seeds 0]
    [--minutes 30] [--threads 2]

digits: half of scikit-learn's 8 px digits train a generator at 16 px, by class, for so many
minutes, and a support vector machine at 8 px, which then names 50 painted ones of each class; what
it makes of the other half of the real ones stands beside. emoji: the drawings of google, by
category, at 32 px. Both: KID to real pictures that the generator has not seen (the other half, or
its test part), of 50 painted ones of each class, beside that of noise, by EfficientNet-Lite0's
features; how far guidance goes was chosen by the KID of 20 of each to the validation part. OUT has
a grid of each. style: three pairs of photographs from DATA, in the manner of each other.

Rows land in OUT/generate.jsonl, and a row that is there is not measured again.
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
from foveate.data.discovery import find_images
from foveate.evaluation.intervals import wilson
from foveate.images import codec as images
from foveate.run.folder import Run
from spine import Rows, words

EACH, FEW = 50, 20  # painted of each class, to report and to choose by
GUIDANCE = (2.0, 3.0, 4.5)
PAIRS = [
    ("dreambooth", 3, "emoji/google", 40),
    ("clothing/train", 5, "camvid/train", 7),
    ("camvid/train", 11, "dreambooth", 60),
]


def main() -> None:
    options = words(__doc__, [], ["digits", "emoji", "style"], threads=2, minutes=30.0)
    rows = Rows(options.out / "generate.jsonl")
    torch.set_num_threads(options.threads)
    for way in options.ways:
        for seed in options.seeds:
            about = {"way": way, "seed": seed, "minutes": options.minutes}
            if rows.has(**about):
                continue
            run = options.out / f"generate-{way}-{seed}"
            if way == "style":
                rows.add({**about, **styles(options.data, run)})
            else:
                folder = {"digits": digits, "emoji": categories}[way](options.data, options.out)
                rows.add(
                    {
                        **about,
                        "threads": options.threads,
                        **generated(way, folder, seed, options.minutes, run),
                    }
                )


def digits(_data: Path, out: Path) -> Path:
    """A folder per class, of the half that generator and classifier learn from; the other half lies
    beside.
    """
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    for place, index in enumerate(order.tolist()):
        folder = out / ("digits" if place % 2 else "digits-other") / str(found.target[index])
        folder.mkdir(parents=True, exist_ok=True)
        grey = (found.images[index] * 255 / 16).round().astype(np.uint8)
        images.write_image(np.repeat(grey[..., None], 3, 2), folder / f"{index:04d}.png")
    return out / "digits"


def categories(data: Path, out: Path) -> Path:
    """A folder per category, of links."""
    known = json.loads((data / "emoji" / "emoji.json").read_text(encoding="utf-8"))
    for row in known:
        source = (data / "emoji" / "google" / row["image"]).resolve()
        link = out / "emoji-by-category" / row["category"].replace(" & ", " and ") / row["image"]
        link.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file() and not link.is_symlink():
            link.symlink_to(source)
    return out / "emoji-by-category"


def generated(way: str, folder: Path, seed: int, minutes: float, run: Path) -> dict[str, Any]:
    said: dict[str, Any] = {
        "size": 16 if way == "digits" else 32,
        "minutes": minutes,
        "epochs": 2000,
        "device": "cpu",
    }
    found = foveate.fit(
        folder, task="generate", out=run, settings={"data.leakage_audit": False}, seed=seed, **said
    )
    names = sorted(child.name for child in folder.iterdir())
    made = run.parent / f"{run.name}-made"
    real = folder.with_name("digits-other") if way == "digits" else part(run, folder, "test")
    tried = {
        guidance: choosing(run, names, guidance, part(run, folder, "val")) for guidance in GUIDANCE
    }
    best = min(tried, key=lambda guidance: tried[guidance])
    told = foveate.generate(
        run, names, count=EACH, out=made, device="cpu", reference=real, guidance=best
    )
    assert told.distances is not None
    row: dict[str, Any] = {
        "seconds": found.outcome["seconds"],
        "epochs": found.outcome["epochs"],
        **found.numbers(),
    }
    row |= {"guidance": best, "tried": {str(guidance): kid for guidance, kid in tried.items()}}
    row |= {
        "compare": told.distances.rows,
        "features": told.distances.features,
        "painted": told.count,
    }
    row["kid_share_of_noise"] = (
        told.distances.rows["generated"]["kid"] / told.distances.rows["noise"]["kid"]
    )
    return row | (recognised(folder, made, names) if way == "digits" else {})


def part(run: Path, folder: Path, split: str) -> Path:
    """A folder of links to the images of a part of the run's data."""
    links = run.parent / f"{run.name}-{split}"
    for number, row in enumerate(Run(run).splits()):
        link = links / f"{number:05d}.png"
        if row["split"] == split and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((folder / row["path"]).resolve())
    return links


def choosing(run: Path, names: list[str], guidance: float, real: Path) -> float:
    """KID of a few pictures, of other seeds than those reported, to the validation part."""
    made = run.parent / f"{run.name}-made-{guidance}"
    told = foveate.generate(
        run,
        names,
        count=FEW,
        out=made,
        device="cpu",
        reference=real,
        guidance=guidance,
        seed=10_000,
    )
    assert told.distances is not None
    return float(told.distances.rows["generated"]["kid"])


def recognised(folder: Path, made: Path, names: list[str]) -> dict[str, Any]:
    """Accuracy of an SVM trained on real digits, on generated and on other real ones."""

    def read(place: Path) -> np.ndarray:
        return np.stack(
            [
                images.resize(images.read_image(file)[0], (8, 8)).mean(-1).ravel() / 255
                for file in find_images(place)
            ]
        )

    def labelled(root: Path) -> tuple[np.ndarray, np.ndarray]:
        parts = [read(root / name) for name in names]
        return np.concatenate(parts), np.repeat(
            np.arange(len(names)), [len(part) for part in parts]
        )

    judge = SVC(gamma="scale").fit(*labelled(folder))
    painted = read_made(made, len(names) * EACH)
    right = int((judge.predict(painted) == np.repeat(np.arange(len(names)), EACH)).sum())
    pixels, classes = labelled(folder.with_name("digits-other"))
    return {
        "recognised": right / len(painted),
        "recognised_interval": list(wilson(right, len(painted))),
        "real_recognised": float((judge.predict(pixels) == classes).mean()),
    }


def read_made(made: Path, count: int) -> np.ndarray:
    files = [made / f"{place:04d}.png" for place in range(count)]
    return np.stack(
        [images.resize(images.read_image(file)[0], (8, 8)).mean(-1).ravel() / 255 for file in files]
    )


def styles(data: Path, run: Path) -> dict[str, Any]:
    lowered = []
    for number, (one, first, other, second) in enumerate(PAIRS):
        content, style = (
            sorted(find_images(data / place))[index]
            for place, index in ((one, first), (other, second))
        )
        run.mkdir(parents=True, exist_ok=True)
        found = foveate.restyle(content, style, out=run / f"{number}.png", device="cpu")
        lowered.append(found.numbers()["style_loss_reduction"])
    return {"lowered": lowered}


if __name__ == "__main__":
    main()
