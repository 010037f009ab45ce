"""Helpers of several tests: short trainings, datasets in memory, reference tools, processes."""

from __future__ import annotations

import contextlib
import ctypes
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
import torch
from filelock import FileLock

from foveate.api.fit import pipeline
from foveate.api.fit.pipeline import FitResult, _train, prepare_job, reopen_job, run_job
from foveate.api.fit.resume import resumed_recipe
from foveate.data import formats
from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.transforms import evaluation_transform, training_transform
from foveate.modeling.backbones import FAMILIES
from foveate.modeling.model import Model
from foveate.modeling.tasks import Task
from foveate.modeling.tunings import TuningSettings
from foveate.modeling.tunings.full import Full
from foveate.predictions import Boxes
from foveate.recipe import (
    AugmentRecipe,
    Recipe,
    TrainingRecipe,
    with_settings,
    without_settings,
)
from foveate.run.folder import Run
from foveate.training.data import read_data
from foveate.training.optimizer import build_optimizer, set_learning_rate
from foveate.training.trainer import TrainingResult
from foveate.types import Batch, InputSpec, Sample, Table
from foveate.utils import rle as masks


def train_recipe(recipe: Recipe, folder: Path) -> TrainingResult:
    """Train only, as `fit` does: nothing is saved as a model, and nothing is evaluated."""
    job = prepare_job(recipe, read_data(recipe), folder)
    with job.run.locked():
        return _train(job)


def probe_of(recipe: Recipe, settings: dict[str, Any] | None = None) -> Recipe:
    """A recipe with a probe instead of a training, whose settings a probe would refuse."""
    of_steps = recipe.training.model_fields_set - {"batch_size", "precision", "channels_last"}
    plain = without_settings(recipe, [f"training.{name}" for name in of_steps])
    return with_settings(plain, {"tuning": "probe", **(settings or {})})


def fit_unevaluated(recipe: Recipe, folder: Path) -> FitResult:
    """Fit and finish a run, without the scores and reports that `fit` ends with.

    They take a second, more than a small training: for tests that look at the run alone.
    """
    job = prepare_job(recipe, read_data(recipe), folder, evaluated=())
    with job.run.locked():
        return run_job(job)


@contextlib.contextmanager
def without_evaluation() -> Iterator[None]:
    """Skip the evaluation in `foveate.fit` and on the command line within this context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_evaluate_splits", lambda *_: None)
        yield


def resume_training(folder: Path, recipe: Recipe | None = None) -> TrainingResult:
    """Continue a training, as `fit --resume` does: nothing is evaluated."""
    run = Run.open(folder)
    with run.locked():
        run.remove_partial_files()
        return _train(reopen_job(run, resumed_recipe(run, recipe)))


class MemoryImages:
    """Images in memory, read by index; their originals are `scale` times as large."""

    def __init__(self, images: Sequence[np.ndarray], scale: int = 1) -> None:
        self.images, self.scale = images, scale

    def read(self, path: Any) -> tuple[np.ndarray, tuple[int, int]]:
        pixels = self.images[int(str(path))]
        return pixels, (self.scale * pixels.shape[0], self.scale * pixels.shape[1])


def make_once_per_session(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """Make a folder in one process of the test suite; the others wait for it.

    For fixtures that take seconds: pytest-xdist gives each worker its own copy of every fixture.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    finished = folder.with_name(f"{name}.finished")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not finished.exists():
            make(folder)
            finished.touch()
    return folder


def raise_no_route(*_: object, **__: object) -> None:
    """Fail like a download without a network."""
    raise OSError("no route to host")


def sniff_formats(path: Path) -> list[str]:
    """The formats that fit, without those that have to be asked for."""
    return [name for name, reading in formats.sniff_formats(path).items() if reading.fit > 1]


def notes(table: Table) -> str:
    return "\n".join(map(str, table.notes))


def batches(dataset: ImageDataset, sampler: BatchSampler) -> Iterator[Batch]:
    """Load batches and normalize them on the CPU."""
    return (batch.normalized() for batch in make_loader(dataset, sampler))


