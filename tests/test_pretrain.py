"""pretrain: losses, the guard against degraded features, and runs as backbones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.integrate import quad
from torch.nn import functional

import foveate
from conftest import make_stripes_folder
from foveate.cli import main as cli
from foveate.data.image_cache import ImageCache
from foveate.data.stored_images import Entry
from foveate.data.streaming import Catalog, Stream, find_entries
from foveate.data.transforms import evaluation_transform
from foveate.errors import DataError, FoveateError, Interrupted, UsageError
from foveate.inference.predictor import load_predictor
from foveate.modeling.model import build_model
from foveate.modeling.weights import read_tensors, weights_fingerprint
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import BACKBONE_FILE, Run
from foveate.training import stepper, trainer
from foveate.training.collapse_guard import collapse_reason
from foveate.training.feature_quality import (
    FeatureQuality,
    effective_rank,
    feature_spread,
    knn_hits,
    linear_hits,
)
from foveate.training.objectives import OBJECTIVES, objective_task
from foveate.training.objectives.dino import dino_loss
from foveate.training.objectives.distill import renormalization
from foveate.training.objectives.lejepa import sigreg
from foveate.training.objectives.mae import patch_statistics, patchify
from foveate.training.objectives.simclr import nt_xent
from foveate.training.objectives.simmim import random_mask
from foveate.training.objectives.vicreg import covariance_loss, variance_loss
from foveate.training.planning import time_step
from foveate.types import Batch, InputSpec
from foveate.utils.device import ComputeMode
from helpers import fit_unevaluated, without_evaluation

SIDE = 32
QUICK = {
    "backbone": "test_efficientnet",
    "weights": "none",
    "size": SIDE,
    "epochs": 2,
    "batch_size": 32,
    "device": "cpu",
}
# a teacher with random weights; a constant one, so that the loss can decrease
OBJECTIVE_SETTINGS = {
    "distill": {"teacher": "test_resnet", "teacher_weights": "none"},
    "dino": {"momentum": 1.0, "center_momentum": 0.999999},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_stripes_folder(tmp_path_factory.mktemp("data") / "pictures", 30, seed=3)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> Path:
    return make_stripes_folder(tmp_path_factory.mktemp("data") / "labeled", 30, seed=4)


@pytest.fixture(scope="module")
def trained_weights(quick, tmp_path_factory) -> Path:
    """Weights of a network that tells stripes apart."""
    folder = tmp_path_factory.mktemp("weights")
    run = fit_unevaluated(
        with_settings(quick, {"training.epochs": 12, "training.lr": 3e-3}), folder / "run"
    ).run
    save_file(
        load_predictor(run, "cpu").model.backbone.network.state_dict(),
        folder / "trained.safetensors",
    )
    return folder / "trained.safetensors"


# --- losses


def test_contrastive_loss_equals_the_formula():
    """Equation 1 of SimCLR, pair by pair."""
    torch.manual_seed(0)
    one, other, temperature = torch.randn(5, 7), torch.randn(5, 7), 0.3
    both = torch.cat([one, other])
    similarities = [
        [float(functional.cosine_similarity(a, b, dim=0)) / temperature for b in both] for a in both
    ]
    losses = []
    for index in range(10):
        positive = (index + 5) % 10
        negatives = [np.exp(similarities[index][k]) for k in range(10) if k != index]
        losses.append(-np.log(np.exp(similarities[index][positive]) / sum(negatives)))
    assert float(nt_xent(one, other, temperature)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_variance_and_covariance_equal_numpy():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.1, 0.5, 0.9, 1.5, 2, 3]
    )
    covariance = np.cov(features.numpy().T)
    expected = np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean()
    assert float(variance_loss(features)) == pytest.approx(expected, rel=1e-4)
    assert float(covariance_loss(features)) == pytest.approx(
        (covariance**2).sum() / 6 - (np.diag(covariance) ** 2).sum() / 6, rel=1e-3
    )


def test_losses_equal_lightly():
    """The values of lightly 1.6.0 for the same random numbers.

    NTXentLoss, VICRegLoss, and DINOLoss with a teacher temperature of 0.05.
    """
    torch.manual_seed(0)
    one, other = torch.randn(32, 16), torch.randn(32, 16)
    vicreg = OBJECTIVES.create("vicreg", {}, ())
    assert float(nt_xent(one, other, 0.2)) == pytest.approx(5.166583, rel=1e-5)
    assert float(sum(vicreg.loss(torch.stack([one, other]), None).values())) == pytest.approx(
        58.992615, rel=1e-5
    )
    student, teacher = torch.randn(4, 8, 16), torch.randn(2, 8, 16)
    assert float(dino_loss(student / 0.1, (teacher / 0.05).softmax(-1))) == pytest.approx(
        20.176531, rel=1e-5
    )


def test_the_normality_distance_equals_the_integral():
    """The Epps-Pulley statistic, integrated by scipy.

    There is one feature, so that all random directions are the same.
    """
    sample = np.random.default_rng(0).gamma(2.0, 1.0, 60)

    def integrand(t: float) -> float:
        distance = abs(np.exp(1j * t * sample).mean() - np.exp(-(t**2) / 2)) ** 2
        return distance * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

    expected = 60 * quad(integrand, -5, 5)[0]
    assert float(sigreg(torch.tensor(sample)[:, None].float(), 8)) == pytest.approx(
        expected, rel=0.02
    )
    torch.manual_seed(0)
    normal, scaled = torch.randn(512, 16), torch.randn(512, 16) * torch.linspace(0.1, 3, 16)
    assert float(sigreg(normal, 64)) < 0.5 < float(sigreg(scaled, 64))


def test_the_similarity_loss_is_the_mean_over_other_views():
    torch.manual_seed(0)
    student, probabilities = torch.randn(4, 6, 5), torch.randn(2, 6, 5).softmax(-1)
    losses = [
        -float((probabilities[t, b] * student[s, b].log_softmax(0)).sum())
        for t in range(2)
        for s in range(4)
        for b in range(6)
        if s != t
    ]
    assert float(dino_loss(student, probabilities)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_patches_are_row_major_and_fold_back():
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[0, 4].view(3, 4, 4), images[0, :, 4:8, 4:8])
    mean, deviation = patch_statistics(patches)
    normalized = (patches - mean) / deviation
    assert torch.allclose(normalized.mean(2), torch.zeros(2, 6), atol=1e-5)
    assert torch.allclose(normalized.var(2), torch.ones(2, 6), atol=1e-4)


def test_the_masking_ratio_is_respected():
    masks = random_mask(torch.zeros(3, 3, 28, 28), 7, 0.6)
    assert masks.shape == (3, 1, 28, 28)
    assert torch.allclose(masks.mean((1, 2, 3)), torch.tensor(29 / 49))
    assert random_mask(torch.zeros(1, 3, 30, 30), 7, 0.5).shape == (1, 1, 30, 30)


def test_pixels_are_renormalized():
    source, target = (
        InputSpec(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        InputSpec(8, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    )
    raw = torch.rand(1, 3, 4, 4)
    in_source, in_target = (
        (raw - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)
        for spec in (source, target)
    )
    factor, shift = renormalization(source, target)
    assert torch.allclose(in_source * factor + shift, in_target, atol=1e-6)


# --- every objective


def model_of(objective: str, **more):
    backbone = {
        "backbone.name": "test_vit" if objective == "mae" else "test_efficientnet",
        "backbone.weights": "none",
    }
    settings = OBJECTIVE_SETTINGS.get(objective, {})
    options = {
        **backbone,
        "backbone.size": SIDE,
        "task": {"name": objective, **settings},
        "tuning": "full",
        "training.batch_norm": "learn",
        **more,
    }
    return objective_task(with_settings(Recipe(), options))


def batch_of(model, count: int = 8) -> Batch:
    crops = model.task.crops
    images = torch.randn(count, 3, SIDE, SIDE)
    targets = [
        {
            "global_views": torch.randn(crops.global_views - 1, 3, SIDE, SIDE),
            **(
                {"local_views": torch.randn(crops.local_views, 3, 16, 16)}
                if crops.local_views
                else {}
            ),
        }
        for _ in range(count)
    ]
    return Batch(
        images, targets, torch.zeros(count, 4), torch.full((count, 2), SIDE), torch.arange(count)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", OBJECTIVES.names())
def test_every_objective_reaches_the_whole_backbone_and_falls(objective, precision):
    """A few steps on a batch: gradients in the backbone, none in a teacher, a lower loss."""
    torch.manual_seed(0)
    model = model_of(objective)
    model.train()
    batch, losses = batch_of(model), []
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for step in range(8):
        torch.manual_seed(1)  # the same patches and directions in every step
        with ComputeMode(precision, False).autocast(torch.device("cpu")):
            loss = sum(model.task.loss(model(batch), batch).values())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            reached = [
                name
                for name, weights in model.backbone.named_parameters()
                if weights.grad is not None and weights.grad.abs().sum() > 0
            ]
            assert len(reached) > 0.9 * len(list(model.backbone.parameters()))
        optimizer.step()
        model.task.after_step(model.backbone, model.head, step, 100)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(
        "teacher" not in name and "eyes" not in name
        for name, weights in model.named_parameters()
        if weights.requires_grad
    )


def test_steps_can_be_timed_for_objectives_with_state():
    model = model_of("simclr", **{"backbone.name": "levit_128s", "backbone.size": 64}).eval()
    batch = replace(batch_of(model), images=torch.randn(8, 3, 64, 64))
    for target in batch.targets:
        target["global_views"] = torch.randn(1, 3, 64, 64)
    for _ in range(
        2
    ):  # levit caches tensors, so that the second step could meet the first one's graph
        time_step(model, batch, ComputeMode("fp32", False), torch.device("cpu"))


def test_the_ema_teacher_momentum_rises_to_one():
    model = model_of("dino", **{"task": "dino"})
    head = model.head
    with torch.no_grad():
        next(iter(model.backbone.parameters())).add_(1.0)
    before = next(iter(head.teacher_backbone.parameters())).clone()
    model.task.after_step(model.backbone, head, 0, 10)
    change = next(iter(head.teacher_backbone.parameters())) - before
    assert torch.allclose(change, torch.full_like(change, 0.01), atol=1e-5)
    model.task.after_step(model.backbone, head, 10, 10)
    assert torch.equal(next(iter(head.teacher_backbone.parameters())), before + change)


def test_reconstructions_keep_the_visible_patches():
    for objective in ("mae", "simmim"):
        model = model_of(objective).eval()
        batch = batch_of(model)
        with torch.inference_mode():
            output = model(batch)
            visible, reconstructed = model.task.reconstructions(output, batch)
        is_visible = (visible == batch.images).all(1, keepdim=True).expand_as(visible)
        assert 0.1 < float(is_visible.float().mean()) < 0.6
        assert torch.allclose(reconstructed[is_visible], batch.images[is_visible], atol=1e-5)
        assert not torch.allclose(reconstructed[~is_visible], batch.images[~is_visible], atol=0.1)


def test_masked_objectives_without_patches_suggest_another():
    with pytest.raises(UsageError, match="cannot skip patches") as error:
        model_of("mae", **{"backbone.name": "test_efficientnet"})
    assert "simmim" in error.value.hint


# --- the guard


def test_feature_statistics():
    torch.manual_seed(0)
    isotropic = torch.randn(400, 8)
    assert effective_rank(isotropic) > 7.5
    assert effective_rank(isotropic[:, :1] * torch.ones(1, 8)) == pytest.approx(1, abs=0.01)
    assert effective_rank(torch.full((4, 4), float("nan"))) != effective_rank(isotropic)
    assert feature_spread(isotropic) == pytest.approx(1, abs=0.05)
    assert feature_spread(torch.ones(400, 8) + 1e-4 * isotropic) < 0.001
    clusters = torch.eye(4).repeat_interleave(30, 0) + 0.1 * torch.randn(120, 4)
    assert knn_hits(clusters, np.arange(4).repeat(30)).mean() > 0.95
    assert linear_hits(clusters, np.arange(4).repeat(30)).mean() > 0.95
    assert 0.05 < linear_hits(torch.randn(400, 8), np.arange(400) % 4).mean() < 0.45
    assert 0.05 < knn_hits(torch.randn(400, 8), np.arange(400) % 4).mean() < 0.45


def test_linear_hits_equal_leave_one_out():
    """The closed form equals solving again without each image."""
    torch.manual_seed(0)
    features, labels = torch.randn(30, 6), np.arange(30) % 3
    rows = functional.normalize(features - features.mean(0), dim=1).double().numpy()
    prior, expected = np.full(3, 1 / 3), []
    for index in range(30):
        others = np.arange(30) != index
        target = np.eye(3)[labels[others]] - prior
        weight = np.linalg.solve(
            rows[others].T @ rows[others] + 0.1 * np.eye(6), rows[others].T @ target
        )
        expected.append((rows[index] @ weight + prior).argmax() == labels[index])
    assert linear_hits(features, labels).tolist() == expected


@pytest.mark.parametrize(
    ("end", "word"),
    [
        ((20.0, 0.8), ""),
        ((2.0, 0.8), "dimensions"),
        ((20.0, 0.01), "look the same"),
        ((float("nan"), 0.8), "NaN or infinity"),
    ],
)
def test_collapse_is_reported(end, word):
    start, now = (FeatureQuality(r, s, np.ones(4, bool)) for r, s in ((24.0, 0.9), end))
    reason = collapse_reason(now, start, from_scratch=False)
    assert (word in str(reason)) if word else reason is None
    assert (
        collapse_reason(FeatureQuality(2.0, 0.05, np.ones(4, bool)), start, from_scratch=True)
        is None
    )


def test_degraded_features_are_detected_and_rolled_back(trained_weights, images, labeled, tmp_path):
    """With a learning rate 100 times too large, training stops and restores the start."""
    options = {**QUICK, "weights": str(trained_weights), "epochs": 12, "lr": 0.1, "tuning": "full"}
    result = foveate.pretrain(
        images, objective="simclr", labels=labeled, out=tmp_path / "run", **options
    )
    assert result.verdict.outcome == "did not help"
    assert result.verdict.rolled_back
    assert result.start["knn_accuracy"] > 0.9
    assert len(Run(result.run).read_metrics()) < 12
    network = build_model(_supervised(result.run), ("lying", "upright")).backbone.network
    assert weights_fingerprint(network.state_dict()) == weights_fingerprint(
        read_tensors(trained_weights)
    )
    page = (result.run / "report.html").read_text(encoding="utf-8")
    assert "did not help" in page
    assert page.count("<img") > 20


def _supervised(run: Path) -> Recipe:
    return with_settings(
        Recipe(), {"backbone.name": str(run), "task": "classify", "tuning": "probe"}
    )


def test_a_nan_loss_keeps_the_last_good_weights(trained_weights, images, tmp_path, monkeypatch):
    mix_batch, calls = stepper.mix_batch, []

    def mix_with_nan(batch, recipe):
        calls.append(1)
        batch = mix_batch(batch, recipe).normalized()
        return batch if len(calls) <= 4 else replace(batch, images=batch.images * float("nan"))

    monkeypatch.setattr(stepper, "mix_batch", mix_with_nan)
    options = {
        **QUICK,
        "weights": str(trained_weights),
        "epochs": 30,
        "lr": 1e-5,
        "tuning": "full",
        "batch_size": 10,
    }
    result = foveate.pretrain(images, objective="simclr", out=tmp_path / "run", **options)
    assert "NaN or infinite" in result.outcome["reason"]["values"]["error"]
    assert all(
        tensor.isfinite().all()
        for tensor in read_tensors(result.run / BACKBONE_FILE, verbatim=True).values()
    )


# --- the run


@pytest.mark.figures
def test_the_run_is_usable_as_a_backbone(images, labeled, tmp_path, capsys, monkeypatch):
    arguments = [
        "pretrain",
        str(images),
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--epochs",
        "2",
    ]
    arguments += [
        "--labels",
        str(labeled),
        "--out",
        str(tmp_path / "run"),
        "--batch-size",
        "32",
        "--device",
        "cpu",
        "--json",
    ]
    assert cli._run(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["verdict"] in ("helped", "no difference", "did not help")
    assert result["start_knn_accuracy"] > 0.5
    monkeypatch.chdir(tmp_path)
    with without_evaluation():
        fitted = foveate.fit(
            labeled, backbone="run", tuning="full", epochs=1, device="cpu", out=tmp_path / "fitted"
        )
    monkeypatch.undo()
    assert load_predictor(fitted.run, "cpu").model.backbone.input.size == 32
    assert foveate.predict(fitted.run, labeled)[0].prediction.names
    rows = {
        row["run"].rsplit("/", 1)[1]: row["score"]
        for row in foveate.runs(tmp_path).numbers()["runs"]
    }
    assert rows["run"] == f"lejepa: {result['verdict']}"


def test_a_dry_run_reports_the_speed_and_writes_nothing(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [
        "pretrain",
        str(images),
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--batch-size",
        "8",
    ]
    assert cli._run([*arguments, "--epochs", "10", "--dry-run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["images"] == 40
    assert result["hours"] == pytest.approx(10 * 40 / result["images_per_second"] / 3600, abs=0.002)
    assert 0.05 < result["memory_gigabytes"] < 24
    assert list(tmp_path.iterdir()) == []


def write_shard(images: Path, shard: Path) -> Path:
    """The same images in a tar file, with a link and a path that must not be followed."""
    with tarfile.open(shard, "w") as archive:
        for path in sorted(images.rglob("*.png")):
            archive.add(path, path.relative_to(images).as_posix())
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("../outside.png"))
    return shard


def test_two_processes_train_as_one_does(images, tmp_path):
    """The losses agree to 1e-5 on a network without batch statistics, which differ by process."""
    arguments = [
        "pretrain",
        str(images),
        "--objective",
        "mae",
        "--backbone",
        "test_vit",
        "--weights",
        "none",
        "--size",
        "32",
    ]
    arguments += [
        "--epochs",
        "2",
        "--batch-size",
        "20",
        "--device",
        "cpu",
        "--json",
        "--set",
        "training.channels_last=false",
    ]
    assert cli._run([*arguments, "--out", str(tmp_path / "one")]) == 0
    last = run_two_processes("-m", "foveate", *arguments, "--out", str(tmp_path / "two"))
    assert json.loads(last)["run"] == str(tmp_path / "two")
    losses = [
        [row["train_loss"] for row in Run(tmp_path / name).read_metrics()]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == len(losses[1]) == 2
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


_GATHERED_LOSS = """
import os, sys
import torch
from foveate.utils.distributed import gather_features, join_processes
from foveate.training.objectives.simclr import nt_xent
rank = "0" if os.fork() else "1"  # two processes from here on, for one import
os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": sys.argv[1]}
torch.manual_seed(0)
weight, images = torch.randn(6, 5), torch.randn(2, 8, 6)

