"""Questions to the data: planted faults must be found, curves must be those of the formula, and nothing of the user's may change."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foveate
from conftest import stripes_folder
from foveate.api.audit.label_errors import (
    Forecast,
    _fit_power_law,
    _power_law,
    extrapolate_accuracy,
    find_label_issues,
    find_redundant,
    out_of_fold_probabilities,
    rank_by_margin,
    select_for_labeling,
)
from foveate.cli import main as cli
from foveate.errors import DataError, UsageError
from helpers import evaluation_left_out

QUICK = {
    "backbone": "test_efficientnet",
    "weights": "none",
    "size": 32,
    "tuning": "probe",
    "device": "cpu",
}


def clouds(count: int, seed: int = 0, classes: int = 4, apart: float = 3.0):
    """Features in clouds, one for each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return (apart * np.eye(classes, 12)[labels] + rng.normal(size=(count, 12))).astype(
        np.float32
    ), labels


# --- the arithmetic


def test_t32_planted_labels_come_first():
    """Five in a hundred labels are wrong: four of five of them are in the first tenth."""
    features, true = clouds(600)
    rng = np.random.default_rng(1)
    wrong = rng.permutation(600)[:30]
    labels = true.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, 4, 30)) % 4
    chances, _ = out_of_fold_probabilities(
        features, labels, [str(place) for place in range(600)], 4, 0
    )
    found = find_label_issues(chances, labels)
    assert len(found) >= 60
    first = {doubt.index for doubt in found[:60]}
    assert len(first & set(wrong.tolist())) >= 24
    right = [doubt for doubt in found if doubt.index in set(wrong.tolist())]
    assert np.mean([doubt.suggested == true[doubt.index] for doubt in right]) > 0.8
    assert all(doubt.strong for doubt in found[:15])
    assert len(set(rank_by_margin(chances, labels)[:60].tolist()) & set(wrong.tolist())) >= 24


def test_confident_learning_by_hand():
    """The limit of a class is the mean chance of its own images: 0.8 and 0.6 here."""
    chances = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    labels = np.array([0, 0, 1, 1])
    found = find_label_issues(chances, labels, share=0.5)
    assert [(doubt.index, doubt.suggested, doubt.strong) for doubt in found] == [
        (3, 0, False),
        (1, 1, False),
    ]
    chances[3] = [0.85, 0.15]
    (first, *_) = find_label_issues(chances, labels, share=0.25)
    assert (first.index, first.suggested, first.strong) == (3, 0, True)
    assert (first.label_probability, first.suggested_probability) == pytest.approx((0.15, 0.85))


def test_power_laws_are_found_again():
    sizes = np.array([100.0, 200, 300, 400])
    curve = _fit_power_law(sizes, 0.9 - 2.0 * sizes**-0.5)
    assert _power_law(curve, 600) == pytest.approx(0.9 - 2.0 * 600**-0.5, abs=2e-3)


def test_a_forecast_holds_on_what_comes():
    """Accuracy at twice the images, foretold from half of them."""
    features, labels = clouds(1600, seed=2, apart=1.6)
    groups = [str(place) for place in range(1600)]
    found = extrapolate_accuracy(features[:800], labels[:800], groups[:800], 4, 0.01, 640, 0)
    later = extrapolate_accuracy(features, labels, groups, 4, 0.01, 1, 0)
    assert isinstance(found, Forecast)
    assert [count for count, _ in found.points] == [160, 320, 480, 640]
    assert found.score.value == pytest.approx(later.points[-1][1].value, abs=0.03)
    assert found.score.low <= found.score.value <= found.score.high


def test_too_few_images_foretell_nothing():
    features, labels = clouds(12)
    assert (
        extrapolate_accuracy(
            features, labels, [str(place) for place in range(12)], 4, 0.01, 100, 0
        ).score
        is None
    )
    features, labels = clouds(24)
    wide = extrapolate_accuracy(
        features, labels, [str(place) for place in range(24)], 4, 0.01, 100, 0
    ).score
    assert wide is None or wide.high - wide.low > 0.2


