"""audit: planted problems, learning curves, and unchanged user files."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

import foveate
from conftest import make_stripes_folder
from foveate.api.audit.core import AuditResult
from foveate.api.audit.label_errors import (
    Forecast,
    _fit_power_law,
    _power_law,
    are_learnable,
    extrapolate_accuracy,
    find_label_issues,
    find_redundant,
    out_of_fold_probabilities,
    rank_by_margin,
    select_for_labeling,
)
from foveate.cli import main as cli
from foveate.errors import DataError, UsageError
from helpers import without_evaluation

QUICK = {
    "backbone": "test_efficientnet",
    "weights": "none",
    "size": 32,
    "tuning": "probe",
    "device": "cpu",
}


def clusters(count: int, seed: int = 0, classes: int = 4, apart: float = 3.0):
    """Make features in one cluster per class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return (apart * np.eye(classes, 12)[labels] + rng.normal(size=(count, 12))).astype(
        np.float32
    ), labels


# --- scores and rankings


def test_t32_planted_label_errors_come_first():
    """Of 5 % wrong labels, four of five are in the first tenth of the list."""
    features, true = clusters(600)
    rng = np.random.default_rng(1)
    wrong = rng.permutation(600)[:30]
    labels = true.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, 4, 30)) % 4
    probabilities, _ = out_of_fold_probabilities(
        features, labels, [str(index) for index in range(600)], 4, 0
    )
    issues = find_label_issues(probabilities, labels)
    assert len(issues) >= 60
    first = {issue.index for issue in issues[:60]}
    assert len(first & set(wrong.tolist())) >= 24
    hits = [issue for issue in issues if issue.index in set(wrong.tolist())]
    assert np.mean([issue.suggested == true[issue.index] for issue in hits]) > 0.8
    assert all(issue.strong for issue in issues[:15])
    assert len(set(rank_by_margin(probabilities, labels)[:60].tolist()) & set(wrong.tolist())) >= 24


def test_t62_labels_that_nobody_can_learn_are_not_called_wrong():
    """Of 10 sets of random labels at most two seem learnable, of 10 weak ones at least 8."""
    learnable = {"random": 0, "weak": 0}
    for seed in range(10):
        features, true = clusters(200, seed, 2, apart=1.0)
        labels = {"random": np.random.default_rng(seed + 99).permutation(true), "weak": true}
        for name, each in labels.items():
            groups = [str(index) for index in range(200)]
            probabilities, _ = out_of_fold_probabilities(features, each, groups, 2, seed)
            learnable[name] += are_learnable(probabilities, each)
    assert learnable["random"] <= 2
    assert learnable["weak"] >= 8


def test_an_audit_of_random_labels_says_so(tmp_path):
    result = AuditResult(tmp_path, 200, [], 0, 0, Forecast([], 1, None, None), [], learnable=False)
    assert "cannot be told from the images" in result.lines()[0]
    assert not result.numbers()["learnable"]


def test_confident_learning_by_hand():
    """The threshold of a class is the mean probability of its own images: 0.8 and 0.6 here."""
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    labels = np.array([0, 0, 1, 1])
    issues = find_label_issues(probabilities, labels, share=0.5)
    assert [(issue.index, issue.suggested, issue.strong) for issue in issues] == [
        (3, 0, False),
        (1, 1, False),
    ]
    probabilities[3] = [0.85, 0.15]
    (first, *_) = find_label_issues(probabilities, labels, share=0.25)
    assert (first.index, first.suggested, first.strong) == (3, 0, True)
    assert (first.label_probability, first.suggested_probability) == pytest.approx((0.15, 0.85))


def test_power_laws_are_recovered():
    sizes = np.array([100.0, 200, 300, 400])
    curve = _fit_power_law(sizes, 0.9 - 2.0 * sizes**-0.5)
    assert _power_law(curve, 600) == pytest.approx(0.9 - 2.0 * 600**-0.5, abs=2e-3)


def test_a_forecast_holds_on_further_images():
    """The accuracy on twice as many images is extrapolated from half of them."""
    features, labels = clusters(1600, seed=2, apart=1.6)
    groups = [str(index) for index in range(1600)]
    forecast = extrapolate_accuracy(features[:800], labels[:800], groups[:800], 4, 0.01, 640, 0)
    actual = extrapolate_accuracy(features, labels, groups, 4, 0.01, 1, 0)
    assert isinstance(forecast, Forecast)
    assert [count for count, _ in forecast.points] == [160, 320, 480, 640]
    assert forecast.score.value == pytest.approx(actual.points[-1][1].value, abs=0.03)
    assert forecast.score.low <= forecast.score.value <= forecast.score.high


def test_too_few_images_give_no_forecast():
    features, labels = clusters(12)
    assert (
        extrapolate_accuracy(
            features, labels, [str(index) for index in range(12)], 4, 0.01, 100, 0
        ).score
        is None
    )
    features, labels = clusters(24)
    score = extrapolate_accuracy(
        features, labels, [str(index) for index in range(24)], 4, 0.01, 100, 0
    ).score
    assert score is None or score.high - score.low > 0.2


