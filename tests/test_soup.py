"""Averages of weights: the ends are exact, validation alone chooses, runs without common ground are refused, nothing is touched."""

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
from conftest import striped
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
from helpers import fit_unevaluated

NETWORK = {"backbone.name": "test_efficientnet", "backbone.size": 32, "device": "cpu"}
WAYS = {
    "training.epochs": 2,
    "training.batch_size": 8,
    "training.channels_last": False,
    "training.precision": "fp32",
}


def pictures(
    root: Path,
    counts: dict[str, int],
    waves: tuple[float, float] = (0.8, 1.6),
    classes: tuple[str, ...] = ("lying", "upright"),
) -> Path:
    """Stripes in folders by split (none for '') and class."""
    rng = np.random.default_rng(0)
    for split, each in counts.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                Image.fromarray(striped(rng, name == "upright", waves=waves)).save(
                    folder / f"{number:02d}.png"
                )
    return root


class World:
    """Data with named splits, data of other stripes, weights to begin with, and runs on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = pictures(root / "data", {"train": 12, "val": 8, "test": 8})
        self.far = pictures(root / "far", {"": 10}, (0.3, 0.7))
        words = {
            **NETWORK,
            **WAYS,
            "data.path": str(self.data),
            "data.near_duplicates": 1,
            "tuning": "full",
        }
        self.recipe = with_settings(
            Recipe(),
            {
                **words,
                "training.batch_norm": "learn",
                "backbone.weights": str(self._weights(words)),
            },
        )
        self.first = self.fitted("first", {})
        self.second = self.fitted("second", {"seed": 1, "training.lr": 3e-4})

    def _weights(self, words: dict) -> Path:
        """Random ones, but the same for every seed."""
        drawn = with_settings(
            Recipe(),
            {**words, "task": "classify", "task.features": "pooled", "backbone.weights": "none"},
        )
        save_file(
            build_model(drawn, ("lying", "upright")).backbone.network.state_dict(),
            self.root / "weights.safetensors",
        )
        return self.root / "weights.safetensors"

    def fitted(self, name: str, settings: dict) -> Path:
        fit_unevaluated(with_settings(self.recipe, settings), self.root / name)
        return self.root / name


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return World(tmp_path_factory.mktemp("soup"))


@pytest.fixture(scope="module")
def curve(world) -> SoupResult:
    """The first run, from its start to its end."""
    before = sums(world.first)
    found = soup([world.first], out=world.root / "curve", shift=world.far, steps=4)
    assert sums(world.first) == before
    return found


@pytest.fixture
def copied(world, tmp_path) -> Path:
    """The first run under another name, to be damaged."""
    return Path(shutil.copytree(world.first, tmp_path / "copy"))


def sums(folder: Path) -> dict[str, str]:
    return {
        str(path): checksum(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def weights(run: Path) -> dict[str, Tensor]:
    return read_tensors(run / "model.safetensors")


def rewritten(run: Path, name: str, old: str, new: str) -> Path:
    """A run whose file says something else, as if it had been written so."""
    text = (run / name).read_text(encoding="utf-8")
    assert old in text
    (run / name).write_text(text.replace(old, new), encoding="utf-8")
    return finished_again(run)


def finished_again(run: Path) -> Path:
    Run(run).finish({key: value for key, value in Run(run).outcome().items() if key != "checksums"})
    return run


# --- averages


def test_an_average_lies_between_and_is_the_ends_at_the_ends():
    start = {"w": torch.tensor([0.0, -1.0]), "count": torch.tensor(3)}
    end = {"w": torch.tensor([1.0, 1.0]), "count": torch.tensor(7)}
    assert interpolate(start, end, 0) is start
    assert interpolate(start, end, 1) is end
    middle = interpolate(start, end, 0.25)
    assert middle["w"].tolist() == [0.25, -0.5]
    assert middle["count"] == 7
    assert equal_tensors(interpolate(end, {**end}, 1 / 3), end)


def test_statistics_are_those_of_pytorch(world):
    job = reopen_job(Run(world.first))
    model, device, way = job.model, torch.device("cpu"), ComputeMode("fp32", False)
    batches = [
        batch.normalized()
        for batch in make_loader(job.dataset("train"), BatchSampler(len(job.indices("train")), 8))
    ]
    frozen = {
        name: tensor.clone()
        for name, tensor in model.state_dict().items()
        if "running" not in name and "tracked" not in name
    }
    found = recompute_batch_statistics(model, batches, device, way)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in frozen.items())
    assert not any(module.training for module in model.modules())
    again = reopen_job(Run(world.first)).model

    class Fed(torch.nn.Module):
        """Without dropout in the network, all of it may be in training mode, as PyTorch has it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = again

        def forward(self, number: Tensor) -> Tensor:
            return again(batches[int(number)])

    update_bn([torch.tensor(number) for number in range(len(batches))], Fed())
    expected = again.state_dict()
    assert found
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])
    assert {name.rpartition(".")[2] for name in found} == {"running_mean", "running_var"}


