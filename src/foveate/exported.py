"""An exported file made ready: pictures in, answers out. Needs NumPy, Pillow and the file's runtime, and no torch."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from foveate import images
from foveate.calibration import COVERAGE, RISK, Calibration, Familiar
from foveate.errors import BrokenImage, UsageError
from foveate.exporters import Opened, exporter_of
from foveate.types import Answer, Labels

FORMAT = 1  # of what a file says about itself
_MULTILABEL = 0.5  # the score from which a class holds, where several may


class Exported:
    """Made by `opened`. `about`: what the file says of itself; `classes`: of its answers."""

    def __init__(self, path: Path, found: Opened) -> None:
        self.path, self.about, self._run = path, found.about, found.run
        self.classes, self.multilabel = tuple(found.about["classes"]), bool(found.about["multilabel"])
        self.size = int(found.about["size"])
        self.coverage, self.risk = COVERAGE, RISK
        self.calibration = _calibration(found.about.get("calibration"))

    def outputs(self, squares: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Of B pictures, by name."""
        return self._run(np.ascontiguousarray(np.stack(squares)))

    def labels(self, squares: Sequence[np.ndarray]) -> list[Labels]:
        if not squares:
            return []
        found = self.outputs(squares)
        answers = [Labels(self._names(row), row.astype(np.float32)) for row in found["scores"]]
        if self.calibration is None:
            return answers
        return self.calibration.told(answers, found["pooled"], self.classes, self.coverage, self.risk)

    def predict(self, paths: Iterable[Path], *, strict: bool = False, batch_size: int = 32) -> Iterator[Answer]:
        """An answer for each picture, in order. A broken one is answered with its error, or raised when strict."""
        waiting = iter(paths)
        while chunk := list(islice(waiting, batch_size)):
            yield from self._chunk(chunk, strict)

    def _chunk(self, paths: list[Path], strict: bool) -> Iterator[Answer]:
        squares: dict[Path, np.ndarray] = {}
        errors: dict[Path, str] = {}
        for path in dict.fromkeys(paths):
            try:
                squares[path] = square(path, self.size)
            except BrokenImage as error:
                if strict:
                    raise
                errors[path] = f"{error.what}: {error.why}" if error.why else error.what
        told = dict(zip(squares, self.labels(list(squares.values())), strict=True))
        for path in paths:
            yield Answer(images.printable(path), told.get(path), errors.get(path), self.classes, self.multilabel)

    def _names(self, scores: np.ndarray) -> tuple[str, ...]:
        if self.multilabel:
            return tuple(name for name, score in zip(self.classes, scores.tolist(), strict=True) if score >= _MULTILABEL)
        return (self.classes[int(scores.argmax())],)


def square(source: Path | bytes, size: int) -> np.ndarray:
    """(3, size, size) uint8: what a network sees of a picture. Raises BrokenImage."""
    pixels, _ = images.read(source, size)
    top, left = (round((side - size) / 2) for side in pixels.shape[:2])
    found: np.ndarray = pixels[top : top + size, left : left + size].transpose(2, 0, 1)
    return found


def opened(path: Path) -> Exported:
    """Raises UsageError for what is no exported file, or one of a later Foveate."""
    maker = exporter_of(path)
    if maker is None or not path.is_file():
        raise UsageError("this is no exported file", where=path, hint="foveate export RUN")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # runtimes tell of their own business
        found = maker.open(path)
    if found.about.get("format") != FORMAT:
        what = f"this file is of format {found.about.get('format')}, and {FORMAT} is known"
        raise UsageError(what, where=path, hint="a newer Foveate")
    return Exported(path, found)


def packed(familiar: Familiar) -> dict[str, str]:
    """Its arrays as text, in half precision, as a run keeps them."""
    arrays = {"middle": familiar.middle, "directions": familiar.directions}
    return {name: base64.b64encode(array.astype(np.float16).tobytes()).decode() for name, array in arrays.items()}


def _calibration(row: dict[str, Any] | None) -> Calibration | None:
    if row is None:
        return None
    middle, directions = (_unpacked(row["familiar"][name]) for name in ("middle", "directions"))
    return Calibration.of(row, Familiar(middle, directions.reshape(-1, len(middle))))


def _unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.float16).astype(np.float32)