def train_without_run(
    task: Task,
    samples: list[Sample],
    images: list[np.ndarray],
    recipe: TrainingRecipe,
    batch_size: int,
    spec: InputSpec | None = None,
    crop: float = 1.0,
    clip: float | None = None,
) -> tuple[Model, ImageDataset]:
    """Train test_resnet for a task as the trainer does, but without a run folder.

    Args:
        samples: Their paths are indices of `images`; the last 16 are held out.
        spec: What the network gets; that of test_resnet at 64 px by default.
        crop: The smallest share of an image that augmentation leaves.
        clip: The greatest norm of the gradient.

    Returns:
        The model and the held-out images.
    """
    torch.manual_seed(0)
    backbone = FAMILIES.get("timm")().open("test_resnet", "none", spec.size if spec else 64)
    model = Model(backbone, task, Full(TuningSettings()), keep_norms=False)
    spec, memory = spec or backbone.input, MemoryImages(images)
    augment = training_transform(spec, task.framing, AugmentRecipe(policy="none", crop=crop))
    dataset = ImageDataset(samples[:-16], memory, augment, task.encode, 0)
    optimizer, step = build_optimizer(model, recipe), 0
    model.train()
    for epoch in range(recipe.epochs):
        sampler = BatchSampler(len(dataset), batch_size, seed=0, epoch=epoch)
        for batch in batches(dataset, sampler):
            set_learning_rate(optimizer, recipe, step, recipe.epochs * len(sampler))
            optimizer.zero_grad()
            sum(task.loss(model(batch), batch).values()).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            step += 1
    plain = evaluation_transform(spec, task.framing)
    return model.eval(), ImageDataset(samples[-16:], memory, plain, task.encode, 0)


@torch.inference_mode()
def predict_without_run(model: Model, dataset: ImageDataset) -> list[Any]:
    return [
        prediction
        for batch in batches(dataset, BatchSampler(len(dataset), 5))
        for prediction in model.task.decode(model(batch), batch)
    ]


def box_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    intersection = np.prod(np.clip(high - low, 0, None))
    return float(
        intersection / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - intersection)
    )


def pycocotools_evaluation(
    pairs: list[tuple[Boxes, Boxes]], names: Sequence[str], kind: str = "bbox"
) -> Any:
    """Evaluate (prediction, target) pairs with pycocotools.

    Args:
        pairs: One for each image.
        names: The classes.
        kind: "bbox" or "segm".

    Returns:
        A COCOeval with `stats`, the numbers that COCO prints, and `eval`.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides = []
    for side in (0, 1):
        data = COCO()
        data.dataset = {
            "images": [
                {"id": number, "height": 1, "width": 1} for number in range(1, len(pairs) + 1)
            ],
            "categories": [
                {"id": category, "name": name} for category, name in enumerate(names, 1)
            ],
            "annotations": _coco_annotations([pair[side] for pair in pairs], names, kind),
        }
        sides.append(data)
    with contextlib.redirect_stdout(io.StringIO()):
        for data in sides:
            data.createIndex()
        evaluation = COCOeval(sides[1], sides[0], kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _coco_annotations(images: list[Boxes], names: Sequence[str], kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, boxes in enumerate(images, 1):
        for index, (box, name) in enumerate(
            zip(boxes.xyxy.astype(np.float64).tolist(), boxes.names, strict=True)
        ):
            width, height = box[2] - box[0], box[3] - box[1]
            row = {"id": len(rows) + 1, "image_id": number, "category_id": names.index(name) + 1}
            row["iscrowd"] = 0 if boxes.crowd is None else int(boxes.crowd[index])
            if boxes.scores is not None:
                row["score"] = float(boxes.scores[index])
            if kind == "bbox":
                row |= {"bbox": [box[0], box[1], width, height], "area": width * height}
            else:
                row |= {
                    "segmentation": boxes.masks[index],
                    "area": masks.rle_area(boxes.masks[index]),
                }
            rows.append(row)
    return rows


class ForkServer:
    """Runs the command line in forks of a process that has imported everything."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self,
        arguments: Sequence[object],
        trigger: tuple[str, str],
        signals: Sequence[int],
        nth_call: int = 1,
    ) -> tuple[int, str]:
        """Run a command that sends itself signals (see fork_server.py).

        Args:
            arguments: Those of the command line.
            trigger: Module and function at whose call the signals are sent.
            signals: Their numbers.
            nth_call: At which of its calls.

        Returns:
            The exit status and the output.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
            request = {
                "arguments": list(map(str, arguments)),
                "trigger": trigger,
                "signals": list(map(int, signals)),
                "nth_call": nth_call,
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


def run_without_torch(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line with imports restricted to NumPy, Pillow, click and a runtime."""
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
sys.exit(cli._run({arguments!r}))
""",
        encoding="utf-8",
    )
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Let permissions count for an administrator too: this thread gives its capabilities up.

    Changing to another user instead would close every folder above, such as a private `TMPDIR`.
    """
    if not hasattr(os, "geteuid"):
        pytest.skip("needs POSIX permissions")
    if os.geteuid() != 0:
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("nothing is closed to the administrator")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of capset(2), this thread
    kept = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, kept) == 0
    none_effective = (ctypes.c_uint32 * 6)(0, kept[1], kept[2], 0, kept[4], kept[5])
    assert libc.capset(header, none_effective) == 0
    try:
        yield
    finally:
        assert libc.capset(header, kept) == 0
