"""adapt: test-time adaptation of a finished run to unlabeled images of another domain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import foveate
from conftest import stripe_image
from foveate.api.adapt.core import AdaptResult
from foveate.cli import main as cli
from foveate.data.loading import BatchSampler, make_loader
from foveate.errors import FoveateError, UsageError
from foveate.inference.engine import scan_with_progress
from foveate.inference.predictor import load_predictor
from foveate.modeling.weights import read_tensors
from foveate.recipe import with_settings
from foveate.run.folder import Run
from foveate.run.lineage import read_run_table
from foveate.training.test_time._statistics import align, measure_moments
from foveate.training.test_time.tent import entropy
from helpers import fit_unevaluated


def make_dark_stripes(root: Path, count: int, seed: int) -> Path:
    """Make stripes of a shifted domain: darker, with low contrast."""
    rng = np.random.default_rng(seed)
    for name in ("lying", "upright"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            faint = 60 + 0.15 * (stripe_image(rng, name == "upright") - 128.0)
            Image.fromarray(faint.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory) -> Path:
    """Images of the shifted domain in one folder, to adapt to."""
    labeled = make_dark_stripes(tmp_path_factory.mktemp("data") / "labeled", 50, seed=5)
    folder = tmp_path_factory.mktemp("data") / "unlabeled"
    folder.mkdir()
    for index, path in enumerate(sorted(labeled.rglob("*.png"))):
        shutil.copy(path, folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def shifted(tmp_path_factory) -> Path:
    """Other images of the shifted domain, with labels."""
    return make_dark_stripes(tmp_path_factory.mktemp("data") / "shifted", 40, seed=6)


@pytest.fixture(scope="module")
def run(quick, tmp_path_factory) -> Path:
    settings = {"training.epochs": 12, "training.lr": 3e-3, "training.batch_norm": "learn"}
    return fit_unevaluated(
        with_settings(quick, settings), tmp_path_factory.mktemp("runs") / "run"
    ).run


@pytest.mark.parametrize("method", ["adabn", "tent"])
def test_adaptation_recovers_accuracy_on_a_shifted_domain(
    run, unlabeled, shifted, tmp_path, method
):
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = foveate.adapt(run, unlabeled, method=method, out=tmp_path / "adapted")
    assert isinstance(result, AdaptResult)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
    source_accuracy, shifted_accuracy, adapted_accuracy = (
        foveate.evaluate(*arguments).numbers()["accuracy"]
        for arguments in ((run, None), (run, shifted), (result.run, shifted))
    )
    assert source_accuracy > 0.9
    assert shifted_accuracy < 0.75
    assert adapted_accuracy - shifted_accuracy > (source_accuracy - shifted_accuracy) / 2
    assert sum(int(row[2]) for row in result.rows) == result.images == 100
    assert result.changed > 10
    predictions = foveate.predict(result.run, shifted)
    assert (
        np.mean([prediction.prediction.names[0] in prediction.path for prediction in predictions])
        == adapted_accuracy
    )
    assert f"{method}, to 100 unlabeled images" in (
        result.run / "evaluations/shifted/report.html"
    ).read_text(encoding="utf-8")


def test_evaluating_on_the_adaptation_images_is_reported(run, shifted, tmp_path):
    result = foveate.adapt(run, shifted, out=tmp_path / "adapted")
    cautions = foveate.evaluate(result.run, shifted).cautions
    assert "the run was adapted to 80 of these 80 images, without labels" in map(str, cautions)


def test_only_normalization_layers_are_trained(run, unlabeled, tmp_path):
    for method, parts in {
        "adabn": {"running_mean", "running_var"},
        "tent": {"running_mean", "running_var", "weight", "bias"},
    }.items():
        result = foveate.adapt(run, unlabeled, method=method, out=tmp_path / method)
        adapted = read_tensors(result.run / "adapted.safetensors", verbatim=True)
        assert {name.rpartition(".")[2] for name in adapted} == parts
        network = load_predictor(run).model
        norms = {
            name for name, module in network.named_modules() if hasattr(module, "running_mean")
        }
        assert {name.rpartition(".")[0] for name in adapted} <= norms


def test_source_images_change_nothing(run, stripes):
    """Replacing the source statistics by themselves changes nothing."""
    predictor = load_predictor(run, "cpu")
    table = read_run_table(Run.open(run))
    samples = table.in_split("train")
    pixels = scan_with_progress(table, predictor.model, predictor.recipe.data).cache
    dataset = predictor.dataset(samples, pixels)
    batches = [
        batch.normalized()
        for batch in make_loader(dataset, BatchSampler(len(dataset), len(dataset)))
    ]
    before = {name: tensor.clone() for name, tensor in predictor.model.state_dict().items()}
    source = measure_moments(predictor.model, batches)
    align(predictor.model, source, measure_moments(predictor.model, batches, like=source), 1.0)
    after = predictor.model.state_dict()
    change = max(
        float((after[name] - before[name]).abs().max())
        for name in before
        if name.endswith("running_mean")
    )
    assert change < 1e-4


def test_running_statistics_become_those_of_the_target_domain():
    """AdaBN as in the paper: mean and variance of the target images, computed by hand."""
    torch.manual_seed(0)
    network = TwoNorms()
    source, target = torch.randn(64, 3, 5, 5), 3 + 2 * torch.randn(64, 3, 5, 5)
    with torch.no_grad():
        network.first.running_mean.copy_(source.mean((0, 2, 3)))
        network.first.running_var.copy_(source.var((0, 2, 3), correction=0))
    source_moments = measure_moments(network, [source])
    align(network, source_moments, measure_moments(network, [target], like=source_moments), 1.0)
    assert torch.allclose(network.first.running_mean, target.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(network.first.running_var, target.var((0, 2, 3), correction=0), rtol=1e-4)


def test_frozen_statistics_keep_their_offset():
    """With frozen statistics, the outputs of target images get the moments of source images."""
    torch.manual_seed(1)
    network = TwoNorms()
    with torch.no_grad():
        for norm in (network.first, network.second):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 3)
    source, target = torch.randn(256, 3, 5, 5), 3 - 2 * torch.randn(256, 3, 5, 5)
    expected = network(source)
    source_moments = measure_moments(network, source.split(64))
    align(
        network,
        source_moments,
        measure_moments(network, target.split(64), like=source_moments),
        1.0,
    )
    actual = network(target)
    assert torch.allclose(actual.mean((0, 2, 3)), expected.mean((0, 2, 3)), atol=0.02)
    assert torch.allclose(actual.std((0, 2, 3)), expected.std((0, 2, 3)), rtol=0.02)


class TwoNorms(nn.Module):
    """Two normalization layers with a nonlinear layer between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.second = (
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 4, 1),
            nn.BatchNorm2d(4),
        )
        self.requires_grad_(False).eval()

    def forward(self, images):
        return self.second(self.middle(self.first(images)).relu())