def test_statistics_that_were_kept_are_not_measured(world):
    recipe = with_settings(Run(world.first).recipe(), {"training.batch_norm": "keep"})
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


def test_the_end_of_the_curve_is_the_run_and_its_start_the_probe(world, curve):
    points = curve.selection.candidates
    assert [point.alpha for point in points] == [0, 0.25, 0.5, 0.75, 1]
    assert [points[0].note.split(", ")[0], points[-1].note.split(", ")[0]] == ["start", "end"]
    for point, run in (
        (points[-1], world.first),
        (points[0], world.fitted("probe", {"tuning": "probe", "task.features": "pooled"})),
    ):
        scored = evaluate(run, split="val", device="cpu").scores.numbers["accuracy"]
        assert point.validation == scored
        assert point.shifted == evaluate(run, world.far, device="cpu").scores.numbers["accuracy"]


def test_the_start_is_the_backbone_as_it_came_and_the_solved_head(world):
    start, probe = initial_weights(reopen_job(Run(world.first))), weights(world.root / "probe")
    came = read_tensors(world.root / "weights.safetensors")
    assert all(
        torch.equal(start[f"backbone.network.{name}"], tensor) for name, tensor in came.items()
    )
    for name, tensor in probe.items():
        torch.testing.assert_close(start[name], tensor)
    assert start.keys() == weights(world.first).keys()


def test_a_curve_of_one_step_chooses_an_end_bit_for_bit(world, tmp_path):
    found = soup([world.first], out=tmp_path / "new", steps=1)
    ends = initial_weights(reopen_job(Run(world.first))), weights(world.first)
    assert equal_tensors(weights(tmp_path / "new"), ends[found.selection.best])
    assert not any(point.recomputed_statistics for point in found.selection.candidates)


def test_validation_alone_chooses(world, curve):
    best = curve.selection.candidates[curve.selection.best]
    assert all(best.rank >= point.rank for point in curve.selection.candidates)
    assert "chosen" in best.note
    row = Run(curve.run).read_json("choices.json")[-1]
    assert row["field"] == "soup.alpha"
    assert row["value"] == best.alpha
    assert "validation" in row["reason"]
    other = soup([world.first], out=world.root / "unshifted", steps=4)
    assert equal_tensors(weights(other.run), weights(curve.run))
    assert other.gain is None


def test_the_better_statistics_are_kept(world, curve, monkeypatch):
    monkeypatch.setattr("foveate.api.soup.candidates.recompute_batch_statistics", lambda *_: {})
    job = reopen_job(Run(world.first))
    averaged = _interpolate_run(CandidateScorer(job, None), job, 4).candidates
    pairs = list(zip(curve.selection.candidates, averaged, strict=True))
    assert all(
        better.rank > plain.rank
        if better.recomputed_statistics
        else better.rank == pytest.approx(plain.rank, abs=1e-3)
        for better, plain in pairs
    )


def test_the_new_run_is_a_run(world, curve):
    assert curve.evaluation.split == "test"
    assert {path.name for path in (curve.run / "evaluations").iterdir()} == {"val", "test"}
    best = curve.selection.candidates[curve.selection.best]
    assert (
        evaluate(curve.run, split="val", device="cpu").scores.numbers["accuracy"] == best.validation
    )
    assert evaluate(curve.run, world.far, device="cpu").scores.numbers["accuracy"] == best.shifted
    answers = foveate.predict(curve.run, world.data / "test", device="cpu")
    assert [answer.error for answer in answers] == [None] * 16
    told = json.loads((curve.run / "curve.json").read_text())
    assert told["points"] == [point.row() for point in curve.selection.candidates]
    assert told["chosen"]["alpha"] == best.alpha
    assert (curve.run / "curve.svg").read_text().startswith("<svg")
    assert Run(curve.run).outcome()["epochs"] == 0
    assert Run(curve.run).recipe() == Run(world.first).recipe()


@pytest.mark.parametrize(
    "words",
    [{"tuning": "lora", "backbone.name": "test_vit"}, {"tuning": "last", "tuning.blocks": 1}],
    ids=["lora", "last"],
)
def test_tunings_that_train_a_part(world, tmp_path, words):
    run = world.root / f"part-{words['tuning']}"
    fit_unevaluated(
        with_settings(
            world.recipe,
            {
                **words,
                "backbone.weights": "none",
                "training.epochs": 1,
                "training.head_init": "probe",
            },
        ),
        run,
    )
    found = soup([run], out=tmp_path / "new", steps=2)
    scored = evaluate(run, split="val", device="cpu").scores.numbers["accuracy"]
    assert found.selection.candidates[-1].validation.value == pytest.approx(scored.value)
    assert Run(found.run).outcome()["frozen"] == Run(run).outcome()["frozen"] != ""


# --- several


