"""Exported files, and the comparison of their outputs and scores with those of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from foveate.api.export.bundle import ExportBundle
from foveate.deploy.runtime import ExportedModel, PreprocessedImage, open_exported
from foveate.errors import BrokenImage, RunError
from foveate.modeling.tasks import ExportStep
from foveate.types import Score
from foveate.utils.files import checksum

# of probabilities and of the main metric; of other outputs, relative to their largest value
TOLERANCE = 1e-4
_COMPARED_AT_ONCE = 8  # squares; dense outputs are large
_LATENCY_BATCHES = (1, 32)  # images
_LATENCY_REPEATS = 5


@dataclass(frozen=True)
class ExportedFile:
    """A file and its size in bytes, that of its parts included."""

    path: Path
    runtime: str
    precision: str
    size: int
    sha256: str

    def row(self) -> dict[str, Any]:
        """Return the entry of manifest.json."""
        return {**asdict(self), "path": self.path.name}

    def lines(self) -> list[str]:
        return [f"{self.path}: {self.size / 1e6:.1f} MB, {self.precision}"]


@dataclass(frozen=True)
class RuntimeFile(ExportedFile):
    """A file that can make predictions.

    Attributes:
        metric: Name of the main metric.
        parity: Largest difference from the outputs of the run, by name of the output.
        run_score: Main metric of the run.
        score: Main metric of the file on the same images.
        latency: Batch size -> seconds, the median of five repeats.
    """

    metric: str
    parity: dict[str, float]
    run_score: Score
    score: Score
    latency: dict[int, float]

    def lines(self) -> list[str]:
        differences = ", ".join(f"{name} {value:.1e}" for name, value in self.parity.items())
        speed = ", ".join(
            f"{1000 * seconds:.1f} ms for {batch}" for batch, seconds in self.latency.items()
        )
        text = f"  largest difference from the run: {differences}; "
        text += f"{self.metric} {self.score}, the run {self.run_score}"
        return [f"{super().lines()[0]}, {speed}", text]


class ParityCheck:
    """Compares exported files with the run; the images are read again for each file."""

    def __init__(self, bundle: ExportBundle, steps: dict[str, ExportStep]) -> None:
        self.bundle, self.steps = bundle, steps
        self.metric, self.run_score = bundle.score(bundle.run_predictions())
        self.worst_image, self._worst_difference = "", -1.0

    def measure(self, path: Path, runtime: str, precision: str) -> RuntimeFile:
        """Measure differences, main metric, size and latency of a file."""
        exported = open_exported(path)
        exported.threshold = 0.0  # the metric needs boxes of low confidence too
        predictions, parity = list[Any](), self._parity_of_steps(exported)
        self._worst_difference = -1.0
        for start in range(0, len(self.bundle.sources), _COMPARED_AT_ONCE):
            part = slice(start, start + _COMPARED_AT_ONCE)
            images = [self.bundle.preprocess(source) for source in self.bundle.sources[part]]
            predictions += exported.predict_decoded(images)
            self._update_parity(exported, images, self.bundle.keys[part], parity)
        first = self.bundle.preprocess(self.bundle.sources[0])
        return RuntimeFile(
            path=path,
            runtime=runtime,
            precision=precision,
            size=_total_size(exported, path),
            sha256=checksum(path),
            metric=self.metric,
            parity=parity,
            run_score=self.run_score,
            score=self.bundle.score(predictions)[1],
            latency={batch: _measure_latency(exported, first, batch) for batch in _LATENCY_BATCHES},
        )

    def require_parity(self, file: RuntimeFile, where: Path) -> None:
        """Raise RunError if the file, measured last, differs from the run beyond `TOLERANCE`."""
        drop = abs(file.score.value - file.run_score.value)
        if max(file.parity.values()) <= TOLERANCE and drop <= TOLERANCE:
            return
        differences = ", ".join(f"{name} by {value:.2g}" for name, value in file.parity.items())
        why = f"it differs in {differences}, most on {self.worst_image}; "
        why += f"{file.metric} {file.score.value:.4f}, the run {file.run_score.value:.4f}"
        raise RunError(
            "the predictions of the exported file differ from those of the run; it is not kept",
            where=where,
            why=why,
            hint="another --to",
        )

    def calibration_batches(self) -> Iterator[np.ndarray]:
        """Yield training images (1, C, S, S); unreadable ones are left out."""
        for source in self.bundle.calibration:
            try:
                yield self.bundle.preprocess(source).squares[0][None]
            except BrokenImage:
                continue

    @torch.inference_mode()
    def _update_parity(
        self,
        exported: ExportedModel,
        images: Sequence[PreprocessedImage],
        keys: Sequence[str],
        parity: dict[str, float],
    ) -> None:
        """Update the differences in `parity`: absolute for probabilities, else relative."""
        squares = [
            (key, square)
            for key, image in zip(keys, images, strict=True)
            for square in image.squares
        ]
        for start in range(0, len(squares), _COMPARED_AT_ONCE):
            names, part = zip(*squares[start : start + _COMPARED_AT_ONCE], strict=True)
            expected = self.bundle.graph.named(torch.from_numpy(np.stack(part)))
            outputs = exported.run(np.stack(part))
            for name, tensor in expected.items():
                differences = _differences(name, tensor.numpy(), outputs[name])
                differences = differences.reshape(len(part), -1).max(1)
                largest = float(differences.max())
                parity[name] = max(parity.get(name, 0.0), largest)
                if largest > self._worst_difference:
                    self._worst_difference = largest
                    self.worst_image = names[int(differences.argmax())]

    @torch.inference_mode()
    def _parity_of_steps(self, exported: ExportedModel) -> dict[str, float]:
        parity = {}
        for name, step in self.steps.items():
            inputs = {key: tensor.numpy() for key, tensor in step.example.items()}
            output = exported.postprocessor.graphs[name](inputs)[step.output]
            expected = step.module(*step.example.values()).numpy()
            parity[step.output] = float(_differences(step.output, expected, output).max())
        return parity


def _differences(name: str, expected: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Elementwise differences: absolute for probabilities, else relative to the largest value."""
    scale = 1.0 if name == "scores" else max(1e-6, float(np.abs(expected).max()))
    differences: np.ndarray = np.abs(expected - output) / scale
    return differences


def _total_size(exported: ExportedModel, path: Path) -> int:
    """Bytes of a file, its parts, and the weights that OpenVINO keeps beside each."""
    files = [path, *(path.with_name(name) for name in exported.metadata["parts"].values())]
    return sum(
        each.stat().st_size
        for file in files
        for each in {file, file.with_suffix(".bin")}
        if each.is_file()
    )


def _measure_latency(exported: ExportedModel, image: PreprocessedImage, count: int) -> float:
    """Seconds to predict `count` decoded images."""
    images = [image] * count
    exported.predict_decoded(images)
    times = []
    for _ in range(_LATENCY_REPEATS):
        start = time.perf_counter()
        exported.predict_decoded(images)
        times.append(time.perf_counter() - start)
    return median(times)
