"""Weight averaging: exact endpoints, selection by validation, refusal of incompatible runs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import update_bn

import foveate
from conftest import stripe_image
from foveate.api.evaluate import evaluate
from foveate.api.fit.pipeline import reopen_job
from foveate.api.soup import soup
from foveate.api.soup.averaging import equal_tensors, interpolate, recompute_batch_statistics
from foveate.api.soup.candidates import CandidateScorer
from foveate.api.soup.core import SoupResult, _interpolate_run
from foveate.api.soup.ingredients import initial_weights
from foveate.cli import main as cli
from foveate.data.loading import BatchSampler, make_loader
from foveate.errors import DataError, FoveateError, RunError, UsageError, WeightsError
from foveate.modeling.model import build_model
from foveate.modeling.weights import read_tensors
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.utils.device import ComputeMode
from foveate.utils.files import checksum
from helpers import fit_unevaluated, probe_of

NETWORK = {"backbone.name": "test_efficientnet", "backbone.size": 32, "device": "cpu"}
TRAINING = {
    "training.epochs": 2,
    "training.batch_size": 8,
    "training.channels_last": False,
    "training.precision": "fp32",
}


def write_images(
    root: Path,
    counts: dict[str, int],
    waves: tuple[float, float] = (0.8, 1.6),
    classes: tuple[str, ...] = ("lying", "upright"),
) -> Path:
    """Write images of stripes in folders by split (none for "") and class."""
    rng = np.random.default_rng(0)
    for split, per_class in counts.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                Image.fromarray(stripe_image(rng, name == "upright", waves=waves)).save(
                    folder / f"{number:02d}.png"
                )
    return root


class Workspace:
    """Data with named splits, data of another domain, initial weights, and two runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = write_images(root / "data", {"train": 12, "val": 8, "test": 8})
        self.shifted_data = write_images(root / "far", {"": 10}, (0.3, 0.7))
        settings = {
            **NETWORK,
            **TRAINING,
            "data.path": str(self.data),
            "data.near_duplicates": 1,
            "tuning": "full",
        }
        self.recipe = with_settings(
            Recipe(),
            {
                **settings,
                "training.batch_norm": "learn",
                "backbone.weights": str(self._save_weights(settings)),
            },
        )
        self.first = self.fit("first", {})
        self.second = self.fit("second", {"seed": 1, "training.lr": 3e-4})

    def _save_weights(self, settings: dict) -> Path:
        """Save random weights, so that they are the same for every seed."""
        recipe = with_settings(
            Recipe(),
            {**settings, "task": "classify", "task.features": "pooled", "backbone.weights": "none"},
        )
        save_file(
            build_model(recipe, ("lying", "upright")).backbone.network.state_dict(),
            self.root / "weights.safetensors",
        )
        return self.root / "weights.safetensors"

    def fit(self, name: str, settings: dict) -> Path:
        fit_unevaluated(with_settings(self.recipe, settings), self.root / name)
        return self.root / name

    def fit_probe(self) -> Path:
        fit_unevaluated(probe_of(self.recipe, {"task.features": "pooled"}), self.root / "probe")
        return self.root / "probe"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Workspace(tmp_path_factory.mktemp("soup"))


@pytest.fixture(scope="module")
def curve(workspace) -> SoupResult:
    """The result of interpolating the first run from its initial to its final weights."""
    before = checksums(workspace.first)
    result = soup(
        [workspace.first], out=workspace.root / "curve", shift=workspace.shifted_data, steps=4
    )
    assert checksums(workspace.first) == before
    return result


@pytest.fixture
def run_copy(workspace, tmp_path) -> Path:
    """A copy of the first run, to be damaged."""
    return Path(shutil.copytree(workspace.first, tmp_path / "copy"))


