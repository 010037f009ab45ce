"""What several tests need: a training without its report, pictures in memory, pycocotools as the referee, a warm process that forks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from foveate.api.fit import pipeline
from foveate.api.fit.pipeline import FitResult, _train, prepare_job, reopen_job, run_job
from foveate.api.fit.resume import resumed_recipe
from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.predictions import Boxes
from foveate.recipe import Recipe
from foveate.run.folder import Run
from foveate.training.data import read_data
from foveate.training.trainer import TrainingResult
from foveate.types import Batch
from foveate.utils import rle as masks


def trained(recipe: Recipe, folder: Path) -> TrainingResult:
    """What `fit` does up to the last step: nothing is evaluated."""
    job = prepare_job(recipe, read_data(recipe), folder)
    with job.run.locked():
        return _train(job)


def fit_unevaluated(recipe: Recipe, folder: Path) -> FitResult:
    """Fit and finish a run, without the scores and reports that `fit` ends with.

    They take a second, more than a small training: for tests that look at the run alone.
    """
    job = prepare_job(recipe, read_data(recipe), folder)
    with job.run.locked():
        return run_job(job, splits=())


@contextlib.contextmanager
def evaluation_left_out() -> Iterator[None]:
    """The same for `foveate.fit` and the command line: what is fitted inside is not evaluated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_evaluate_splits", lambda *_: None)
        yield


def gone_on(folder: Path, asked: Recipe | None = None) -> TrainingResult:
    """The same of --resume."""
    run = Run.open(folder)
    with run.locked():
        run.remove_partial_files()
        return _train(reopen_job(run, resumed_recipe(run, asked)))


class Memory:
    """Pictures that need no disk; their originals are `times` as large."""

    def __init__(self, pictures: Sequence[np.ndarray], times: int = 1) -> None:
        self.pictures, self.times = pictures, times

    def read(self, path: Any) -> tuple[np.ndarray, tuple[int, int]]:
        pixels = self.pictures[int(str(path))]
        return pixels, (self.times * pixels.shape[0], self.times * pixels.shape[1])


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one process of the suite makes, and the others wait for.

    For what takes seconds to train: pytest-xdist gives each worker its own copy of every fixture.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    finished = folder.with_name(f"{name}.finished")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not finished.exists():
            make(folder)
            finished.touch()
    return folder


def batches(pictures: ImageDataset, order: BatchSampler) -> Iterator[Batch]:
    """As the network wants them, without a device to go to."""
    return (batch.normalized() for batch in make_loader(pictures, order))


def refereed(pairs: list[tuple[Boxes, Boxes]], names: Sequence[str], kind: str = "bbox") -> Any:
    """pycocotools' evaluation of (answer, truth) pairs: `stats` as COCO prints them, and `eval`. `kind`: bbox or segm."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides = []
    for side in (0, 1):
        data = COCO()
        data.dataset = {
            "images": [
                {"id": number, "height": 1, "width": 1} for number in range(1, len(pairs) + 1)
            ],
            "categories": [{"id": place, "name": name} for place, name in enumerate(names, 1)],
            "annotations": _rows([pair[side] for pair in pairs], names, kind),
        }
        sides.append(data)
    with contextlib.redirect_stdout(io.StringIO()):
        for data in sides:
            data.createIndex()
        judge = COCOeval(sides[1], sides[0], kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def _rows(images: list[Boxes], names: Sequence[str], kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, boxes in enumerate(images, 1):
        for place, (box, name) in enumerate(
            zip(boxes.xyxy.astype(np.float64).tolist(), boxes.names, strict=True)
        ):
            width, height = box[2] - box[0], box[3] - box[1]
            row = {"id": len(rows) + 1, "image_id": number, "category_id": names.index(name) + 1}
            row["iscrowd"] = 0 if boxes.crowd is None else int(boxes.crowd[place])
            if boxes.scores is not None:
                row["score"] = float(boxes.scores[place])
            if kind == "bbox":
                row |= {"bbox": [box[0], box[1], width, height], "area": width * height}
            else:
                row |= {
                    "segmentation": boxes.masks[place],
                    "area": masks.rle_area(boxes.masks[place]),
                }
            rows.append(row)
    return rows


class WarmProcess:
    """Runs the command line in forks of one process that has imported everything (warm.py)."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("warm.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, words: Sequence[object], place: tuple[str, str], signals: Sequence[int], at: int = 1
    ) -> tuple[int, str]:
        """The exit status and what was printed; `place`: module and function (see warm.py)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
            request = {
                "words": list(map(str, words)),
                "place": place,
                "signals": list(map(int, signals)),
                "at": at,
                "environment": dict(os.environ),
                "log": log.name,
            }
            print(json.dumps(request), file=self.process.stdin, flush=True)
            status = int(self.process.stdout.readline())
            return status, log.read()

    def close(self) -> None:
        self.process.communicate()


BLOCKED = (
    "torch",
    "torchvision",
    "timm",
    "scipy",
    "sklearn",
    "pydantic",
    "yaml",
    "safetensors",
    "transformers",
    "matplotlib",
    "rich",
)
BLOCKED += ("onnx", "jinja2", "faster_coco_eval")


def bare(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command line where there is nothing but NumPy, Pillow, click and a runtime."""
    script = folder / "bare.py"
    script.write_text(
        f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {BLOCKED!r}:
            raise ImportError('blocked ' + name)
sys.meta_path.insert(0, Block())
from foveate.cli import main as cli
sys.exit(cli._run({words!r}))
""",
        encoding="utf-8",
    )
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
