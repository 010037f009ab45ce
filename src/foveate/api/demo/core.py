"""demo: fit, evaluate and predict on data and weights that are installed, without a network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveate.api.fit.core import fit_recipe
from foveate.api.fit.pipeline import FitResult
from foveate.api.predict import predict
from foveate.images.encoding import write_image
from foveate.messages import percent
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.utils import log
from foveate.utils.files import require_free

_SIDE = 64  # px of an image; the scans have 8
_IMAGES_PER_DIGIT = 60
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class DemoResult:
    fitted: FitResult
    seconds: float

    def numbers(self) -> dict[str, Any]:
        return {**self.fitted.numbers(), "demo_seconds": round(self.seconds, 1)}

    def lines(self) -> list[str]:
        assert self.fitted.evaluation is not None
        report = self.fitted.evaluation.folder / "report.html"
        return [
            f"the demo took {self.seconds:.0f} s; its report: {report}",
            "",
            "Now your own images: a folder with a folder for each class, and then",
            "  foveate fit MY_IMAGES",
            "  foveate predict runs/MY_IMAGES-probe-1 NEW_IMAGES",
        ]


def run_demo(out: Path | None) -> DemoResult:
    """Write the digits to the new folder `out`, fit a probe, and predict three test images."""
    start = time.perf_counter()
    folder = out or Path("foveate-demo")
    require_free(folder, hint="foveate demo --out ANOTHER_FOLDER")
    log.info("1. writing 600 handwritten digits of scikit-learn as one folder per class")
    write_digits(folder / "digits")
    log.info("2. fit: EfficientNet-Lite0 with ImageNet weights, head fitted to the digits")
    settings = {
        "data.path": str(folder / "digits"),
        "backbone.weights": "offline",
        "backbone.size": 96,
    }
    fitted = fit_recipe(with_settings(Recipe(), settings), folder / "run")
    for line in fitted.lines()[:-1]:
        log.info(line)
    log.info("3. predict: three test images")
    unseen = [
        folder / "digits" / row["path"]
        for row in Run(folder / "run").splits()
        if row["split"] == "test"
    ]
    for result in predict(folder / "run", unseen[:: len(unseen) // 3][:3]):
        row = result.row()
        confidence = percent(row["confidence"])
        log.info(f"  {row['path']}: {row['prediction']} (confidence {confidence})")
    return DemoResult(fitted, time.perf_counter() - start)


def write_digits(folder: Path) -> None:
    """Write PNG files, 60 of each digit, to a folder per class."""
    from sklearn.datasets import load_digits

    scans, digits = load_digits(return_X_y=True)
    for digit, name in enumerate(_NAMES):
        class_folder = folder / name
        class_folder.mkdir(parents=True)
        for number, scan in enumerate(scans[digits == digit][:_IMAGES_PER_DIGIT]):
            pixels = np.rint(255 * (1 - scan.reshape(8, 8) / 16)).astype(np.uint8)
            large = np.kron(pixels, np.ones((_SIDE // 8,) * 2, dtype=np.uint8))
            write_image(large[..., None].repeat(3, axis=2), class_folder / f"{number:03d}.png")
