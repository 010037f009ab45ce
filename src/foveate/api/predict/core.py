"""Opening what predicts, a run or an exported file, for given images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foveate.data.discovery import find_images_at
from foveate.deploy.runtime import open_exported
from foveate.errors import UsageError
from foveate.inference.protocol import ImagePredictor
from foveate.utils import log


def open_predictor(
    run: Path, images: Iterable[Path], coverage: float, risk: float, device: str
) -> tuple[ImagePredictor[Any], list[Path]]:
    """Open a run or an exported file, and list the images in files and folders.

    Where the run was calibrated, sets of classes hold the true one with the probability `coverage`,
    and a prediction abstains where those as uncertain were wrong more often than `risk`.

    Raises:
        UsageError: A path does not exist, or a probability lies outside (0, 1).
    """
    paths = list(find_images_at(images))
    for name, value in (("coverage", coverage), ("risk", risk)):
        if not 0 < value < 1:
            raise UsageError(
                f"the {name} must lie between 0 and 1, got {value}",
                where=f"--{name}",
                hint=f"--{name} 0.9" if name == "coverage" else f"--{name} 0.1",
            )
    predictor: ImagePredictor[Any] = open_exported(run) if run.is_file() else _load_run(run, device)
    predictor.coverage, predictor.risk = coverage, risk
    log.info(f"{len(paths)} images, {len(predictor.classes)} classes")
    return predictor, paths


def _load_run(run: Path, device: str) -> ImagePredictor[Any]:
    # imports torch, which an exported file does not need
    from foveate.inference.predictor import load_predictor

    return load_predictor(run, device)