def gradient(views):
    parameter = weight.clone().requires_grad_(True)
    features = gather_features(views @ parameter)
    loss = nt_xent(features[0], features[1], 0.2)
    loss.backward()
    return loss.detach(), parameter.grad

alone = gradient(images)
with join_processes('cpu') as processes:
    loss, shared = gradient(images[:, processes.rank :: processes.size])
    processes.average([shared])
    if processes.is_main:
        print(float((loss - alone[0]).abs()), float((shared - alone[1]).abs().max()), float(alone[1].abs().max()))
if rank == "0":
    os.wait()
"""


def test_contrastive_loss_covers_the_images_of_all_processes(tmp_path):
    """Loss and gradient of gathered features equal those of one process with the whole batch."""
    (tmp_path / "contrast.py").write_text(_GATHERED_LOSS, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "contrast.py"), free_port()]
    loss, gradient_error, largest_gradient = map(float, run_for_last_line(command).split())
    assert loss < 1e-6
    assert gradient_error < 1e-6 * max(1.0, largest_gradient)
    assert largest_gradient > 1e-3


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def run_for_last_line(command: list[str]) -> str:
    environment = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    process = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.strip().splitlines()[-1]


def run_two_processes(*arguments: str) -> str:
    """Run a module in two processes; returns the last line of the output."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        free_port(),
        *arguments,
    ]
    return run_for_last_line(command)


