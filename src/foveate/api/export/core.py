"""export RUN: a file for another runtime, which answers as the run does or is not kept."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from foveate.api.export.bundle import Leaving, leaving
from foveate.deploy.postprocess import POSTPROCESSORS
from foveate.deploy.runtime import (
    FORMAT_VERSION,
    ExportedModel,
    PreprocessedImage,
    open_exported,
    preprocess,
)
from foveate.deploy.targets import (
    EXPORTERS,
    Exporter,
    ExportProgram,
    QuantizableExporter,
    RuntimeExporter,
    WeightsExporter,
)
from foveate.errors import BrokenImage, RunError, UsageError
from foveate.modeling.tasks import ExportStep
from foveate.modeling.weights import read_run_tensors
from foveate.types import Score
from foveate.utils import log
from foveate.utils.files import PARTIAL_PREFIX, checksum, read_json, require_free, write_json

TOLERANCE = 1e-4  # of chances and of the main number; of other outputs, of their greatest value
_AT_ONCE = 8  # squares whose outputs are compared: those of places are large
_BATCH = 32  # pictures of the second timing
_ROUNDS = 5  # of a timing


@dataclass(frozen=True)
class File:
    """`size`: of it and of those that belong to it, bytes."""

    path: Path
    runtime: str
    precision: str
    size: int
    sha256: str

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "path": self.path.name}

    def lines(self) -> list[str]:
        return [f"{self.path}: {self.size / 1e6:.1f} MB, {self.precision}"]


@dataclass(frozen=True)
class Answering(File):
    """`parity`: the greatest difference from the run's own outputs, by name; `torch`, `score`: the
    main number of the run and of the file on the same images; `latency`: batch -> seconds, the
    median of five.
    """

    measure: str
    parity: dict[str, float]
    torch: Score
    score: Score
    latency: dict[int, float]

    def lines(self) -> list[str]:
        apart = ", ".join(f"{name} {value:.1e}" for name, value in self.parity.items())
        speed = ", ".join(
            f"{1000 * seconds:.1f} ms for {batch}" for batch, seconds in self.latency.items()
        )
        told = f"  largest difference from the run: {apart}; "
        told += f"{self.measure} {self.score}, the run {self.torch}"
        return [f"{super().lines()[0]}, {speed}", told]


@dataclass(frozen=True)
class ExportResult:
    """`files`: those that were kept; `refused`: why the others were not."""

    folder: Path
    files: Sequence[File]
    refused: list[str]

    def numbers(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "files": [file.row() for file in self.files],
            "refused": self.refused,
        }

    def lines(self) -> list[str]:
        found = [line for file in self.files for line in file.lines()]
        found += [f"not kept: {why}" for why in self.refused]
        found.append(f"manifest: {self.folder / 'manifest.json'}")
        return [
            *found,
            *(
                f"next: foveate predict {file.path} IMAGES"
                for file in self.files[:1]
                if isinstance(file, Answering)
            ),
        ]


def create_exporter(to: str, int8: bool, trained_only: bool) -> Exporter:
    """Create the exporter. Raises UsageError where it cannot write what is requested."""
    exporter = EXPORTERS.get(to)()
    if int8 and not isinstance(exporter, QuantizableExporter):
        raise UsageError(
            f"{to} is not written with 8 bits here", where="--int8", hint="--to onnx --int8"
        )
    if trained_only and isinstance(exporter, RuntimeExporter):
        raise UsageError(
            f"{to} holds whole networks, with what was added merged",
            where="--trained-only",
            hint="--to torch --trained-only",
        )
    return exporter


def export_run(
    run: Path,
    maker: Exporter,
    to: str,
    folder: Path,
    max_drop: float | None,
    trained_only: bool,
) -> ExportResult:
    """Write the file to `folder`, and compare it with the run: what differs is not kept.

    Args:
        run: Run folder.
        maker: Writes the file.
        to: Name of the target.
        folder: Folder of the files.
        max_drop: Largest accepted drop of the main metric of an 8-bit file; None writes none.
        trained_only: Write only the tensors that training changed.
    """
    path = folder / f"{run.resolve().name}{'-added' if trained_only else ''}{maker.suffix}"
    require_free(path)
    found = leaving(run)
    folder.mkdir(parents=True, exist_ok=True)
    log.info(f"writing {path.name}")
    # nothing gets its name before it has been checked
    with TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=folder) as aside:
        inside = Path(aside) / path.name
        files: Sequence[File]
        if isinstance(maker, RuntimeExporter):
            files, refused = _answered(maker, to, found, inside, path, max_drop)
        else:
            assert isinstance(maker, WeightsExporter)
            files, refused = [_weights(maker, to, found, inside, trained_only)], list[str]()
        for each in sorted(Path(aside).iterdir()):
            each.replace(folder / each.name)
    files = [replace(file, path=folder / file.path.name) for file in files]
    _listed(folder, files)
    return ExportResult(folder, files, refused)


def _listed(folder: Path, files: Sequence[File]) -> None:
    """Adds the files to the manifest; those that are gone are left out."""
    manifest, rows = folder / "manifest.json", [file.row() for file in files]
    known = read_json(manifest) if manifest.is_file() else []
    names = {row["path"] for row in rows}
    others = [row for row in known if row["path"] not in names and (folder / row["path"]).is_file()]
    write_json(manifest, [*others, *rows])


# --- weights


def _weights(maker: WeightsExporter, to: str, found: Leaving, path: Path, alone: bool) -> File:
    tensors = read_run_tensors(found.run.folder) if alone else found.graph.state_dict()
    maker.write_tensors(tensors, {**found.about, "trained_only": alone}, path)
    return File(path, to, "fp32", path.stat().st_size, checksum(path))


# --- files that answer


def _answered(
    maker: RuntimeExporter, to: str, found: Leaving, path: Path, final: Path, most: float | None
) -> tuple[list[Answering], list[str]]:
    """The file, its parts and what reads it, and the one of 8 bits where the main number may drop
    by `most`; and why not, if it is not kept. `final`: where it will lie.
    """
    with torch.inference_mode():
        outputs = found.graph.named(torch.from_numpy(np.stack(found.examples())))
    steps = found.steps(outputs)
    parts = {name: f"{path.stem}-{name}{path.suffix}" for name in steps}
    about = {**found.about, "parts": parts}
    example = {"images": torch.zeros(2, 3, found.side, found.side, dtype=torch.uint8)}
    maker.write(ExportProgram(found.graph, example, {"images": (0,)}, list(outputs)), about, path)
    for name, step in steps.items():
        told = {"format": FORMAT_VERSION, "part": name, "of": path.name}
        maker.write(
            ExportProgram(step.module, step.example, step.dynamic_axes, [step.output]),
            told,
            path.with_name(parts[name]),
        )
    arithmetic = POSTPROCESSORS.get(about["task"]).numpy_module
    if arithmetic is not None:
        path.with_name(f"{path.stem}-postprocess.py").write_text(
            inspect.getsource(arithmetic), encoding="utf-8"
        )
    judge = _Judge(found, steps)
    files = [judge.judged(path, to, "fp32")]
    _refuse_other(files[0], judge, final)
    if most is None or not isinstance(maker, QuantizableExporter):
        return files, []
    kept, why = _small(maker, files[0], judge, {**about, "precision": "int8"}, most)
    return [*files, *([kept] if kept else [])], [why] if why else []


def _refuse_other(file: Answering, judge: _Judge, where: Path) -> None:
    worst = max(file.parity.values())
    if worst <= TOLERANCE and abs(file.score.value - file.torch.value) <= TOLERANCE:
        return
    apart = ", ".join(f"{name} by {value:.2g}" for name, value in file.parity.items())
    why = f"it differs in {apart}, most on {judge.worst}; "
    why += f"{file.measure} {file.score.value:.4f}, the run {file.torch.value:.4f}"
    raise RunError(
        "the exported file does not answer as the run does, and is not kept",
        where=where,
        why=why,
        hint="another --to",
    )


def _small(
    maker: QuantizableExporter, file: Answering, judge: _Judge, about: dict[str, Any], most: float
) -> tuple[Answering | None, str]:
    """The file of 8 bits; or why there is none."""
    into = file.path.with_name(f"{file.path.stem}-int8{file.path.suffix}")
    log.info(f"writing {into.name}")
    maker.quantize(file.path, judge.calibrating(), about, into)
    found = judge.judged(into, file.runtime, "int8")
    drop = file.score.value - found.score.value
    if drop < most:
        return found, ""
    into.unlink()
    return (
        None,
        f"{into.name}: {found.measure} drops by {drop:.4f} to {found.score.value:.4f}; "
        f"--max-drop {most} allows less",
    )


class _Judge:
    """The images on which a file must agree with the run; read again for each file."""

    def __init__(self, found: Leaving, steps: dict[str, ExportStep]) -> None:
        self.found, self.steps, self.worst = found, steps, ""
        self.measure, self.own = found.judged(found.own())

    def judged(self, path: Path, runtime: str, precision: str) -> Answering:
        theirs = open_exported(path)
        theirs.threshold = 0.0  # the metric wants the doubtful boxes too
        answers, parity = list[Any](), self._parity_of_steps(theirs)
        self.furthest = -1.0
        for start in range(0, len(self.found.places), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            pictures = [self._seen(place) for place in self.found.places[part]]
            answers += theirs.predict_decoded(pictures)
            self._compare(theirs, pictures, self.found.keys[part], parity)
        score = self.found.judged(answers)[1]
        latency = {
            batch: _timed(theirs, self._seen(self.found.places[0]), batch) for batch in (1, _BATCH)
        }
        files = [path, *(path.with_name(name) for name in theirs.metadata["parts"].values())]
        size = sum(
            each.stat().st_size
            for file in files
            for each in {file, file.with_suffix(".bin")}
            if each.is_file()
        )
        about = path, runtime, precision, size, checksum(path)
        return Answering(*about, self.measure, parity, self.own, score, latency)

    def _seen(self, place: Any) -> PreprocessedImage:
        return preprocess(place, self.found.side, self.found.framing)

    @torch.inference_mode()
    def _compare(
        self,
        theirs: ExportedModel,
        pictures: Sequence[PreprocessedImage],
        keys: Sequence[str],
        parity: dict[str, float],
    ) -> None:
        """Update the differences in `parity`: absolute for probabilities, else relative."""
        squares = [
            (key, square)
            for key, picture in zip(keys, pictures, strict=True)
            for square in picture.squares
        ]
        for start in range(0, len(squares), _AT_ONCE):
            names, part = zip(*squares[start : start + _AT_ONCE], strict=True)
            ours, other = (
                self.found.graph.named(torch.from_numpy(np.stack(part))),
                theirs.run(np.stack(part)),
            )
            for name, tensor in ours.items():
                apart = _apart(name, tensor.numpy(), other[name]).reshape(len(part), -1).max(1)
                parity[name] = max(parity.get(name, 0.0), float(apart.max()))
                if float(apart.max()) > self.furthest:
                    self.furthest, self.worst = float(apart.max()), names[int(apart.argmax())]

    @torch.inference_mode()
    def _parity_of_steps(self, theirs: ExportedModel) -> dict[str, float]:
        found = {}
        for name, step in self.steps.items():
            told = theirs.postprocessor.graphs[name](
                {key: tensor.numpy() for key, tensor in step.example.items()}
            )[step.output]
            found[step.output] = float(
                _apart(step.output, step.module(*step.example.values()).numpy(), told).max()
            )
        return found

    def calibrating(self) -> Iterator[np.ndarray]:
        """Squares of training images; broken ones are left out."""
        for place in self.found.train:
            try:
                yield self._seen(place).squares[0][None]
            except BrokenImage:
                continue


def _apart(name: str, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.abs(ours - theirs) / (
        1.0 if name == "scores" else max(1e-6, float(np.abs(ours).max()))
    )
    return found


def _timed(theirs: ExportedModel, picture: Any, count: int) -> float:
    """Seconds for the answers to so many pictures that are decoded."""
    theirs.predict_decoded([picture] * count)
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        theirs.predict_decoded([picture] * count)
        times.append(time.perf_counter() - start)
    return median(times)
