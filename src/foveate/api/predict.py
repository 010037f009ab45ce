"""predict RUN IMAGES: an answer for each picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.data.discovery import pictures_at
from foveate.deploy.runtime import opened
from foveate.errors import UsageError
from foveate.evaluation.calibration import COVERAGE, RISK
from foveate.predictions import Answer
from foveate.utils import console

if TYPE_CHECKING:
    from foveate.inference.predictor import Predictor


def predict(
    run: Path,
    images: Iterable[Path],
    device: str = "auto",
    strict: bool = False,
    batch_size: int = 32,
    coverage: float = COVERAGE,
    risk: float = RISK,
) -> Iterator[Answer]:
    """Answers of a run, or of a file that `foveate export` made, for files and for all pictures in folders, in order, as they come.

    Where the run was calibrated, sets of classes hold the true one with the chance `coverage`, and an answer abstains where those
    as unsure were wrong more often than `risk`. Raises UsageError for a path that is not there, before the first answer.
    """
    paths = list(pictures_at(images))
    for name, value in (("coverage", coverage), ("risk", risk)):
        if not 0 < value < 1:
            raise UsageError(
                f"the {name} lies between 0 and 1, and is not {value}",
                where=f"--{name}",
                hint=f"--{name} 0.9",
            )
    predictor = opened(run) if run.is_file() else _loaded(run, device)
    predictor.coverage, predictor.risk = coverage, risk
    console.say(f"{len(paths)} images, {len(predictor.classes)} classes")
    return predictor.predict(paths, strict=strict, batch_size=batch_size)


def _loaded(run: Path, device: str) -> Predictor:
    from foveate.inference.predictor import (
        load,
    )  # brings torch, which an exported file does without

    return load(run, device)
