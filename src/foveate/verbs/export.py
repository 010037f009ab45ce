"""export RUN: a file for another runtime, which answers as the run does or is not kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveate import __version__, console
from foveate.data import Scanned, even_parts
from foveate.earlier import own_table
from foveate.errors import RunError, UsageError
from foveate.exported import FORMAT, Exported, opened, packed, square
from foveate.exporters import EXPORTERS, SmallExporter
from foveate.files import ASIDE, checksum, refuse_taken
from foveate.predictor import Predictor, load
from foveate.run import Run
from foveate.scoring import scored
from foveate.types import Sample, Score
from foveate.verbs.evaluate import scanned_aloud

TOLERANCE = 1e-4  # of chances; of other outputs, of their greatest value
_MOST = 512  # validation images that the file answers
_CALIBRATING = 200  # training images that give the ranges of int8
_AT_ONCE = 32
_ROUNDS = 5  # of a timing


@dataclass(frozen=True)
class File:
    """`parity`: the greatest difference from the run's own outputs, by name; `torch`, `score`: the main number of the run and of
    the file on the same images; `latency`: batch -> seconds, the median of five."""

    path: Path
    runtime: str
    precision: str
    size: int
    sha256: str
    measure: str
    parity: dict[str, float]
    torch: Score
    score: Score
    latency: dict[int, float]

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "path": self.path.name}

    def lines(self) -> list[str]:
        apart = ", ".join(f"{name} {value:.1e}" for name, value in self.parity.items())
        speed = ", ".join(f"{1000 * seconds:.1f} ms for {batch}" for batch, seconds in self.latency.items())
        found = [f"{self.path}: {self.size / 1e6:.1f} MB, {self.precision}, {speed}"]
        return [*found, f"  furthest from the run: {apart}; {self.measure} {self.score}, the run's own {self.torch}"]


@dataclass(frozen=True)
class ExportResult:
    """`files`: those that were kept; `refused`: why the others were not."""

    folder: Path
    files: list[File]
    refused: list[str]

    def numbers(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "files": [file.row() for file in self.files], "refused": self.refused}

    def lines(self) -> list[str]:
        found = [line for file in self.files for line in file.lines()]
        found += [f"not kept: {why}" for why in self.refused]
        return [*found, f"manifest: {self.folder / 'manifest.json'}", f"next: foveate predict {self.files[0].path} IMAGES"]


class Graph(nn.Module):
    """(B, 3, S, S) uint8 -> the outputs that a task lets out, in the order of their names."""

    mean: Tensor
    std: Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        model, spec = predictor.model, predictor.model.backbone.input
        self.task, self.backbone, self.head = model.task, model.backbone, model.head
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def named(self, images: Tensor) -> dict[str, Tensor]:
        return self.task.portable(self.backbone, self.head, (images.float() / 255 - self.mean) / self.std)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())


def export(
    run: Path, to: str = "onnx", int8: bool = False, max_drop: float = 0.01, out: Path | None = None
) -> ExportResult:
    """Writes the file, compares its outputs with the run's on its validation images (else its test or training images), and its
    main number; a file beyond the tolerance is removed. `int8` makes a second one, which is kept where the number drops by less
    than `max_drop`.

    Raises UsageError for tasks and networks that a runtime cannot hold, RunError for a file that answers otherwise.
    """
    maker = EXPORTERS.load(to)()
    if int8 and not isinstance(maker, SmallExporter):
        raise UsageError(f"{to} is not written with 8 bits here", where="--int8", hint="--to onnx --int8")
    predictor = load(run, "cpu")
    predictor.model.to(memory_format=torch.contiguous_format)
    folder = out or run / "export"
    path = folder / f"{Path(run).resolve().name}{maker.suffix}"
    refuse_taken(path, "this file is there already; nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    judge = _Judge.of(predictor)
    graph, about = Graph(predictor).eval(), _about(predictor)
    with torch.inference_mode():
        names = list(graph.named(torch.zeros(1, 3, judge.side, judge.side, dtype=torch.uint8)))
    console.say(f"writing {path.name}")
    with TemporaryDirectory(prefix=ASIDE, dir=folder) as aside:  # nothing gets its name before it has answered
        maker.write(graph, names, judge.side, about, Path(aside) / path.name)
        files, refused = [judge.judged(Path(aside) / path.name, to, "fp32", graph)], list[str]()
        _refuse_other(files[0], judge, path)
        if int8 and isinstance(maker, SmallExporter):
            kept, why = _small(maker, files[0], judge, graph, about, max_drop)
            files += [kept] if kept else []
            refused += [why] if why else []
        for each in sorted(Path(aside).iterdir()):
            each.replace(folder / each.name)
    files = [replace(file, path=folder / file.path.name) for file in files]
    _listed(folder, files)
    return ExportResult(folder, files, refused)


def _listed(folder: Path, files: Sequence[File]) -> None:
    """Adds the files to the manifest; those that are gone are left out."""
    manifest, rows = folder / "manifest.json", [file.row() for file in files]
    known = Run(folder).read_json(manifest.name) if manifest.is_file() else []
    names = {row["path"] for row in rows}
    others = [row for row in known if row["path"] not in names and (folder / row["path"]).is_file()]
    Run(folder).write_json(manifest.name, [*others, *rows])


def _refuse_other(file: File, judge: _Judge, where: Path) -> None:
    worst = max(file.parity.values())
    if worst <= TOLERANCE and file.score.value == file.torch.value:
        return
    apart = ", ".join(f"{name} by {value:.2g}" for name, value in file.parity.items())
    why = f"it differs in {apart}, most on {judge.worst}; {file.measure} {file.score.value:.4f}, the run's {file.torch.value:.4f}"
    raise RunError("the exported file does not answer as the run does, and is not kept", where=where, why=why, hint="another --to")


def _small(
    maker: SmallExporter, file: File, judge: _Judge, graph: Graph, about: dict[str, Any], most: float
) -> tuple[File | None, str]:
    """The file of 8 bits; or why there is none."""
    into = file.path.with_name(f"{file.path.stem}-int8{file.path.suffix}")
    console.say(f"writing {into.name}")
    maker.shrink(file.path, judge.calibrating(), {**about, "precision": "int8"}, into)
    found = judge.judged(into, file.runtime, "int8", graph)
    drop = file.score.value - found.score.value
    if drop < most:
        return found, ""
    into.unlink()
    return None, f"{into.name}: {found.measure} drops by {drop:.4f}, to {found.score.value:.4f}; --max-drop {most} allows less"


class _Judge:
    """The images that a file has to answer as the run does."""

    def __init__(self, predictor: Predictor, scanned: Scanned, train: Sequence[Sample]) -> None:
        self.predictor, self.samples, self.train = predictor, list(scanned.table.samples), train
        self.side, self.worst = predictor.model.backbone.input.size, ""

    @classmethod
    def of(cls, predictor: Predictor) -> _Judge:
        table = own_table(predictor.run)
        train = [sample for sample in table.samples if sample.split == "train"]
        parts = ([sample for sample in table.samples if sample.split == split] for split in ("val", "test", "train"))
        chosen = next((part for part in parts if part), [])[:_MOST]
        if not chosen:
            hint = "a run that saw images"
            raise UsageError("this run has no images to compare the file on", where=predictor.run.folder, hint=hint)
        scanned = scanned_aloud(table.with_samples(tuple(chosen)), predictor.model, predictor.recipe.data)
        return cls(predictor, scanned, train)

    def judged(self, path: Path, runtime: str, precision: str, graph: Graph) -> File:
        theirs = opened(path)
        squares = [square(sample.path, self.side) for sample in self.samples]
        parity = self._parity(theirs, squares, graph)
        answers = [answer for part in even_parts(len(squares), _AT_ONCE) for answer in theirs.labels(squares[part])]
        ours = [answer.prediction for answer in self.predictor.predict([sample.path for sample in self.samples])]
        model, several = self.predictor.model, self.predictor.multilabel
        both = [scored(each, self.samples, model, several) for each in (ours, answers)]
        main = both[0].main
        latency = {batch: _timed(theirs, squares[:1] * batch) for batch in (1, _AT_ONCE)}
        size = sum(each.stat().st_size for each in (path, path.with_suffix(".bin")) if each.is_file())
        about = (path, runtime, precision, size, checksum(path), main, parity)
        return File(*about, both[0].numbers[main], both[1].numbers[main], latency)

    @torch.inference_mode()
    def _parity(self, theirs: Exported, squares: list[np.ndarray], graph: Graph) -> dict[str, float]:
        """By the outputs' names: chances as they are, others by their greatest value."""
        found: dict[str, float] = {}
        furthest = -1.0
        for place in even_parts(len(squares), _AT_ONCE):
            part = squares[place]
            ours, other = graph.named(torch.from_numpy(np.stack(part))), theirs.outputs(part)
            for name, tensor in ours.items():
                known = tensor.numpy()
                apart = np.abs(known - other[name]) / (1.0 if name == "scores" else max(1e-6, float(np.abs(known).max())))
                found[name] = max(found.get(name, 0.0), float(apart.max()))
                if float(apart.max()) > furthest:
                    furthest = float(apart.max())
                    self.worst = self.samples[place.start + int(apart.reshape(len(part), -1).max(1).argmax())].key
        return found

    def calibrating(self) -> Iterator[np.ndarray]:
        """Squares of training images, drawn by the run's seed."""
        drawn = np.random.default_rng(self.predictor.recipe.seed).permutation(len(self.train))[:_CALIBRATING]
        for place in drawn.tolist():
            yield square(self.train[place].path, self.side)[None]


def _timed(theirs: Exported, squares: list[np.ndarray]) -> float:
    theirs.outputs(squares)
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        theirs.outputs(squares)
        times.append(time.perf_counter() - start)
    return median(times)


def _about(predictor: Predictor) -> dict[str, Any]:
    """What a file says of itself; how pictures become squares is in words for those who read it without Foveate."""
    model, run, outcome = predictor.model, predictor.run, predictor.run.outcome()
    known = predictor.calibration
    return {
        "format": FORMAT,
        "made_by": f"foveate {__version__}",
        "run": run.folder.resolve().name,
        "task": predictor.recipe.task.name,
        "classes": list(predictor.classes),
        "multilabel": predictor.multilabel,
        "size": model.backbone.input.size,
        "pictures": "upright by EXIF, RGB on white, short side to `size` (bicubic, antialiased), the central square, uint8",
        "backbone": predictor.recipe.backbone.name,
        "licence": outcome.get("licence", "not stated"),
        "precision": "fp32",
        "calibration": None if known is None else {**known.row(), "familiar": packed(known.familiar)},
    }
