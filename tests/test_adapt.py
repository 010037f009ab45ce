"""adapt: what a finished network wins back on images from elsewhere, without a label of them."""

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
from conftest import striped
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


def dim(root: Path, count: int, seed: int) -> Path:
    """The same question by another camera: darker, and faint."""
    rng = np.random.default_rng(seed)
    for name in ("lying", "upright"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            faint = 60 + 0.15 * (striped(rng, name == "upright") - 128.0)
            Image.fromarray(faint.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> Path:
    """Pictures to adapt to, in one folder."""
    labelled = dim(tmp_path_factory.mktemp("data") / "labelled", 50, seed=5)
    folder = tmp_path_factory.mktemp("data") / "unlabelled"
    folder.mkdir()
    for place, path in enumerate(sorted(labelled.rglob("*.png"))):
        shutil.copy(path, folder / f"{place}.png")
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    """Other pictures from there, with their classes."""
    return dim(tmp_path_factory.mktemp("data") / "asked", 40, seed=6)


@pytest.fixture(scope="module")
def run(quick, tmp_path_factory) -> Path:
    words = {"training.epochs": 12, "training.lr": 3e-3, "training.batch_norm": "learn"}
    return fit_unevaluated(with_settings(quick, words), tmp_path_factory.mktemp("runs") / "run").run


@pytest.mark.parametrize("how", ["adabn", "tent"])
def test_what_was_lost_elsewhere_is_won_back(run, unlabelled, asked, tmp_path, how):
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    found = foveate.adapt(run, unlabelled, method=how, out=tmp_path / "adapted")
    assert isinstance(found, AdaptResult)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
    home, lost, won = (
        foveate.evaluate(*words).numbers()["accuracy"]
        for words in ((run, None), (run, asked), (found.run, asked))
    )
    assert home > 0.9
    assert lost < 0.75
    assert won - lost > (home - lost) / 2
    assert sum(int(row[2]) for row in found.rows) == found.images == 100
    assert found.changed > 10
    again = foveate.predict(found.run, asked)
    assert np.mean([answer.prediction.names[0] in answer.path for answer in again]) == won
    assert f"{how}, to 100 unlabeled images" in (
        found.run / "evaluations/asked/report.html"
    ).read_text(encoding="utf-8")


def test_what_was_adapted_to_is_told_when_it_is_scored(run, asked, tmp_path):
    found = foveate.adapt(run, asked, out=tmp_path / "adapted")
    cautions = foveate.evaluate(found.run, asked).cautions
    assert "the run was adapted to 80 of these 80 images, without labels" in map(str, cautions)


def test_only_normalisations_move(run, unlabelled, tmp_path):
    for how, parts in {
        "adabn": {"running_mean", "running_var"},
        "tent": {"running_mean", "running_var", "weight", "bias"},
    }.items():
        found = foveate.adapt(run, unlabelled, method=how, out=tmp_path / how)
        moved = read_tensors(found.run / "adapted.safetensors", verbatim=True)
        assert {name.rpartition(".")[2] for name in moved} == parts
        network = load_predictor(run).model
        norms = {
            name for name, module in network.named_modules() if hasattr(module, "running_mean")
        }
        assert {name.rpartition(".")[0] for name in moved} <= norms


def test_home_images_change_nothing(run, stripes):
    """The statistics of home in the place of those of home; `unlike` ones that the pretraining left stay unlike."""
    predictor = load_predictor(run, "cpu")
    table = read_run_table(Run.open(run))
    samples = table.in_split("train")
    pixels = scan_with_progress(table, predictor.model, predictor.recipe.data).cache
    pictures = predictor.dataset(samples, pixels)
    batch = [
        each.normalized()
        for each in make_loader(pictures, BatchSampler(len(pictures), len(pictures)))
    ]
    before = {name: tensor.clone() for name, tensor in predictor.model.state_dict().items()}
    home = measure_moments(predictor.model, batch)
    align(predictor.model, home, measure_moments(predictor.model, batch, like=home), 1.0)
    after = predictor.model.state_dict()
    moved = max(
        float((after[name] - before[name]).abs().max())
        for name in before
        if name.endswith("running_mean")
    )
    assert moved < 1e-4


def test_learnt_statistics_become_those_of_the_new_images():
    """AdaBN as the paper has it: mean and variance of the images away; by hand."""
    torch.manual_seed(0)
    network = _Norms()
    home, away = torch.randn(64, 3, 5, 5), 3 + 2 * torch.randn(64, 3, 5, 5)
    with torch.no_grad():
        network.first.running_mean.copy_(home.mean((0, 2, 3)))
        network.first.running_var.copy_(home.var((0, 2, 3), correction=0))
    at_home = measure_moments(network, [home])
    align(network, at_home, measure_moments(network, [away], like=at_home), 1.0)
    assert torch.allclose(network.first.running_mean, away.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(network.first.running_var, away.var((0, 2, 3), correction=0), rtol=1e-4)


def test_kept_statistics_keep_their_distance():
    """Statistics of a pretraining, unlike home: images away come out of every layer with the moments that those at home had."""
    torch.manual_seed(1)
    network = _Norms()
    with torch.no_grad():
        for norm in (network.first, network.second):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 3)
    home, away = torch.randn(256, 3, 5, 5), 3 - 2 * torch.randn(256, 3, 5, 5)
    wanted = network(home)
    at_home = measure_moments(network, home.split(64))
    align(network, at_home, measure_moments(network, away.split(64), like=at_home), 1.0)
    found = network(away)
    assert torch.allclose(found.mean((0, 2, 3)), wanted.mean((0, 2, 3)), atol=0.02)
    assert torch.allclose(found.std((0, 2, 3)), wanted.std((0, 2, 3)), rtol=0.02)


class _Norms(nn.Module):
    """Two normalisations with a layer between them that is not linear."""

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


def test_few_images_say_little(run, unlabelled, tmp_path):
    """n images count n / (n + prior)."""
    few = sorted(unlabelled.iterdir())[:4]
    whole, half = (
        read_tensors(
            foveate.adapt(run, few, out=tmp_path / str(prior), settings={"prior": prior}).run
            / "adapted.safetensors",
            verbatim=True,
        )
        for prior in (0, 4)
    )
    start = load_predictor(run, "cpu").model.state_dict()
    for name, tensor in whole.items():
        between = (
            (tensor + start[name]) / 2 if name.endswith("mean") else (tensor * start[name]).sqrt()
        )
        assert torch.allclose(half[name], between, atol=2e-3, rtol=2e-2), name


def test_entropy_is_that_of_scipy():
    from scipy.stats import entropy as reference

    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 3
    assert np.allclose(
        entropy(logits).numpy(), reference(logits.softmax(1).numpy(), axis=1), atol=1e-6
    )


@pytest.fixture
def transformer(quick, tmp_path) -> Path:
    words = {"backbone.name": "test_vit", "backbone.size": 32, "training.epochs": 1}
    return fit_unevaluated(with_settings(quick, words), tmp_path / "transformer").run


def test_a_transformer_has_no_statistics_but_becomes_surer(transformer, unlabelled, tmp_path):
    with pytest.raises(UsageError, match="no running statistics") as error:
        foveate.adapt(transformer, unlabelled, out=tmp_path / "adapted")
    assert error.value.hint == "--method tent"
    assert not (tmp_path / "adapted").exists()
    found = foveate.adapt(
        transformer, unlabelled, method="tent", out=tmp_path / "adapted", settings={"lr": 1e-3}
    )
    assert found.after.entropy < found.before.entropy


def test_the_words_on_the_screen(run, unlabelled, tmp_path, capsys):
    (unlabelled.parent / "torn").mkdir(exist_ok=True)
    torn = unlabelled.parent / "torn" / "torn.png"
    torn.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    paths = [str(path) for path in sorted(unlabelled.iterdir())[:20]]
    assert (
        cli._run(
            [
                "adapt",
                str(run),
                *paths,
                str(torn),
                "--out",
                str(tmp_path / "new"),
                "--set",
                "prior=4",
                "--json",
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    told = json.loads(printed.out.splitlines()[-1])
    assert (told["images"], told["skipped"], told["how"]) == (20, 1, "adabn")
    assert told["home_before"]["count"] == told["home_after"]["count"] > 0
    for sentence in (
        "skipped",
        "of 20 answers changed",
        "20 images are few",
        "no label was seen",
        "next: label some of these images",
    ):
        assert sentence in printed.err, sentence
    assert json.loads((tmp_path / "new/adapted.json").read_text())["settings"] == {"prior": 4}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "adabm"], "no adaptation is called 'adabm' try: did you mean 'adabn'?"),
        (["--set", "prio=3"], "prio"),
        (["--set", "prior=-1"], "greater than or equal to 0"),
        (["--method", "tent", "--set", "epochs=0"], "greater than or equal to 1"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_read(
    unlabelled, tmp_path, words, sentence, capsys
):
    assert cli._run(["adapt", str(tmp_path / "none"), str(unlabelled), *words]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_adapted_is_refused(run, unlabelled, stripes, quick, tmp_path):
    with pytest.raises(FoveateError, match="the path does not exist"):
        foveate.adapt(run, tmp_path / "nowhere")
    with pytest.raises(FoveateError, match="already exists"):
        foveate.adapt(run, unlabelled, out=run)
    adapted = foveate.adapt(run, unlabelled, out=tmp_path / "adapted").run
    for go_on in (
        lambda: foveate.adapt(adapted, unlabelled, out=tmp_path / "twice"),
        lambda: foveate.continue_(adapted, stripes, out=tmp_path / "twice"),
        lambda: foveate.soup(adapted, out=tmp_path / "twice"),
        lambda: fit_unevaluated(
            with_settings(quick, {"start.run": str(adapted)}), tmp_path / "twice"
        ),
    ):
        with pytest.raises(UsageError, match="this run cannot be continued") as error:
            go_on()
        assert str(run.resolve()) in error.value.hint
        assert not (tmp_path / "twice").exists()
    (adapted / "adapted.safetensors").write_bytes(b"other bytes")
    with pytest.raises(FoveateError, match="damaged"):
        foveate.load(adapted)


def test_several_classes_an_image_cannot_be_made_surer(quick, stripes, unlabelled, tmp_path):
    rows = [f"{path}\t{path.parent.name}" for path in sorted(stripes.rglob("*.png"))]
    (tmp_path / "table.tsv").write_text(
        "\n".join(["path\tlabel", *rows, f"{rows[0].split(chr(9))[0]}\t"]), encoding="utf-8"
    )
    recipe = with_settings(
        quick,
        {
            "data.path": str(tmp_path / "table.tsv"),
            "task.name": "classify",
            "task.multilabel": True,
        },
    )
    run = fit_unevaluated(recipe, tmp_path / "several").run
    with pytest.raises(UsageError, match="one class an image"):
        foveate.adapt(run, unlabelled, method="tent")
    assert foveate.adapt(run, unlabelled, out=tmp_path / "adapted").before.entropy is None