def checksums(folder: Path) -> dict[str, str]:
    return {
        str(path): checksum(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def read_weights(run: Path) -> dict[str, Tensor]:
    return read_tensors(run / "model.safetensors")


def edit_run(run: Path, name: str, old: str, new: str) -> Path:
    """Replace a text in a file of a run and update the checksums."""
    text = (run / name).read_text(encoding="utf-8")
    assert old in text
    (run / name).write_text(text.replace(old, new), encoding="utf-8")
    return update_checksums(run)


def update_checksums(run: Path) -> Path:
    Run(run).finish({key: value for key, value in Run(run).outcome().items() if key != "checksums"})
    return run


# --- averages


def test_interpolation_reaches_both_endpoints():
    start = {"w": torch.tensor([0.0, -1.0]), "count": torch.tensor(3)}
    end = {"w": torch.tensor([1.0, 1.0]), "count": torch.tensor(7)}
    assert interpolate(start, end, 0) is start
    assert interpolate(start, end, 1) is end
    middle = interpolate(start, end, 0.25)
    assert middle["w"].tolist() == [0.25, -0.5]
    assert middle["count"] == 7
    assert equal_tensors(interpolate(end, {**end}, 1 / 3), end)


def test_batch_statistics_equal_pytorch(workspace):
    job = reopen_job(Run(workspace.first))
    model, device, mode = job.model, torch.device("cpu"), ComputeMode("fp32", False)
    batches = [
        batch.normalized()
        for batch in make_loader(job.dataset("train"), BatchSampler(len(job.indices("train")), 8))
    ]
    frozen = {
        name: tensor.clone()
        for name, tensor in model.state_dict().items()
        if "running" not in name and "tracked" not in name
    }
    statistics = recompute_batch_statistics(model, batches, device, mode)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in frozen.items())
    assert not any(module.training for module in model.modules())
    reference = reopen_job(Run(workspace.first)).model

    class BatchFeeder(torch.nn.Module):
        """Feeds the batches; without dropout, all of the network may be in training mode."""

        def __init__(self) -> None:
            super().__init__()
            self.model = reference

        def forward(self, number: Tensor) -> Tensor:
            return reference(batches[int(number)])

    update_bn([torch.tensor(number) for number in range(len(batches))], BatchFeeder())
    expected = reference.state_dict()
    assert statistics
    for name, tensor in statistics.items():
        torch.testing.assert_close(tensor, expected[name])
    assert {name.rpartition(".")[2] for name in statistics} == {"running_mean", "running_var"}


def test_frozen_statistics_are_not_recomputed(workspace):
    recipe = with_settings(Run(workspace.first).recipe(), {"training.batch_norm": "keep"})
    assert (
        recompute_batch_statistics(
            build_model(recipe, ("lying", "upright")),
            [],
            torch.device("cpu"),
            ComputeMode("fp32", False),
        )
        == {}
    )


# --- one run


def test_the_curve_ends_at_the_run_and_starts_at_the_probe(workspace, curve):
    points = curve.selection.candidates
    assert [point.alpha for point in points] == [0, 0.25, 0.5, 0.75, 1]
    assert [points[0].note.split(", ")[0], points[-1].note.split(", ")[0]] == ["start", "end"]
    for point, run in (
        (points[-1], workspace.first),
        (points[0], workspace.fit_probe()),
    ):
        expected = evaluate(run, split="val", device="cpu").scores.numbers["accuracy"]
        assert point.validation == expected
        assert (
            point.shifted
            == evaluate(run, workspace.shifted_data, device="cpu").scores.numbers["accuracy"]
        )


def test_the_start_is_the_pretrained_backbone_with_the_closed_form_head(workspace):
    start, probe = (
        initial_weights(reopen_job(Run(workspace.first))),
        read_weights(workspace.root / "probe"),
    )
    pretrained = read_tensors(workspace.root / "weights.safetensors")
    assert all(
        torch.equal(start[f"backbone.network.{name}"], tensor)
        for name, tensor in pretrained.items()
    )
    for name, tensor in probe.items():
        torch.testing.assert_close(start[name], tensor)
    assert start.keys() == read_weights(workspace.first).keys()


def test_a_curve_of_one_step_selects_an_endpoint_bit_for_bit(workspace, tmp_path):
    result = soup([workspace.first], out=tmp_path / "new", steps=1)
    endpoints = initial_weights(reopen_job(Run(workspace.first))), read_weights(workspace.first)
    assert equal_tensors(read_weights(tmp_path / "new"), endpoints[result.selection.best])
    assert not any(point.recomputed_statistics for point in result.selection.candidates)


def test_selection_uses_validation_images_only(workspace, curve):
    best = curve.selection.candidates[curve.selection.best]
    assert all(best.rank >= point.rank for point in curve.selection.candidates)
    assert "chosen" in best.note
    row = Run(curve.run).read_json("choices.json")[-1]
    assert row["field"] == "soup.alpha"
    assert row["value"] == best.alpha
    assert "validation" in row["reason"]
    other = soup([workspace.first], out=workspace.root / "unshifted", steps=4)
    assert equal_tensors(read_weights(other.run), read_weights(curve.run))
    assert other.gain is None


def test_the_better_statistics_are_kept(workspace, curve, monkeypatch):
    monkeypatch.setattr("foveate.api.soup.candidates.recompute_batch_statistics", lambda *_: {})
    job = reopen_job(Run(workspace.first))
    averaged = _interpolate_run(CandidateScorer(job, None), job, 4).candidates
    pairs = list(zip(curve.selection.candidates, averaged, strict=True))
    assert all(
        better.rank > plain.rank
        if better.recomputed_statistics
        else better.rank == pytest.approx(plain.rank, abs=1e-3)
        for better, plain in pairs
    )


def test_the_result_is_an_ordinary_run(workspace, curve):
    assert curve.evaluation.split == "test"
    assert {path.name for path in (curve.run / "evaluations").iterdir()} == {"val", "test"}
    best = curve.selection.candidates[curve.selection.best]
    assert (
        evaluate(curve.run, split="val", device="cpu").scores.numbers["accuracy"] == best.validation
    )
    assert (
        evaluate(curve.run, workspace.shifted_data, device="cpu").scores.numbers["accuracy"]
        == best.shifted
    )
    results = foveate.predict(curve.run, workspace.data / "test", device="cpu")
    assert [result.error for result in results] == [None] * 16
    content = json.loads((curve.run / "curve.json").read_text())
    assert content["points"] == [point.row() for point in curve.selection.candidates]
    assert content["chosen"]["alpha"] == best.alpha
    assert (curve.run / "curve.svg").read_text().startswith("<svg")
    assert Run(curve.run).outcome()["epochs"] == 0
    assert Run(curve.run).recipe() == Run(workspace.first).recipe()


@pytest.mark.parametrize(
    "settings",
    [{"tuning": "lora", "backbone.name": "test_vit"}, {"tuning": "last", "tuning.blocks": 1}],
    ids=["lora", "last"],
)
def test_tunings_that_train_some_weights(workspace, tmp_path, settings):
    run = workspace.root / f"part-{settings['tuning']}"
    fit_unevaluated(
        with_settings(
            workspace.recipe,
            {
                **settings,
                "backbone.weights": "none",
                "training.epochs": 1,
                "training.head_init": "probe",
            },
        ),
        run,
    )
    result = soup([run], out=tmp_path / "new", steps=2)
    expected = evaluate(run, split="val", device="cpu").scores.numbers["accuracy"]
    assert result.selection.candidates[-1].validation.value == pytest.approx(expected.value)
    assert Run(result.run).outcome()["frozen"] == Run(run).outcome()["frozen"] != ""


# --- several


def test_averaging_a_run_with_itself_gives_that_run(workspace, tmp_path):
    result = soup([workspace.first, workspace.first], out=tmp_path / "new")
    assert equal_tensors(read_weights(result.run), read_weights(workspace.first))
    assert result.selection.candidates[-1].note == "chosen"
    assert result.selection.decision[1] == [str(workspace.first)] * 2


def test_a_soup_is_no_worse_than_its_best_run(workspace, tmp_path):
    before = checksums(workspace.first), checksums(workspace.second)
    result = foveate.soup(
        [workspace.first, workspace.second],
        out=tmp_path / "new",
        shift=workspace.shifted_data,
        device="cpu",
    )
    assert (checksums(workspace.first), checksums(workspace.second)) == before
    first, second, both = result.selection.candidates
    assert first.rank >= second.rank
    assert {first.runs, second.runs} == {(workspace.first,), (workspace.second,)}
    best = result.selection.candidates[result.selection.best]
    assert best.rank >= first.rank
    assert best is (both if both.rank >= first.rank else first)
    assert both.note == ("chosen" if best is both else "left out")
    expected = evaluate(result.run, split="val", device="cpu").scores.numbers["accuracy"]
    assert expected == best.validation
    numbers = result.numbers()
    assert numbers["chosen"]["runs"] == [str(folder) for folder in best.runs]
    assert len(result.rows[0]) == len(result.columns) == 4


@pytest.mark.figures
def test_the_last_output_line_is_complete_json(workspace, tmp_path, capsys):
    arguments = [
        "soup",
        str(workspace.first),
        str(workspace.second),
        "--out",
        str(tmp_path / "new"),
        "--device",
        "cpu",
        "--json",
    ]
    assert cli._run(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["run"] == str(tmp_path / "new")
    assert len(result["points"]) == 3


# --- refusals


def assert_refused(
    error_type: type[FoveateError], runs: list[Path], tmp_path: Path, *texts: str, **options: object
) -> None:
    with pytest.raises(error_type) as error:
        soup(runs, out=tmp_path / "new", **options)
    assert all(text in str(error.value) for text in texts), str(error.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        (
            "head_init: probe",
            "head_init: random",
            ("random initial head", "training.head_init=probe"),
        ),
        ("name: full", "name: probe", ("took no training steps", "such as full")),
        (
            "name: classify",
            "name: segment",
            ("a segment run has a random initial head", "foveate soup RUN RUN"),
        ),
    ],
)
def test_one_run_needs_a_start(run_copy, tmp_path, old, new, texts):
    assert_refused(UsageError, [edit_run(run_copy, "recipe.yaml", old, new)], tmp_path, *texts)


@pytest.mark.parametrize(
    ("name", "old", "new", "texts"),
    [
        ("classes.json", "upright", "standing", ("classes", "standing, upright")),
        (
            "recipe.yaml",
            "name: test_efficientnet",
            "name: test_vit",
            ("backbone.name is test_vit there and test_efficientnet",),
        ),
        (
            "recipe.yaml",
            "name: classify",
            "name: classify\n  smoothing: 0.2",
            ("task.smoothing is 0.2 there and 0.1",),
        ),
        ("recipe.yaml", "name: full", "name: norm", ("tuning.name is norm",)),
        ("finished.json", '"origin": "file', '"origin": "hub', ("the origin of its weights",)),
        (
            "splits.csv",
            "val/lying/00.png,val",
            "val/lying/00.png,train",
            ("'val/lying/00.png' is train there and val",),
        ),
    ],
)
def test_several_runs_must_be_compatible(workspace, run_copy, tmp_path, name, old, new, texts):
    assert_refused(
        UsageError,
        [workspace.first, edit_run(run_copy, name, old, new)],
        tmp_path,
        str(run_copy),
        *texts,
    )


def test_an_image_with_other_bytes_is_another_image(workspace, run_copy, tmp_path):
    with (run_copy / "splits.csv").open(encoding="utf-8") as file:
        digest = next(csv.DictReader(file))["sha256"]
    assert_refused(
        UsageError,
        [workspace.first, edit_run(run_copy, "splits.csv", digest, "0" * 64)],
        tmp_path,
        "is another file",
    )


def test_random_weights_of_another_seed_are_another_start(workspace, run_copy, tmp_path):
    first = edit_run(
        run_copy,
        "recipe.yaml",
        f"weights: {workspace.root / 'weights.safetensors'}",
        "weights: none",
    )
    other = edit_run(
        Path(shutil.copytree(first, tmp_path / "other")), "recipe.yaml", "seed: 0", "seed: 1"
    )
    assert_refused(
        UsageError,
        [first, other],
        tmp_path,
        "the seed of its random weights is 1 there and 0",
        str(other),
    )


def test_tensors_of_another_network(workspace, run_copy, tmp_path):
    tensors = read_weights(run_copy)
    tensors.pop("head.linear.bias")
    save_file(tensors, run_copy / "model.safetensors")
    update_checksums(run_copy)
    assert_refused(
        WeightsError, [workspace.first, run_copy], tmp_path, "head.linear.bias", str(run_copy)
    )


def test_no_validation_images(workspace, tmp_path):
    run = workspace.root / "unvalidated"
    data = write_images(workspace.root / "trained", {"train": 8, "test": 4})
    fit_unevaluated(
        with_settings(
            workspace.recipe, {"data.path": str(data), "data.val": 0, "training.epochs": 1}
        ),
        run,
    )
    assert_refused(DataError, [run], tmp_path, "no validation images", "data.val")


def test_locked_unfinished_damaged_and_missing_runs(workspace, run_copy, tmp_path):
    with pytest.raises(UsageError, match="already exists"):
        soup([workspace.first], out=workspace.second)
    assert_refused(UsageError, [tmp_path / "none"], tmp_path, "no run at this path")
    assert_refused(UsageError, [], tmp_path, "no run was given")
    assert_refused(UsageError, [workspace.first], tmp_path, "step", steps=0)
    (run_copy / "classes.json").write_text("[]", encoding="utf-8")
    assert_refused(RunError, [workspace.first, run_copy], tmp_path, "damaged")
    (run_copy / "finished.json").unlink()
    assert_refused(RunError, [run_copy], tmp_path, "not finished")


def test_weights_changed_since_training(workspace, run_copy, tmp_path):
    assert_refused(
        RunError,
        [edit_run(run_copy, "finished.json", '"origin": "file', '"origin": "hub')],
        tmp_path,
        "differ from those",
    )


def test_shifted_data_of_no_known_class(workspace, tmp_path):
    other_data = write_images(tmp_path / "strange", {"": 2}, classes=("waves", "dots"))
    assert_refused(
        DataError,
        [workspace.first],
        tmp_path,
        "none of the images has a class of the run",
        shift=other_data,
    )