def test_few_images_move_the_statistics_little(run, unlabeled, tmp_path):
    """n images have the weight n / (n + prior)."""
    few = sorted(unlabeled.iterdir())[:4]
    full, half = (
        read_tensors(
            foveate.adapt(run, few, out=tmp_path / str(prior), settings={"prior": prior}).run
            / "adapted.safetensors",
            verbatim=True,
        )
        for prior in (0, 4)
    )
    start = load_predictor(run, "cpu").model.state_dict()
    for name, tensor in full.items():
        expected = (
            (tensor + start[name]) / 2 if name.endswith("mean") else (tensor * start[name]).sqrt()
        )
        assert torch.allclose(half[name], expected, atol=2e-3, rtol=2e-2), name


def test_entropy_equals_scipy():
    from scipy.stats import entropy as reference

    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 3
    assert np.allclose(
        entropy(logits).numpy(), reference(logits.softmax(1).numpy(), axis=1), atol=1e-6
    )


@pytest.fixture
def transformer(quick, tmp_path) -> Path:
    settings = {"backbone.name": "test_vit", "backbone.size": 32, "training.epochs": 1}
    return fit_unevaluated(with_settings(quick, settings), tmp_path / "transformer").run


def test_a_transformer_has_no_statistics_but_becomes_more_confident(
    transformer, unlabeled, tmp_path
):
    with pytest.raises(UsageError, match="no running statistics") as error:
        foveate.adapt(transformer, unlabeled, out=tmp_path / "adapted")
    assert error.value.hint == "--method tent"
    assert not (tmp_path / "adapted").exists()
    result = foveate.adapt(
        transformer, unlabeled, method="tent", out=tmp_path / "adapted", settings={"lr": 1e-3}
    )
    assert result.after.entropy < result.before.entropy