def test_copies_are_redundant_once():
    features, _ = clusters(20)
    with_copies = np.concatenate([features, features[3:4], features[3:4] * 2])
    pairs = find_redundant(with_copies, 0.999)
    assert {second for _, second, _ in pairs} == {20, 21}
    assert all(value > 0.999 for *_, value in pairs)


def test_uncertain_and_diverse_images_are_labeled_next():
    probabilities = np.array([[0.99, 0.01], [0.5, 0.5], [0.52, 0.48], [0.98, 0.02], [0.55, 0.45]])
    features = np.array([[1.0, 0], [1, 0.01], [1, 0.0], [0, 1], [0, 1.0]])
    assert select_for_labeling(probabilities, features, 2)[0] == 1
    assert set(select_for_labeling(probabilities, features, 5)) == set(range(5))


# --- the command


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Stripes with four wrong labels and one image that occurs twice."""
    root = make_stripes_folder(tmp_path_factory.mktemp("faulty") / "data", per_class=60)
    source_class, other_class = sorted(child for child in root.iterdir() if child.is_dir())
    mislabeled = []
    for index, file in enumerate(sorted(source_class.iterdir())[:4]):
        target = other_class / f"moved-{index}{file.suffix}"
        file.rename(target)
        mislabeled.append(f"{other_class.name}/{target.name}")
    shutil.copyfile(
        sorted(other_class.iterdir())[0],
        other_class / f"copy{sorted(other_class.iterdir())[0].suffix}",
    )
    return root, mislabeled


def assert_tasks_are_those_of_the_tables(folder: Path, rows: list[dict], to_label: list[str]):
    review = json.loads((folder / "review" / "tasks.json").read_text())
    following = json.loads((folder / "next" / "tasks.json").read_text())
    for row, task in zip(rows, review, strict=True):
        (prediction,) = task["predictions"]
        assert unquote(task["data"]["image"]).endswith(f"/{row['path']}")
        assert task["data"]["label"] == row["label"]
        assert prediction["result"][0]["value"] == {"choices": [row["suggested"]]}
        score = float(row["suggested_probability"])
        assert (prediction["model_version"], prediction["score"]) == (
            "run",
            pytest.approx(score, abs=1e-4),
        )
    names = [unquote(task["data"]["image"]).rpartition("/")[2] for task in following]
    assert names == [Path(key).name for key in to_label]
    assert '<Header value="$label" />' in (folder / "review" / "label_config.xml").read_text()
    assert "Header" not in (folder / "next" / "label_config.xml").read_text()


def test_an_audit_finds_planted_problems(faulty, tmp_path, capsys):
    root, mislabeled = faulty
    before = {file: file.read_bytes() for file in root.rglob("*.*")}
    with without_evaluation():
        run = foveate.fit(
            root,
            out=tmp_path / "run",
            settings={"data.near_duplicates": 1, "data.leakage_audit": False},
            **QUICK,
        ).run
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for index in range(3):
        Image.fromarray(
            np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        ).save(inbox / f"{index}.png")
    (inbox / "broken.png").write_bytes(b"nothing")
    assert (
        cli._run(
            [
                "audit",
                str(run),
                "--unlabeled",
                str(inbox),
                "--format",
                "labelstudio",
                "--out",
                str(tmp_path / "audit"),
                "--json",
            ]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    first = [row["path"] for row in result["label_issues"][:6]]
    assert len(set(first) & set(mislabeled)) >= 3
    assert result["redundant"] >= 1
    assert len(result["next"]) == 3
    assert result["forecast"]["points"][-1]["images"] == round(0.8 * result["images"])
    with (tmp_path / "audit" / "label_issues.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [row["path"] for row in result["label_issues"]]
    assert (tmp_path / "audit" / "label_issues.png").is_file()
    assert_tasks_are_those_of_the_tables(tmp_path / "audit", rows, result["next"])
    assert {file: file.read_bytes() for file in root.rglob("*.*")} == before
    with pytest.raises(UsageError, match="already exists"):
        foveate.audit(run, out=tmp_path / "audit")
    with pytest.raises(UsageError, match="did you mean 'labelstudio'"):
        foveate.audit(run, out=tmp_path / "other", format="labelstudi")


def test_an_audit_of_other_data_needs_the_same_label_type(faulty, stripes, tmp_path):
    root, _ = faulty
    with without_evaluation():
        run = foveate.fit(stripes, out=tmp_path / "run", **QUICK).run
    assert foveate.audit(run, root, out=tmp_path / "audit").count == 121
    table = tmp_path / "captions.jsonl"
    table.write_text(
        "\n".join(
            json.dumps({"path": str(file), "text": "stripes"}) for file in sorted(root.rglob("*.*"))
        )
    )
    with pytest.raises(DataError, match="single-label"):
        foveate.audit(run, table, allow_outside=True)
    few = tmp_path / "few"
    for name in ("a", "b"):
        (few / name).mkdir(parents=True)
        for index, file in enumerate(sorted(Path(root).rglob("*.*"))[:3]):
            shutil.copyfile(file, few / name / f"{index}{file.suffix}")
    with pytest.raises(UsageError, match="too few"):
        foveate.audit(run, few)
