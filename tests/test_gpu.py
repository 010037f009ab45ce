"""What a GPU answers is what the processor answers; what it trains has learnt. Skipped where there is none."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import foveate
from conftest import stripes_folder
from foveate.api.fit.core import fit_recipe
from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.transforms import evaluation_transform
from foveate.errors import UsageError
from foveate.images import codec as images
from foveate.inference.predictor import load_predictor
from foveate.recipe import with_settings
from foveate.run.folder import Run
from foveate.training.objectives import OBJECTIVES
from foveate.types import InputSpec, Sample
from foveate.utils.distributed import _own_gpu
from helpers import Memory
from test_places import tiny, write_voc
from test_pretrain import OWN

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
CLOSE = 0.02  # probabilities: convolutions in TF32 keep ten bits


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tuning", ["full", "lora", "probe"])
def test_a_gpu_learns_and_answers_as_the_processor_does(
    quick, stripes, tmp_path, tuning, precision
):
    words = {
        "device": "cuda",
        "training.precision": precision,
        "training.channels_last": True,
        "tuning": tuning,
    }
    if tuning == "full":
        words |= {"training.epochs": 12, "training.lr": 3e-3}
    result = fit_recipe(with_settings(quick, words), tmp_path / "run")
    if tuning == "full":
        assert result.numbers()["accuracy"] > 0.8
    pictures = sorted(stripes.rglob("*.png"))
    there, here = (
        [answer.row() for answer in load_predictor(tmp_path / "run", device).predict(pictures)]
        for device in ("cuda", "cpu")
    )
    assert [row["answer"] for row in there] == [row["answer"] for row in here]
    assert [row["confidence"] for row in there] == pytest.approx(
        [row["confidence"] for row in here], abs=CLOSE
    )


@gpu
@pytest.mark.parametrize("detector", ["fcos", "retinanet", "faster_rcnn", "rtdetr"])
def test_boxes_on_a_gpu(tmp_path, detector):
    data = write_voc(tmp_path / "shapes")
    words = {
        "task": {"name": "detect", "head": detector},
        "device": "cuda",
        "training.precision": "bf16",
    }
    result = fit_recipe(tiny(data, **words), tmp_path / "run")
    assert 0 <= result.numbers()["map"] <= 1


@gpu
@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_every_objective_learns_on_a_gpu(tmp_path, objective):
    """With labels for the guard: that all of it ran to its end, and that the loss is a number."""
    pictures, labelled = (
        stripes_folder(tmp_path / "pictures", 30, seed=3),
        stripes_folder(tmp_path / "labelled", 30, seed=4),
    )
    backbone = "test_vit" if objective == "mae" else "test_efficientnet"
    own = {f"task.{name}": value for name, value in OWN.get(objective, {}).items()}
    words = {
        "backbone": backbone,
        "weights": "none",
        "size": 32,
        "epochs": 2,
        "batch_size": 32,
        "device": "cuda",
    }
    settings = {**own, "training.precision": "bf16"}
    found = foveate.pretrain(
        pictures,
        objective=objective,
        labels=labelled,
        out=tmp_path / "run",
        settings=settings,
        **words,
    )
    rows = Run(found.run).read_metrics()
    assert len(rows) == found.outcome["epochs"] >= 1
    assert all(row["train_loss"] == row["train_loss"] for row in rows)


def test_processes_take_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _own_gpu("auto") == 1
    with pytest.raises(UsageError, match="cannot share cuda:0"):
        _own_gpu("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match=r"more processes than GPUs \(2\)"):
        _own_gpu("cuda")


@gpu
def test_too_few_gpus_are_one_sentence(tmp_path):
    pictures = stripes_folder(tmp_path / "pictures", 30)
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
        str(pictures),
        "--backbone",
        "test_vit",
        "--weights",
        "none",
        "--size",
        "32",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "more processes than GPUs" in done.stderr
    assert not (tmp_path / "run").exists()


@gpu
def test_a_gpu_paints_what_the_processor_paints(stripes, tmp_path):
    settings = {
        "training.precision": "bf16",
        "data.leakage_audit": False,
        "data.near_duplicates": 1,
    }
    words = {"size": 16, "batch_size": 16, "epochs": 60, "device": "cuda"}
    found = foveate.fit(stripes, task="generate", out=tmp_path / "run", settings=settings, **words)
    rows = Run(found.run).read_metrics()
    assert rows[-1]["val_explained"] > rows[0]["val_explained"] + 0.2
    for device in ("cuda", "cpu"):
        foveate.generate(found.run, count=4, out=tmp_path / device, device=device)
    there, here = (
        np.stack(
            [images.read_image(file)[0] for file in sorted((tmp_path / device).glob("0*.png"))]
        ).astype(int)
        for device in ("cuda", "cpu")
    )
    assert np.abs(there - here).mean() < 6


@gpu
def test_a_gpu_writes_what_it_sees(stripes, tmp_path):
    lines = [
        {"path": str(path), "text": f"stripes of the kind {path.parent.name}."}
        for path in sorted(stripes.rglob("*.png"))
    ]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    settings = {
        "task.width": 64,
        "task.depth": 2,
        "task.dropout": 0.0,
        "task.smoothing": 0.0,
        "training.precision": "bf16",
    }
    settings |= {"data.near_duplicates": 1, "augment.color": 0.0, "training.patience": 0}
    words = {
        "backbone": "test_resnet",
        "weights": "none",
        "size": 64,
        "batch_size": 16,
        "epochs": 40,
        "lr": 3e-3,
        "device": "cuda",
    }
    found = foveate.fit(
        tmp_path / "table.jsonl",
        task="caption",
        tuning="full",
        out=tmp_path / "run",
        settings=settings,
        **words,
    )
    asked = sorted(stripes.rglob("*.png"))
    there, here = (
        [row.prediction.sentences for row in load_predictor(found.run, device).predict(asked)]
        for device in ("cuda", "cpu")
    )
    assert sum(one == other for one, other in zip(there, here, strict=True)) > 0.9 * len(asked)
    assert sum(
        path.parent.name in said[0] for path, said in zip(asked, there, strict=True)
    ) > 0.8 * len(asked)


@gpu
def test_a_gpu_explains_as_the_processor_does(quick, stripes, tmp_path):
    run = fit_recipe(
        with_settings(quick, {"training.epochs": 12, "training.lr": 3e-3, "device": "cuda"}),
        tmp_path / "run",
    ).run
    asked = sorted(stripes.rglob("*.png"))[:2]
    there, here = (
        foveate.explain(
            run, asked, methods=["gradcam", "occlusion"], device=device, out=tmp_path / device
        ).found
        for device in ("cuda", "cpu")
    )
    assert [each.faithfulness.insertion for each in there] == pytest.approx(
        [each.faithfulness.insertion for each in here], abs=0.05
    )


@gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_become_on_a_gpu_what_they_become_here(workers):
    spec = InputSpec(32, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
    pixels = [
        np.random.default_rng(place).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        for place in range(6)
    ]
    samples = [Sample(str(place), str(place)) for place in range(6)]
    shown = ImageDataset(
        samples, Memory(pixels), evaluation_transform(spec, "crop"), lambda truth, size: {}, 0
    )
    (batch,) = make_loader(shown, BatchSampler(6, 6), workers)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_pinned()
    torch.testing.assert_close(
        batch.to("cuda").images.cpu(), batch.normalized().images, rtol=0, atol=1e-5
    )
