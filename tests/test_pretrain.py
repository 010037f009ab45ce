"""pretrain: losses against their definitions, a guard that notices harm and takes it back, a run that is a backbone."""

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
from conftest import stripes_folder
from foveate.cli import main as cli
from foveate.data.image_cache import ImageCache
from foveate.data.streaming import Catalogue, Entry, Stream, find_entries
from foveate.data.transforms import evaluation_transform
from foveate.errors import DataError, FoveateError, Interrupted, UsageError
from foveate.inference.predictor import load_predictor
from foveate.modeling.model import build_model
from foveate.modeling.weights import read_tensors, weights_fingerprint
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import BACKBONE_FILE, Run
from foveate.training import trainer
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
from helpers import evaluation_left_out, fit_unevaluated

SIDE = 32
QUICK = {
    "backbone": "test_efficientnet",
    "weights": "none",
    "size": SIDE,
    "epochs": 2,
    "batch_size": 32,
    "device": "cpu",
}
OWN = {  # a teacher of random weights; one that stands still, so that the loss has something to fall towards
    "distill": {"teacher": "test_resnet", "teacher_weights": "none"},
    "dino": {"momentum": 1.0, "center_momentum": 0.999999},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return stripes_folder(tmp_path_factory.mktemp("data") / "pictures", 30, seed=3)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    return stripes_folder(tmp_path_factory.mktemp("data") / "labelled", 30, seed=4)


@pytest.fixture(scope="module")
def trained(quick, tmp_path_factory) -> Path:
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


def test_contrast_is_the_paper_sum():
    """Equation 1, pair by pair."""
    torch.manual_seed(0)
    one, other, heat = torch.randn(5, 7), torch.randn(5, 7), 0.3
    both = torch.cat([one, other])
    alike = [[float(functional.cosine_similarity(a, b, dim=0)) / heat for b in both] for a in both]
    losses = []
    for place in range(10):
        partner = (place + 5) % 10
        among = [np.exp(alike[place][k]) for k in range(10) if k != place]
        losses.append(-np.log(np.exp(alike[place][partner]) / sum(among)))
    assert float(nt_xent(one, other, heat)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_variance_and_covariance_are_numpys():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.1, 0.5, 0.9, 1.5, 2, 3]
    )
    covariance = np.cov(features.numpy().T)
    lacking = np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean()
    assert float(variance_loss(features)) == pytest.approx(lacking, rel=1e-4)
    assert float(covariance_loss(features)) == pytest.approx(
        (covariance**2).sum() / 6 - (np.diag(covariance) ** 2).sum() / 6, rel=1e-3
    )


def test_losses_are_those_of_lightly():
    """The numbers of lightly 1.6.0 (NTXentLoss, VICRegLoss, DINOLoss at a teacher temperature of 0.05) for the same draws."""
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


def test_the_distance_from_a_normal_is_the_integral():
    """One number a feature, so that every direction is the same: the statistic of Epps and Pulley, integrated by scipy."""
    sample = np.random.default_rng(0).gamma(2.0, 1.0, 60)

    def inside(t: float) -> float:
        apart = abs(np.exp(1j * t * sample).mean() - np.exp(-(t**2) / 2)) ** 2
        return apart * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

    wanted = 60 * quad(inside, -5, 5)[0]
    assert float(sigreg(torch.tensor(sample)[:, None].float(), 8)) == pytest.approx(
        wanted, rel=0.02
    )
    torch.manual_seed(0)
    normal, twisted = torch.randn(512, 16), torch.randn(512, 16) * torch.linspace(0.1, 3, 16)
    assert float(sigreg(normal, 64)) < 0.5 < float(sigreg(twisted, 64))


def test_agreement_is_the_mean_over_other_views():
    torch.manual_seed(0)
    student, chances = torch.randn(4, 6, 5), torch.randn(2, 6, 5).softmax(-1)
    losses = [
        -float((chances[t, b] * student[s, b].log_softmax(0)).sum())
        for t in range(2)
        for s in range(4)
        for b in range(6)
        if s != t
    ]
    assert float(dino_loss(student, chances)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_patches_lie_row_by_row_and_fold_back():
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[0, 4].view(3, 4, 4), images[0, :, 4:8, 4:8])
    mean, deviation = patch_statistics(patches)
    even = (patches - mean) / deviation
    assert torch.allclose(even.mean(2), torch.zeros(2, 6), atol=1e-5)
    assert torch.allclose(even.var(2), torch.ones(2, 6), atol=1e-4)