def test_shards_and_tables_are_read_like_folders(images, tmp_path):
    shard, table = write_shard(images, tmp_path / "pictures.tar"), tmp_path / "pictures.csv"
    table.write_text(
        "\n".join(["path", *map(str, sorted(images.rglob("*.png")))]), encoding="utf-8"
    )
    streams = []
    for source in (images, shard, table):
        catalogue = Catalog.write(tmp_path / f"{source.name}.jsonl", find_entries(source))
        streams.append(
            Stream(
                catalogue,
                ImageCache(SIDE, "crop", keep=False),
                evaluation_transform(InputSpec(SIDE, (0, 0, 0), (1, 1, 1)), "crop"),
                0,
            )
        )
    assert [len(stream) for stream in streams] == [60, 60, 60]
    for index in (0, 31, 59):
        one, *others = (stream[0, index][0] for stream in streams)
        assert all(torch.equal(one, other) for other in others)
    result = foveate.pretrain(
        shard, objective="simclr", out=tmp_path / "run", **{**QUICK, "epochs": 1}
    )
    assert result.outcome["images"] == {"train": 40, "val": 20}


def test_the_shard_index_takes_eight_bytes_per_image(tmp_path):
    entries = [
        Entry(f"{index:07d}.png", Path(f"/pictures/{index:07d}.png")) for index in range(20000)
    ]
    catalogue = Catalog.write(tmp_path / "list.jsonl", iter(entries))
    assert catalogue.starts.nbytes == 8 * 20001
    assert [catalogue[index] for index in (0, 777, 19999)] == [
        entries[index] for index in (0, 777, 19999)
    ]