def test_a_run_with_itself_is_that_run(world, tmp_path):
    found = soup([world.first, world.first], out=tmp_path / "new")
    assert equal_tensors(weights(found.run), weights(world.first))
    assert found.selection.candidates[-1].note == "chosen"
    assert found.selection.decision[1] == [str(world.first)] * 2


def test_a_soup_is_no_worse_than_its_best_run(world, tmp_path):
    before = sums(world.first), sums(world.second)
    found = foveate.soup(
        [world.first, world.second], out=tmp_path / "new", shift=world.far, device="cpu"
    )
    assert (sums(world.first), sums(world.second)) == before
    first, second, both = found.selection.candidates
    assert first.rank >= second.rank
    assert {first.runs, second.runs} == {(world.first,), (world.second,)}
    best = found.selection.candidates[found.selection.best]
    assert best.rank >= first.rank
    assert best is (both if both.rank >= first.rank else first)
    assert both.note == ("chosen" if best is both else "left out")
    scored = evaluate(found.run, split="val", device="cpu").scores.numbers["accuracy"]
    assert scored == best.validation
    numbers = found.numbers()
    assert numbers["chosen"]["runs"] == [str(folder) for folder in best.runs]
    assert len(found.rows[0]) == len(found.columns) == 4


def test_the_command_says_all_in_its_last_line(world, tmp_path, capsys):
    words = [
        "soup",
        str(world.first),
        str(world.second),
        "--out",
        str(tmp_path / "new"),
        "--device",
        "cpu",
        "--json",
    ]
    assert cli._run(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["run"] == str(tmp_path / "new")
    assert len(told["points"]) == 3


# --- refusals


def refused(
    kind: type[FoveateError], runs: list[Path], tmp_path: Path, *words: str, **options: object
) -> None:
    with pytest.raises(kind) as error:
        soup(runs, out=tmp_path / "new", **options)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
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
def test_one_run_needs_a_start(copied, tmp_path, old, new, words):
    refused(UsageError, [rewritten(copied, "recipe.yaml", old, new)], tmp_path, *words)


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
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
def test_several_runs_need_common_ground(world, copied, tmp_path, name, old, new, words):
    refused(
        UsageError, [world.first, rewritten(copied, name, old, new)], tmp_path, str(copied), *words
    )


def test_a_picture_of_other_bytes_is_another_picture(world, copied, tmp_path):
    with (copied / "splits.csv").open(encoding="utf-8") as file:
        digest = next(csv.DictReader(file))["sha256"]
    refused(
        UsageError,
        [world.first, rewritten(copied, "splits.csv", digest, "0" * 64)],
        tmp_path,
        "is another file",
    )


def test_random_weights_of_another_seed_are_another_beginning(world, copied, tmp_path):
    drawn = rewritten(
        copied, "recipe.yaml", f"weights: {world.root / 'weights.safetensors'}", "weights: none"
    )
    other = rewritten(
        Path(shutil.copytree(drawn, tmp_path / "other")), "recipe.yaml", "seed: 0", "seed: 1"
    )
    refused(
        UsageError,
        [drawn, other],
        tmp_path,
        "the seed of its random weights is 1 there and 0",
        str(other),
    )


def test_tensors_of_another_network(world, copied, tmp_path):
    tensors = weights(copied)
    tensors.pop("head.linear.bias")
    save_file(tensors, copied / "model.safetensors")
    finished_again(copied)
    refused(WeightsError, [world.first, copied], tmp_path, "head.linear.bias", str(copied))


def test_no_validation_images(world, tmp_path):
    run = world.root / "unvalidated"
    data = pictures(world.root / "trained", {"train": 8, "test": 4})
    fit_unevaluated(
        with_settings(world.recipe, {"data.path": str(data), "data.val": 0, "training.epochs": 1}),
        run,
    )
    refused(DataError, [run], tmp_path, "no validation images", "data.val")


def test_taken_unfinished_damaged_and_missing_runs(world, copied, tmp_path):
    with pytest.raises(UsageError, match="already exists"):
        soup([world.first], out=world.second)
    refused(UsageError, [tmp_path / "none"], tmp_path, "no run at this path")
    refused(UsageError, [], tmp_path, "no run was given")
    refused(UsageError, [world.first], tmp_path, "step", steps=0)
    (copied / "classes.json").write_text("[]", encoding="utf-8")
    refused(RunError, [world.first, copied], tmp_path, "damaged")
    (copied / "finished.json").unlink()
    refused(RunError, [copied], tmp_path, "not finished")


def test_other_weights_than_those_of_then(world, copied, tmp_path):
    refused(
        RunError,
        [rewritten(copied, "finished.json", '"origin": "file', '"origin": "hub')],
        tmp_path,
        "differ from those",
    )


def test_shifted_data_of_no_known_class(world, tmp_path):
    strange = pictures(tmp_path / "strange", {"": 2}, classes=("waves", "dots"))
    refused(
        DataError,
        [world.first],
        tmp_path,
        "none of the images has a class of the run",
        shift=strange,
    )
