"""Opening what predicts, a run or an exported file, for given images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foveate.data.depth_check import compare_depth
from foveate.data.image_sources import find_samples_at
from foveate.deploy.runtime import open_exported
from foveate.errors import UsageError
from foveate.inference.protocol import ImagePredictor
from foveate.messages import counted
from foveate.types import Sample
from foveate.utils import log


def open_predictor(
    run: Path, images: Iterable[Path], coverage: float, risk: float, device: str
) -> tuple[ImagePredictor[Any], list[Sample]]:
    """Open a run or an exported file, and list the images in files and folders.

    Images of more bits than those that the run learned from, or of fewer, are told of.

    Where the run was calibrated, sets of classes hold the true one with the probability `coverage`,
    and a prediction abstains where those as uncertain were wrong more often than `risk`.

    Raises:
        UsageError: A path does not exist, or a probability lies outside (0, 1).
        DataError: How bright the images are is not known.
    """
    samples = list(find_samples_at(images))
    for name, value in (("coverage", coverage), ("risk", risk)):
        if not 0 < value < 1:
            raise UsageError(
                f"the {name} must lie between 0 and 1, got {value}",
                where=f"--{name}",
                hint=f"--{name} 0.9" if name == "coverage" else f"--{name} 0.1",
            )
    predictor = load_model(run, device)
    samples = predictor.join_channels(samples)
    predictor.coverage, predictor.risk = coverage, risk
    images_text = counted(len(samples), "image", "images")
    classes = len(predictor.classes)
    log.info(images_text + (f", {counted(classes, 'class', 'classes')}" if classes else ""))
    for sentence in compare_depth(samples, predictor.rendering):
        log.warning(sentence)
    return predictor, samples


def load_model(run: Path, device: str) -> ImagePredictor[Any]:
    """Open a run, or an exported file: for that, neither torch nor `device` are needed."""
    if run.is_file():
        return open_exported(run)
    from foveate.inference.predictor import load_predictor

    return load_predictor(run, device)