def test_a_broken_image_is_replaced_by_the_next(images, tmp_path, capsys):
    folder = Path(shutil.copytree(images, tmp_path / "copy"))
    first = sorted(folder.rglob("*.png"))[0]
    first.write_bytes(b"\x89PNG nothing more")
    stream = Stream(
        Catalog.write(tmp_path / "list.jsonl", find_entries(folder)),
        ImageCache(SIDE, "crop", keep=False),
        evaluation_transform(InputSpec(SIDE, (0, 0, 0), (1, 1, 1)), "crop"),
        0,
    )
    assert torch.equal(stream[0, 0][0], stream[0, 1][0])
    assert torch.equal(stream[3, 0][0], stream[0, 1][0])
    assert capsys.readouterr().out.count(f"skipped lying/{first.name}") == 1


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\x1f\x8b\x08 a compressed one"])
def test_invalid_shards_are_one_error_message(tmp_path, content):
    (tmp_path / "pictures.tar").write_bytes(content)
    with pytest.raises(
        DataError, match=r"the archive cannot be read|pictures are left to learn from"
    ):
        foveate.pretrain(tmp_path / "pictures.tar", out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_low_rank_pretraining_yields_a_plain_backbone(trained_weights, images, tmp_path):
    """ExPLoRA trains few parameters; the merged network loads as any other."""
    options = {**QUICK, "weights": str(trained_weights), "tuning": "explora", "lr": 1e-3}
    result = foveate.pretrain(
        images, objective="vicreg", out=tmp_path / "run", settings={"tuning.rank": 2}, **options
    )
    assert result.verdict.outcome in ("cannot tell", "did not help")
    network = build_model(_supervised(result.run), ("a", "b")).backbone.network
    before, after = read_tensors(trained_weights), network.state_dict()
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[name], after[name]) for name in before) > 5