def test_the_command_line_output(run, unlabeled, tmp_path, capsys):
    (unlabeled.parent / "torn").mkdir(exist_ok=True)
    truncated = unlabeled.parent / "torn" / "torn.png"
    truncated.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    paths = [str(path) for path in sorted(unlabeled.iterdir())[:20]]
    assert (
        cli._run(
            [
                "adapt",
                str(run),
                *paths,
                str(truncated),
                "--out",
                str(tmp_path / "new"),
                "--set",
                "prior=4",
                "--json",
            ]
        )
        == 0
    )
    output = capsys.readouterr()
    result = json.loads(output.out.splitlines()[-1])
    assert (result["images"], result["skipped"], result["method"]) == (20, 1, "adabn")
    assert result["source_before"]["count"] == result["source_after"]["count"] > 0
    for message in (
        "skipped",
        "of 20 predictions changed",
        "20 images are few",
        "no labels were used",
        "next: label some of these images",
    ):
        assert message in output.err, message
    assert json.loads((tmp_path / "new/adapted.json").read_text())["settings"] == {"prior": 4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "adabm"], "no adaptation is called 'adabm' try: did you mean 'adabn'?"),
        (["--set", "prio=3"], "prio"),
        (["--set", "prior=-1"], "must be at least 0"),
        (["--method", "tent", "--set", "epochs=0"], "must be at least 1"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(
    unlabeled, tmp_path, options, message, capsys
):
    assert cli._run(["adapt", str(tmp_path / "none"), str(unlabeled), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_runs_that_cannot_be_adapted_are_refused(run, unlabeled, stripes, quick, tmp_path):
    with pytest.raises(FoveateError, match="the path does not exist"):
        foveate.adapt(run, tmp_path / "nowhere")
    with pytest.raises(FoveateError, match="already exists"):
        foveate.adapt(run, unlabeled, out=run)
    adapted = foveate.adapt(run, unlabeled, out=tmp_path / "adapted").run
    for continue_run in (
        lambda: foveate.adapt(adapted, unlabeled, out=tmp_path / "twice"),
        lambda: foveate.continue_(adapted, stripes, out=tmp_path / "twice"),
        lambda: foveate.soup(adapted, out=tmp_path / "twice"),
        lambda: fit_unevaluated(
            with_settings(quick, {"start.run": str(adapted)}), tmp_path / "twice"
        ),
    ):
        with pytest.raises(UsageError, match="this run cannot be continued") as error:
            continue_run()
        assert str(run.resolve()) in error.value.hint
        assert not (tmp_path / "twice").exists()
    (adapted / "adapted.safetensors").write_bytes(b"other bytes")
    with pytest.raises(FoveateError, match="damaged"):
        foveate.load(adapted)


def test_tent_refuses_multilabel_runs(quick, stripes, unlabeled, tmp_path):
    rows = [f"{path}\t{path.parent.name}" for path in sorted(stripes.rglob("*.png"))]
    (tmp_path / "table.tsv").write_text(
        "\n".join(["path\tlabel", *rows, f"{rows[0].split(chr(9))[0]}\t"]), encoding="utf-8"
    )
    recipe = with_settings(
        quick,
        {
            "data.path": str(tmp_path / "table.tsv"),
            "data.allow_outside": True,
            "task.name": "classify",
            "task.multilabel": True,
        },
    )
    run = fit_unevaluated(recipe, tmp_path / "several").run
    with pytest.raises(UsageError, match="one class per image"):
        foveate.adapt(run, unlabeled, method="tent")
    assert foveate.adapt(run, unlabeled, out=tmp_path / "adapted").before.entropy is None