def test_copies_are_redundant_once():
    features, _ = clouds(20)
    twice = np.concatenate([features, features[3:4], features[3:4] * 2])
    found = find_redundant(twice, 0.999)
    assert {second for _, second, _ in found} == {20, 21}
    assert all(value > 0.999 for *_, value in found)


def test_what_is_unsure_and_unlike_is_labelled_next():
    chances = np.array([[0.99, 0.01], [0.5, 0.5], [0.52, 0.48], [0.98, 0.02], [0.55, 0.45]])
    features = np.array([[1.0, 0], [1, 0.01], [1, 0.0], [0, 1], [0, 1.0]])
    assert select_for_labeling(chances, features, 2)[0] == 1
    assert set(select_for_labeling(chances, features, 5)) == set(range(5))


# --- the command


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Stripes with four labels exchanged and a picture that is there twice."""
    root = stripes_folder(tmp_path_factory.mktemp("faulty") / "data", each=60)
    one, other = sorted(child for child in root.iterdir() if child.is_dir())
    moved = []
    for place, file in enumerate(sorted(one.iterdir())[:4]):
        target = other / f"moved-{place}{file.suffix}"
        file.rename(target)
        moved.append(f"{other.name}/{target.name}")
    shutil.copyfile(sorted(other.iterdir())[0], other / f"copy{sorted(other.iterdir())[0].suffix}")
    return root, moved


def test_an_audit_finds_what_was_planted(faulty, tmp_path, capsys):
    root, moved = faulty
    before = {file: file.read_bytes() for file in root.rglob("*.*")}
    with evaluation_left_out():
        run = foveate.fit(
            root,
            out=tmp_path / "run",
            settings={"data.near_duplicates": 1, "data.leakage_audit": False},
            **QUICK,
        ).run
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for place in range(3):
        Image.fromarray(
            np.random.default_rng(place).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        ).save(inbox / f"{place}.png")
    (inbox / "broken.png").write_bytes(b"nothing")
    assert (
        cli._run(
            [
                "audit",
                str(run),
                "--unlabeled",
                str(inbox),
                "--out",
                str(tmp_path / "audit"),
                "--json",
            ]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    first = [row["path"] for row in told["doubted"][:6]]
    assert len(set(first) & set(moved)) >= 3
    assert told["redundant"] >= 1
    assert len(told["next"]) == 3
    assert told["forecast"]["points"][-1]["images"] == round(0.8 * told["images"])
    with (tmp_path / "audit" / "fixes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [row["path"] for row in told["doubted"]]
    assert (tmp_path / "audit" / "doubts.png").is_file()
    assert {file: file.read_bytes() for file in root.rglob("*.*")} == before
    with pytest.raises(UsageError, match="already exists"):
        foveate.audit(run, out=tmp_path / "audit")


def test_other_data_can_be_asked_about_and_other_questions_not(faulty, stripes, tmp_path):
    root, _ = faulty
    with evaluation_left_out():
        run = foveate.fit(stripes, out=tmp_path / "run", **QUICK).run
    assert foveate.audit(run, root, out=tmp_path / "audit").count == 121
    table = tmp_path / "captions.jsonl"
    table.write_text(
        "\n".join(
            json.dumps({"path": str(file), "text": "stripes"}) for file in sorted(root.rglob("*.*"))
        )
    )
    with pytest.raises(DataError, match="single-label"):
        foveate.audit(run, table)
    few = tmp_path / "few"
    for name in ("a", "b"):
        (few / name).mkdir(parents=True)
        for place, file in enumerate(sorted(Path(root).rglob("*.*"))[:3]):
            shutil.copyfile(file, few / name / f"{place}{file.suffix}")
    with pytest.raises(UsageError, match="too few"):
        foveate.audit(run, few)