def test_t1_resume_is_exact(images, labeled, tmp_path, monkeypatch):
    options = {
        **QUICK,
        "batch_size": 20,
        "settings": {"task.local_views": 0, "task.hidden": 32, "task.prototypes": 32},
    }
    uninterrupted = foveate.pretrain(
        images, objective="dino", labels=labeled, out=tmp_path / "whole", **options
    )
    original, checks = trainer.Trainer._stop_requested, []

    def request_stop(self, stop):
        checks.append(1)
        if len(checks) == 5:  # in the second epoch
            stop.signal = signal.SIGTERM
        return original(self, stop)

    monkeypatch.setattr(trainer.Trainer, "_stop_requested", request_stop)
    with pytest.raises(Interrupted) as error:
        foveate.pretrain(images, objective="dino", labels=labeled, out=tmp_path / "cut", **options)
    assert error.value.hint == f"foveate pretrain --resume {tmp_path / 'cut'}"
    monkeypatch.setattr(trainer.Trainer, "_stop_requested", original)
    with pytest.raises(FoveateError, match="not finished"):
        build_model(_supervised(tmp_path / "cut"), ("a", "b"))
    resumed = foveate.pretrain(resume=tmp_path / "cut")
    one, other = (
        weights_fingerprint(read_tensors(run / BACKBONE_FILE, verbatim=True))
        for run in (uninterrupted.run, resumed.run)
    )
    assert one == other