def test_blanked_squares_are_the_share_that_was_asked():
    marks = random_mask(torch.zeros(3, 3, 28, 28), 7, 0.6)
    assert marks.shape == (3, 1, 28, 28)
    assert torch.allclose(marks.mean((1, 2, 3)), torch.tensor(29 / 49))
    assert random_mask(torch.zeros(1, 3, 30, 30), 7, 0.5).shape == (1, 1, 30, 30)


def test_pixels_are_moved_from_one_normalisation_to_another():
    one, other = (
        InputSpec(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        InputSpec(8, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    )
    raw = torch.rand(1, 3, 4, 4)
    mine, theirs = (
        (raw - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)
        for spec in (one, other)
    )
    factor, shift = renormalization(one, other)
    assert torch.allclose(mine * factor + shift, theirs, atol=1e-6)


# --- every objective


def model_of(objective: str, **more):
    backbone = {
        "backbone.name": "test_vit" if objective == "mae" else "test_efficientnet",
        "backbone.weights": "none",
    }
    own = OWN.get(objective, {})
    words = {
        **backbone,
        "backbone.size": SIDE,
        "task": {"name": objective, **own},
        "tuning": "full",
        "training.batch_norm": "learn",
        **more,
    }
    return objective_task(with_settings(Recipe(), words))


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
    """A few steps on one batch: gradients in every part of the backbone, none in a teacher, and a smaller loss."""
    torch.manual_seed(0)
    model = model_of(objective)
    model.train()
    batch, losses = batch_of(model), []
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-3)
    for step in range(8):
        torch.manual_seed(1)  # the same patches and directions in every step
        with ComputeMode(precision, False).autocast(torch.device("cpu")):
            loss = sum(model.task.loss(model(batch), batch).values())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            reached = [
                name
                for name, each in model.backbone.named_parameters()
                if each.grad is not None and each.grad.abs().sum() > 0
            ]
            assert len(reached) > 0.9 * len(list(model.backbone.parameters()))
        optimizer.step()
        model.task.after_step(model.backbone, model.head, step, 100)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(
        "teacher" not in name and "eyes" not in name
        for name, each in model.named_parameters()
        if each.requires_grad
    )


def test_steps_can_be_timed_where_a_network_keeps_things_between_passes():
    model = model_of("simclr", **{"backbone.name": "levit_128s", "backbone.size": 64}).eval()
    batch = replace(batch_of(model), images=torch.randn(8, 3, 64, 64))
    for target in batch.targets:
        target["global_views"] = torch.randn(1, 3, 64, 64)
    for _ in range(2):  # the second met the first one's graph
        time_step(model, batch, ComputeMode("fp32", False), torch.device("cpu"))


def test_a_teacher_follows_slowly_and_stands_still_at_the_end():
    model = model_of("dino", **{"task": "dino"})
    pair = model.head
    with torch.no_grad():
        next(iter(model.backbone.parameters())).add_(1.0)
    before = next(iter(pair.teacher_backbone.parameters())).clone()
    model.task.after_step(model.backbone, pair, 0, 10)
    moved = next(iter(pair.teacher_backbone.parameters())) - before
    assert torch.allclose(moved, torch.full_like(moved, 0.01), atol=1e-5)
    model.task.after_step(model.backbone, pair, 10, 10)
    assert torch.equal(next(iter(pair.teacher_backbone.parameters())), before + moved)


def test_paintings_keep_what_was_shown():
    for objective in ("mae", "simmim"):
        model = model_of(objective).eval()
        batch = batch_of(model)
        with torch.inference_mode():
            output = model(batch)
            seen, whole = model.task.reconstructions(output, batch)
        shown = (seen == batch.images).all(1, keepdim=True).expand_as(seen)
        assert 0.1 < float(shown.float().mean()) < 0.6
        assert torch.allclose(whole[shown], batch.images[shown], atol=1e-5)
        assert not torch.allclose(whole[~shown], batch.images[~shown], atol=0.1)


def test_a_network_without_patches_is_told_another_way():
    with pytest.raises(UsageError, match="cannot skip patches") as error:
        model_of("mae", **{"backbone.name": "test_efficientnet"})
    assert "simmim" in error.value.hint


# --- the guard


def test_measures_of_features():
    torch.manual_seed(0)
    even = torch.randn(400, 8)
    assert effective_rank(even) > 7.5
    assert effective_rank(even[:, :1] * torch.ones(1, 8)) == pytest.approx(1, abs=0.01)
    assert effective_rank(torch.full((4, 4), float("nan"))) != effective_rank(even)
    assert feature_spread(even) == pytest.approx(1, abs=0.05)
    assert feature_spread(torch.ones(400, 8) + 1e-4 * even) < 0.001
    groups = torch.eye(4).repeat_interleave(30, 0) + 0.1 * torch.randn(120, 4)
    assert knn_hits(groups, np.arange(4).repeat(30)).mean() > 0.95
    assert linear_hits(groups, np.arange(4).repeat(30)).mean() > 0.95
    assert 0.05 < linear_hits(torch.randn(400, 8), np.arange(400) % 4).mean() < 0.45
    assert 0.05 < knn_hits(torch.randn(400, 8), np.arange(400) % 4).mean() < 0.45


def test_left_out_is_left_out():
    """The short way against solving anew without each image."""
    torch.manual_seed(0)
    features, labels = torch.randn(30, 6), np.arange(30) % 3
    rows = functional.normalize(features - features.mean(0), dim=1).double().numpy()
    share, wanted = np.full(3, 1 / 3), []
    for place in range(30):
        kept = np.arange(30) != place
        target = np.eye(3)[labels[kept]] - share
        weight = np.linalg.solve(rows[kept].T @ rows[kept] + 0.1 * np.eye(6), rows[kept].T @ target)
        wanted.append((rows[place] @ weight + share).argmax() == labels[place])
    assert linear_hits(features, labels).tolist() == wanted


@pytest.mark.parametrize(
    ("end", "word"),
    [
        ((20.0, 0.8), ""),
        ((2.0, 0.8), "dimensions"),
        ((20.0, 0.01), "look the same"),
        ((float("nan"), 0.8), "NaN or infinity"),
    ],
)
def test_collapse_is_told(end, word):
    start, now = (FeatureQuality(r, s, np.ones(4, bool)) for r, s in ((24.0, 0.9), end))
    told = collapse_reason(now, start, from_scratch=False)
    assert (word in str(told)) if word else told is None
    assert (
        collapse_reason(FeatureQuality(2.0, 0.05, np.ones(4, bool)), start, from_scratch=True)
        is None
    )


def test_harm_is_noticed_and_taken_back(trained, pictures, labelled, tmp_path):
    """A rate a hundred times too large, from weights that tell stripes apart: ended early, and the weights of the start stay."""
    words = {**QUICK, "weights": str(trained), "epochs": 12, "lr": 0.1, "tuning": "full"}
    found = foveate.pretrain(
        pictures, objective="simclr", labels=labelled, out=tmp_path / "run", **words
    )
    assert found.verdict.outcome == "did not help"
    assert found.verdict.rolled_back
    assert found.start["knn_accuracy"] > 0.9
    assert len(Run(found.run).read_metrics()) < 12
    network = build_model(_supervised(found.run), ("lying", "upright")).backbone.network
    assert weights_fingerprint(network.state_dict()) == weights_fingerprint(read_tensors(trained))
    page = (found.run / "report.html").read_text(encoding="utf-8")
    assert "did not help" in page
    assert page.count("<img") > 20


def _supervised(run: Path) -> Recipe:
    return with_settings(
        Recipe(), {"backbone.name": str(run), "task": "classify", "tuning": "probe"}
    )


def test_a_loss_that_is_no_number_leaves_what_was_good(trained, pictures, tmp_path, monkeypatch):
    real, calls = trainer.mix_batch, []

    def poisoned(batch, recipe):
        calls.append(1)
        batch = real(batch, recipe).normalized()
        return batch if len(calls) <= 4 else replace(batch, images=batch.images * float("nan"))

    monkeypatch.setattr(trainer, "mix_batch", poisoned)
    words = {
        **QUICK,
        "weights": str(trained),
        "epochs": 30,
        "lr": 1e-5,
        "tuning": "full",
        "batch_size": 10,
    }
    found = foveate.pretrain(pictures, objective="simclr", out=tmp_path / "run", **words)
    assert "NaN or infinite" in found.outcome["reason"]["values"]["error"]
    assert all(
        tensor.isfinite().all()
        for tensor in read_tensors(found.run / BACKBONE_FILE, verbatim=True).values()
    )


# --- the run


def test_the_run_is_a_backbone(pictures, labelled, tmp_path, capsys, monkeypatch):
    words = [
        "pretrain",
        str(pictures),
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--epochs",
        "2",
    ]
    words += [
        "--labels",
        str(labelled),
        "--out",
        str(tmp_path / "run"),
        "--batch-size",
        "32",
        "--device",
        "cpu",
        "--json",
    ]
    assert cli._run(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["verdict"] in ("helped", "no difference", "did not help")
    assert told["start_knn_accuracy"] > 0.5
    monkeypatch.chdir(tmp_path)
    with evaluation_left_out():
        fitted = foveate.fit(
            labelled, backbone="run", tuning="full", epochs=1, device="cpu", out=tmp_path / "fitted"
        )
    monkeypatch.undo()
    assert load_predictor(fitted.run, "cpu").model.backbone.input.size == 32
    assert foveate.predict(fitted.run, labelled)[0].prediction.names
    rows = {
        row["run"].rsplit("/", 1)[1]: row["score"]
        for row in foveate.runs(tmp_path).numbers()["runs"]
    }
    assert rows["run"] == f"lejepa: {told['verdict']}"


def test_a_dry_run_tells_the_pace_and_writes_nothing(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "pretrain",
        str(pictures),
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--batch-size",
        "8",
    ]
    assert cli._run([*words, "--epochs", "10", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["images"] == 40
    assert told["hours"] == pytest.approx(10 * 40 / told["images_per_second"] / 3600, abs=0.002)
    assert 0.05 < told["memory_gigabytes"] < 24
    assert list(tmp_path.iterdir()) == []


def test_minutes_cut_the_epochs(pictures, tmp_path):
    found = foveate.pretrain(
        pictures,
        objective="simclr",
        out=tmp_path / "run",
        minutes=0.05,
        **{**QUICK, "epochs": 1000},
    )
    assert found.outcome["epochs"] < 100
    assert found.outcome["seconds"] < 12
    reasons = {row["field"]: row["reason"] for row in Run(found.run).read_json("choices.json")}
    assert "the budget is 0.05 minutes" in reasons["training.epochs"]


def sharded(pictures: Path, shard: Path) -> Path:
    """The same pictures in a tar, with members that nobody should follow."""
    with tarfile.open(shard, "w") as archive:
        for path in sorted(pictures.rglob("*.png")):
            archive.add(path, path.relative_to(pictures).as_posix())
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("../outside.png"))
    return shard


def test_two_processes_learn_what_one_does(pictures, tmp_path):
    """The same losses to 1e-5, on a network without batch statistics, which each process has of its own share."""
    words = [
        "pretrain",
        str(pictures),
        "--objective",
        "mae",
        "--backbone",
        "test_vit",
        "--weights",
        "none",
        "--size",
        "32",
    ]
    words += [
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
    assert cli._run([*words, "--out", str(tmp_path / "one")]) == 0
    last = torchrun("-m", "foveate", *words, "--out", str(tmp_path / "two"))
    assert json.loads(last)["run"] == str(tmp_path / "two")
    losses = [
        [row["train_loss"] for row in Run(tmp_path / name).read_metrics()]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == len(losses[1]) == 2
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


_CONTRAST = """
import torch
from foveate.utils.distributed import gather_features, join_processes
from foveate.training.objectives.simclr import nt_xent
torch.manual_seed(0)
weight, images = torch.randn(6, 5), torch.randn(2, 8, 6)

def gradient(views):
    moving = weight.clone().requires_grad_(True)
    found = gather_features(views @ moving)
    loss = nt_xent(found[0], found[1], 0.2)
    loss.backward()
    return loss.detach(), moving.grad

alone = gradient(images)
with join_processes('cpu') as processes:
    loss, shared = gradient(images[:, processes.rank :: processes.size])
    processes.average([shared])
    if processes.is_main:
        print(float((loss - alone[0]).abs()), float((shared - alone[1]).abs().max()), float(alone[1].abs().max()))
"""


def test_contrast_is_over_the_images_of_all_processes(tmp_path):
    """Loss and gradient of gathered features are those of one process with the whole batch."""
    (tmp_path / "contrast.py").write_text(_CONTRAST, encoding="utf-8")
    loss, worst, largest = map(float, torchrun(str(tmp_path / "contrast.py")).split())
    assert loss < 1e-6
    assert worst < 1e-6 * max(1.0, largest)
    assert largest > 1e-3


def torchrun(*words: str) -> str:
    """The last line of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        port,
        *words,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def test_shards_and_tables_are_read_like_folders(pictures, tmp_path):
    shard, table = sharded(pictures, tmp_path / "pictures.tar"), tmp_path / "pictures.csv"
    table.write_text(
        "\n".join(["path", *map(str, sorted(pictures.rglob("*.png")))]), encoding="utf-8"
    )
    streams = []
    for source in (pictures, shard, table):
        catalogue = Catalogue.write(tmp_path / f"{source.name}.jsonl", find_entries(source))
        streams.append(
            Stream(
                catalogue,
                ImageCache(SIDE, "crop", keep=False),
                evaluation_transform(InputSpec(SIDE, (0, 0, 0), (1, 1, 1)), "crop"),
                0,
            )
        )
    assert [len(each) for each in streams] == [60, 60, 60]
    for place in (0, 31, 59):
        one, *others = (each[0, place][0] for each in streams)
        assert all(torch.equal(one, other) for other in others)
    found = foveate.pretrain(
        shard, objective="simclr", out=tmp_path / "run", **{**QUICK, "epochs": 1}
    )
    assert found.outcome["images"] == {"train": 40, "val": 20}


def test_a_list_takes_eight_bytes_a_picture(tmp_path):
    names = [
        Entry(f"{place:07d}.png", Path(f"/pictures/{place:07d}.png")) for place in range(20000)
    ]
    catalogue = Catalogue.write(tmp_path / "list.jsonl", iter(names))
    assert catalogue.starts.nbytes == 8 * 20001
    assert [catalogue[place] for place in (0, 777, 19999)] == [
        names[place] for place in (0, 777, 19999)
    ]


def test_a_broken_picture_gives_its_place_to_the_next(pictures, tmp_path, capsys):
    folder = Path(shutil.copytree(pictures, tmp_path / "copy"))
    first = sorted(folder.rglob("*.png"))[0]
    first.write_bytes(b"\x89PNG nothing more")
    stream = Stream(
        Catalogue.write(tmp_path / "list.jsonl", find_entries(folder)),
        ImageCache(SIDE, "crop", keep=False),
        evaluation_transform(InputSpec(SIDE, (0, 0, 0), (1, 1, 1)), "crop"),
        0,
    )
    assert torch.equal(stream[0, 0][0], stream[0, 1][0])
    assert torch.equal(stream[3, 0][0], stream[0, 1][0])
    assert capsys.readouterr().out.count(f"skipped lying/{first.name}") == 1


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\x1f\x8b\x08 a compressed one"])
def test_shards_that_are_none_are_one_sentence(tmp_path, content):
    (tmp_path / "pictures.tar").write_bytes(content)
    with pytest.raises(
        DataError, match=r"the shard cannot be read|pictures are left to learn from"
    ):
        foveate.pretrain(tmp_path / "pictures.tar", out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_low_rank_pretraining_leaves_a_plain_backbone(trained, pictures, tmp_path):
    """ExPLoRA: few parameters move, the merged network answers as the unmerged one, and opens as any other."""
    words = {**QUICK, "weights": str(trained), "tuning": "explora", "lr": 1e-3}
    found = foveate.pretrain(
        pictures, objective="vicreg", out=tmp_path / "run", settings={"tuning.rank": 2}, **words
    )
    assert found.verdict.outcome in ("cannot tell", "did not help")
    network = build_model(_supervised(found.run), ("a", "b")).backbone.network
    before, after = read_tensors(trained), network.state_dict()
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[name], after[name]) for name in before) > 5


def test_t1_resume_is_exact(pictures, labelled, tmp_path, monkeypatch):
    words = {
        **QUICK,
        "batch_size": 20,
        "settings": {"task.local_views": 0, "task.hidden": 32, "task.prototypes": 32},
    }
    whole = foveate.pretrain(
        pictures, objective="dino", labels=labelled, out=tmp_path / "whole", **words
    )
    real, looked = trainer.Trainer._stop_requested, []

    def asked(self, stop):
        looked.append(1)
        if len(looked) == 5:  # in the second epoch
            stop.signal = signal.SIGTERM
        return real(self, stop)

    monkeypatch.setattr(trainer.Trainer, "_stop_requested", asked)
    with pytest.raises(Interrupted) as stopped:
        foveate.pretrain(pictures, objective="dino", labels=labelled, out=tmp_path / "cut", **words)
    assert stopped.value.hint == f"foveate pretrain --resume {tmp_path / 'cut'}"
    monkeypatch.setattr(trainer.Trainer, "_stop_requested", real)
    with pytest.raises(FoveateError, match="not finished"):
        build_model(_supervised(tmp_path / "cut"), ("a", "b"))
    again = foveate.pretrain(resume=tmp_path / "cut")
    one, other = (
        weights_fingerprint(read_tensors(run / BACKBONE_FILE, verbatim=True))
        for run in (whole.run, again.run)
    )
    assert one == other


def test_bad_words_and_bad_pictures_are_one_sentence(pictures, labelled, quick, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(FoveateError, match="nothing at this path"):
        foveate.pretrain(tmp_path / "nowhere", out=out, **QUICK)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="too few images to train on: 0"):
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
        foveate.pretrain(pictures, objective="lejep", out=out, **QUICK)
    with pytest.raises(FoveateError, match="temperatur"):
        foveate.pretrain(
            pictures, objective="simclr", settings={"task.temperatur": 1}, out=out, **QUICK
        )
    assert not out.exists()
    found = foveate.pretrain(
        pictures, objective="simclr", out=out, **{**QUICK, "batch_size": 4096, "epochs": 1}
    )
    assert Run(out).recipe().training.batch_size == found.outcome["images"]["train"]
    with pytest.raises(UsageError, match="cannot make predictions"):
        foveate.predict(out, pictures)
    for go_on in (
        foveate.soup,
        lambda run: foveate.continue_(run, labelled),
        lambda run: foveate.adapt(run, pictures),
    ):
        with pytest.raises(UsageError, match="this run cannot be continued"):
            go_on(out)
    assert foveate.pretrain(resume=out).verdict == found.verdict  # it is finished: nothing is done
    fitted = fit_unevaluated(quick, tmp_path / "fitted").run
    with pytest.raises(UsageError, match="was fitted, not pretrained"):
        foveate.fit(labelled, backbone=str(fitted), out=tmp_path / "again")
    with pytest.raises(UsageError, match="has its own weights"):
        foveate.fit(labelled, backbone=str(out), weights="hub", out=tmp_path / "again")
    (out / BACKBONE_FILE).write_bytes(b"other")
    with pytest.raises(FoveateError, match="damaged"):
        foveate.fit(labelled, backbone=str(out), out=tmp_path / "again")


def test_pictures_of_the_guard_are_never_learnt_from(pictures, tmp_path):
    """Labels for half of the very pictures: they are judged by, and left out of the training; without labels a part is held out."""
    rows = [f"{path}\t{path.parent.name}" for path in sorted(pictures.rglob("*.png"))[::2]]
    (tmp_path / "half.tsv").write_text("\n".join(["path\tlabel", *rows]), encoding="utf-8")
    words = {**QUICK, "epochs": 1}
    foveate.pretrain(
        pictures,
        objective="simclr",
        labels=tmp_path / "half.tsv",
        out=tmp_path / "labelled",
        **words,
    )
    foveate.pretrain(pictures, objective="simclr", out=tmp_path / "alone", **words)
    for name, count in (("labelled", 30), ("alone", 20)):
        train, held = (Catalogue(tmp_path / name / f"{word}.jsonl") for word in ("train", "held"))
        both = [{each[place].path for place in range(len(each))} for each in (train, held)]
        assert (len(train), len(held)) == (60 - count, count)
        assert both[0] | both[1] == set(pictures.rglob("*.png"))
