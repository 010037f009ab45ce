"""Predictions on a GPU equal those on the CPU, and training works. Skipped without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import foveate
from conftest import make_stripes_folder
from foveate.api.fit.core import fit_recipe
from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.transforms import evaluation_transform
from foveate.errors import UsageError
from foveate.images import codec
from foveate.inference.predictor import load_predictor
from foveate.recipe import with_settings
from foveate.run.folder import Run
from foveate.training.objectives import OBJECTIVES
from foveate.types import InputSpec, Sample
from foveate.utils.distributed import _own_gpu
from helpers import MemoryImages
from test_dense_tasks import tiny_recipe, write_voc
from test_pretrain import OBJECTIVE_SETTINGS

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
CLOSE = 0.02  # probabilities: convolutions in TF32 keep ten bits


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tuning", ["full", "lora", "probe"])
def test_a_gpu_trains_and_predicts_as_the_cpu_does(quick, stripes, tmp_path, tuning, precision):
    settings = {
        "device": "cuda",
        "training.precision": precision,
        "training.channels_last": True,
        "tuning": tuning,
    }
    if tuning == "full":
        settings |= {"training.epochs": 12, "training.lr": 3e-3}
    result = fit_recipe(with_settings(quick, settings), tmp_path / "run")
    if tuning == "full":
        assert result.numbers()["accuracy"] > 0.8
    images = sorted(stripes.rglob("*.png"))
    gpu_rows, cpu_rows = (
        [
            result_of_image.row()
            for result_of_image in load_predictor(tmp_path / "run", device).predict(images)
        ]
        for device in ("cuda", "cpu")
    )
    assert [row["prediction"] for row in gpu_rows] == [row["prediction"] for row in cpu_rows]
    assert [row["confidence"] for row in gpu_rows] == pytest.approx(
        [row["confidence"] for row in cpu_rows], abs=CLOSE
    )


@gpu
@pytest.mark.parametrize("detector", ["fcos", "retinanet", "faster_rcnn", "rtdetr"])
def test_boxes_on_a_gpu(tmp_path, detector):
    data = write_voc(tmp_path / "shapes")
    settings = {
        "task": {"name": "detect", "head": detector},
        "device": "cuda",
        "training.precision": "bf16",
    }
    result = fit_recipe(tiny_recipe(data, **settings), tmp_path / "run")
    assert 0 <= result.numbers()["map"] <= 1


@gpu
@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_every_objective_learns_on_a_gpu(tmp_path, objective):
    """With labels for the guard: training runs to its end, and the loss is not NaN."""
    images, labeled = (
        make_stripes_folder(tmp_path / "pictures", 30, seed=3),
        make_stripes_folder(tmp_path / "labeled", 30, seed=4),
    )
    backbone = "test_vit" if objective == "mae" else "test_efficientnet"
    own_settings = {
        f"task.{name}": value for name, value in OBJECTIVE_SETTINGS.get(objective, {}).items()
    }
    options = {
        "backbone": backbone,
        "weights": "none",
        "size": 32,
        "epochs": 2,
        "batch_size": 32,
        "device": "cuda",
    }
    settings = {**own_settings, "training.precision": "bf16"}
    result = foveate.pretrain(
        images,
        objective=objective,
        labels=labeled,
        out=tmp_path / "run",
        settings=settings,
        **options,
    )
    rows = Run(result.run).read_metrics()
    assert len(rows) == result.outcome["epochs"] >= 1
    assert all(row["train_loss"] == row["train_loss"] for row in rows)


def test_each_process_gets_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _own_gpu("auto") == 1
    with pytest.raises(UsageError, match="cannot share cuda:0"):
        _own_gpu("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match=r"more processes than GPUs \(2\)"):
        _own_gpu("cuda")


@gpu
def test_too_few_gpus_are_one_error_message(tmp_path):
    images = make_stripes_folder(tmp_path / "pictures", 30)
    count = torch.cuda.device_count() + 1
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(count),
        "-m",
        "foveate",
    ]
    command += [
        "pretrain",
        str(images),
        "--backbone",
        "test_vit",
        "--weights",
        "none",
        "--size",
        "32",
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode != 0
    assert "more processes than GPUs" in process.stderr
    assert not (tmp_path / "run").exists()


@gpu
def test_a_gpu_generates_the_images_of_the_cpu(stripes, tmp_path):
    settings = {
        "training.precision": "bf16",
        "data.leakage_audit": False,
        "data.near_duplicates": 1,
    }
    options = {"size": 16, "batch_size": 16, "epochs": 60, "device": "cuda"}
    result = foveate.fit(
        stripes, task="generate", out=tmp_path / "run", settings=settings, **options
    )
    rows = Run(result.run).read_metrics()
    assert rows[-1]["val_explained"] > rows[0]["val_explained"] + 0.2
    for device in ("cuda", "cpu"):
        foveate.generate(result.run, count=4, out=tmp_path / device, device=device)
    gpu_pixels, cpu_pixels = (
        np.stack(
            [codec.read_image(file)[0] for file in sorted((tmp_path / device).glob("0*.png"))]
        ).astype(int)
        for device in ("cuda", "cpu")
    )
    assert np.abs(gpu_pixels - cpu_pixels).mean() < 6


@gpu
def test_a_gpu_trains_captioning(stripes, tmp_path):
    table = [
        {"path": str(path), "text": f"stripes of the kind {path.parent.name}."}
        for path in sorted(stripes.rglob("*.png"))
    ]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, table)), encoding="utf-8")
    settings = {
        "task.width": 64,
        "task.depth": 2,
        "task.dropout": 0.0,
        "task.smoothing": 0.0,
        "training.precision": "bf16",
    }
    settings |= {"data.near_duplicates": 1, "augment.color": 0.0, "training.patience": 0}
    options = {
        "backbone": "test_resnet",
        "weights": "none",
        "size": 64,
        "batch_size": 16,
        "epochs": 40,
        "lr": 3e-3,
        "device": "cuda",
    }
    result = foveate.fit(
        tmp_path / "table.jsonl",
        task="caption",
        tuning="full",
        out=tmp_path / "run",
        settings=settings,
        **options,
    )
    paths = sorted(stripes.rglob("*.png"))
    gpu_captions, cpu_captions = (
        [row.prediction.sentences for row in load_predictor(result.run, device).predict(paths)]
        for device in ("cuda", "cpu")
    )
    assert sum(
        on_gpu == on_cpu for on_gpu, on_cpu in zip(gpu_captions, cpu_captions, strict=True)
    ) > 0.9 * len(paths)
    assert sum(
        path.parent.name in caption[0] for path, caption in zip(paths, gpu_captions, strict=True)
    ) > 0.8 * len(paths)


@gpu
def test_a_gpu_explains_as_the_cpu_does(quick, stripes, tmp_path):
    run = fit_recipe(
        with_settings(quick, {"training.epochs": 12, "training.lr": 3e-3, "device": "cuda"}),
        tmp_path / "run",
    ).run
    paths = sorted(stripes.rglob("*.png"))[:2]
    on_gpu, on_cpu = (
        foveate.explain(
            run, paths, methods=["gradcam", "occlusion"], device=device, out=tmp_path / device
        ).explanations
        for device in ("cuda", "cpu")
    )
    assert [explanation.faithfulness.insertion for explanation in on_gpu] == pytest.approx(
        [explanation.faithfulness.insertion for explanation in on_cpu], abs=0.05
    )


@gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_normalization_on_a_gpu_equals_the_cpu(workers):
    spec = InputSpec(32, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
    pixels = [
        np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        for index in range(6)
    ]
    samples = [Sample(str(index), str(index)) for index in range(6)]
    dataset = ImageDataset(
        samples,
        MemoryImages(pixels),
        evaluation_transform(spec, "crop"),
        lambda target, size: {},
        0,
    )
    (batch,) = make_loader(dataset, BatchSampler(6, 6), workers)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_pinned()
    torch.testing.assert_close(
        batch.to("cuda").images.cpu(), batch.normalized().images, rtol=0, atol=1e-5
    )