def test_bad_options_and_images_are_one_error_message(images, labeled, quick, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(FoveateError, match="the path does not exist"):
        foveate.pretrain(tmp_path / "nowhere", out=out, **QUICK)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there are no images here"):
        foveate.pretrain(tmp_path / "empty", out=out, **QUICK)
    (tmp_path / "one").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "one" / "1.png")
    with pytest.raises(DataError, match="too few images to train on"):
        foveate.pretrain(tmp_path / "one", out=out, **QUICK)
    for number in range(60):
        Image.new("RGB", (40, 40), (90, 90, 90)).save(tmp_path / "one" / f"{number}.png")
    with pytest.raises(DataError, match="all images look the same"):
        foveate.pretrain(tmp_path / "one", out=out, **QUICK)
    with pytest.raises(FoveateError, match="no objective is called 'lejep'"):
        foveate.pretrain(images, objective="lejep", out=out, **QUICK)
    with pytest.raises(FoveateError, match="temperatur"):
        foveate.pretrain(
            images, objective="simclr", settings={"task.temperatur": 1}, out=out, **QUICK
        )
    assert not out.exists()
    result = foveate.pretrain(
        images, objective="simclr", out=out, **{**QUICK, "batch_size": 4096, "epochs": 1}
    )
    assert Run(out).recipe().training.batch_size == result.outcome["images"]["train"]
    with pytest.raises(UsageError, match="cannot make predictions"):
        foveate.predict(out, images)
    for continue_run in (
        foveate.soup,
        lambda run: foveate.continue_(run, labeled),
        lambda run: foveate.adapt(run, images),
    ):
        with pytest.raises(UsageError, match="this run cannot be continued"):
            continue_run(out)
    assert foveate.pretrain(resume=out).verdict == result.verdict  # it is finished: nothing is done
    fitted = fit_unevaluated(quick, tmp_path / "fitted").run
    with pytest.raises(UsageError, match="was fitted, not pretrained"):
        foveate.fit(labeled, backbone=str(fitted), out=tmp_path / "again")
    with pytest.raises(UsageError, match="has its own weights"):
        foveate.fit(labeled, backbone=str(out), weights="hub", out=tmp_path / "again")
    (out / BACKBONE_FILE).write_bytes(b"other")
    with pytest.raises(FoveateError, match="damaged"):
        foveate.fit(labeled, backbone=str(out), out=tmp_path / "again")


def test_guard_images_are_never_trained_on(images, tmp_path):
    """Labels of half of the training images: these images are used by the guard only.

    Without labels, a part of the images is held out.
    """
    rows = [f"{path}\t{path.parent.name}" for path in sorted(images.rglob("*.png"))[::2]]
    (tmp_path / "half.tsv").write_text("\n".join(["path\tlabel", *rows]), encoding="utf-8")
    options = {**QUICK, "epochs": 1}
    foveate.pretrain(
        images,
        objective="simclr",
        labels=tmp_path / "half.tsv",
        allow_outside=True,
        out=tmp_path / "labeled",
        **options,
    )
    foveate.pretrain(images, objective="simclr", out=tmp_path / "alone", **options)
    for name, count in (("labeled", 30), ("alone", 20)):
        train, held_out = (
            Catalog(tmp_path / name / f"{part}.jsonl") for part in ("train", "held_out")
        )
        paths = [
            {catalogue[index].path for index in range(len(catalogue))}
            for catalogue in (train, held_out)
        ]
        assert (len(train), len(held_out)) == (60 - count, count)
        assert paths[0] | paths[1] == set(images.rglob("*.png"))
