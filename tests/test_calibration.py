"""How sure an answer is: temperatures, sets that cover, doubts, strangers; by hand, by simulation, and through a run."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

import foveate
from conftest import stripes_folder
from foveate.cli import main as cli
from foveate.errors import UsageError
from foveate.evaluation.calibration import (
    Calibration,
    FeatureSpace,
    apply_temperature,
    calibration_error,
    expected_error_if_calibrated,
    fit_temperature,
    reliability_bins,
    risk_coverage_curve,
)
from foveate.inference.predictor import load_predictor
from foveate.run.folder import CALIBRATION_FILE, FEATURE_SPACE_FILE, Run
from helpers import evaluation_left_out

FAMILIAR_ = FeatureSpace(np.zeros(4), np.eye(4)[:2])


def drawn(count: int, seed: int, temperature: float = 1.0, classes: int = 5):
    """Chances that hold, told too sure or too shy by a temperature, and classes drawn from the true ones."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, classes))
    chances = softmax(logits, axis=1)
    truths = np.array([rng.choice(classes, p=row) for row in chances])
    return softmax(logits / temperature, axis=1), truths


def learnt(scores, truths):
    return Calibration.fit(
        scores, truths, np.zeros((len(truths), 4)), FAMILIAR_, fit_temperature(scores, truths)
    )


# --- the arithmetic


def test_the_calibration_error_and_what_chance_makes_of_it():
    assert calibration_error(
        np.array([0.9, 0.9, 0.3, 0.3]), np.array([True, True, False, True])
    ) == pytest.approx(0.15)
    sizes = (100, 10_000)
    drawn_ = [np.random.default_rng(size).uniform(0.2, 1, size) for size in sizes]
    small, large = (expected_error_if_calibrated(each) for each in drawn_)
    assert small > 0.05
    assert large < 0.015
    rng = np.random.default_rng(7)
    errors = [calibration_error(drawn_[0], rng.random(100) < drawn_[0]) for _ in range(300)]
    assert small == pytest.approx(np.mean(errors), abs=0.01)


@pytest.mark.parametrize("wrong", [0.4, 1.0, 2.5])
def test_the_temperature_undoes_what_was_told_wrongly(wrong):
    told, truths = drawn(6000, 0, wrong)
    assert fit_temperature(told, truths) == pytest.approx(1 / wrong, rel=0.08)
    assert apply_temperature(told, 1.0) == pytest.approx(told)
    assert apply_temperature(told, 1 / wrong) == pytest.approx(drawn(6000, 0)[0], abs=1e-6)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_cover_what_was_asked(coverage):
    """Within two points on average over 20 random splits."""
    found = []
    for seed in range(20):
        scores, truths = drawn(1200, seed)
        calibration = learnt(scores[:400], truths[:400])
        among = calibration.prediction_sets(
            apply_temperature(scores[400:], calibration.temperature), coverage
        )
        found.append(among[np.arange(800), truths[400:]].mean())
    assert np.mean(found) == pytest.approx(coverage, abs=0.02)


def test_too_few_images_promise_nothing():
    scores, truths = drawn(5, 0)
    assert learnt(scores, truths).prediction_sets(scores, 0.9).all()
    assert not learnt(*drawn(40, 0)).prediction_sets(scores, 0.9).all()


def test_doubt_by_hand():
    """400 sure answers, all right, and 100 unsure ones, half of them wrong."""
    sure = np.concatenate(
        [
            np.stack([np.linspace(0.99, 0.9, 400), np.ones(400)], 1),
            np.stack([np.linspace(0.5, 0.4, 100), np.arange(100) % 2], 1),
        ]
    )
    calibration = replace(learnt(*drawn(40, 0)), ranked_confidence=sure)
    assert calibration.abstention_threshold(0.012) == pytest.approx(0.9)
    assert calibration.abstention_threshold(0.5) == 0.0
    assert calibration.abstention_threshold(0.001) is None


def test_what_lies_outside():
    assert FAMILIAR_.residual(
        np.array([[3.0, 4, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]])
    ) == pytest.approx([0, 1, 0.5])
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 20)) + 5
    found = FeatureSpace.fit(flat)
    assert found.residual(flat).max() < 1e-9
    assert found.residual(rng.normal(size=(200, 20)) + 5).mean() > 0.5


def test_bins_and_risks_by_hand():
    confidence, right = np.array([0.95, 0.91, 0.33, 0.55]), np.array([True, False, True, True])
    assert reliability_bins(confidence, right) == [
        {"confidence": pytest.approx(0.33), "accuracy": 1.0, "count": 1},
        {"confidence": pytest.approx(0.55), "accuracy": 1.0, "count": 1},
        {"confidence": pytest.approx(0.93), "accuracy": 0.5, "count": 2},
    ]
    share, wrong = risk_coverage_curve(confidence, right)
    assert share.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert wrong == pytest.approx([0, 0.5, 1 / 3, 0.25])


def test_a_calibration_comes_back_from_json():
    first = learnt(*drawn(60, 3))
    again = Calibration.from_row(json.loads(json.dumps(first.row())), FAMILIAR_)
    scores, _ = drawn(50, 4)
    assert again.temperature == first.temperature
    assert (
        again.prediction_sets(scores, 0.9) == first.prediction_sets(scores, 0.9)
    ).mean() > 0.98  # five digits are kept
    assert again.abstention_threshold(0.3) == pytest.approx(
        first.abstention_threshold(0.3), abs=1e-4
    )


# --- through a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = stripes_folder(tmp_path_factory.mktemp("many") / "data", each=120)
    settings = {"data.near_duplicates": 1, "data.leakage_audit": False, "data.val": 0.25}
    words = {
        "backbone": "test_efficientnet",
        "weights": "none",
        "size": 32,
        "tuning": "probe",
        "device": "cpu",
    }
    return foveate.fit(
        data, out=tmp_path_factory.mktemp("runs") / "run", settings=settings, **words
    )


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("strangers"), np.random.default_rng(0)
    for place in range(12):
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[:, : rng.integers(5, 35)] = rng.integers(0, 256, 3)
        Image.fromarray(pixels).save(root / f"{place}.png")
    return root


def test_a_run_knows_how_sure_it_is(run, strangers, capsys):
    assert run.outcome["calibration"]["images"] == 60
    counts = run.outcome[
        "images"
    ]  # the temperature of a probe is also that of training images which it was solved without
    assert run.outcome["calibration"]["left_out"] == counts["train"]
    assert (run.run / FEATURE_SPACE_FILE).is_file()
    assert cli._run(["evaluate", str(run.run), "--ood", str(strangers), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ood"]["auroc"]["value"] > 0.7  # of features that nobody has trained
    assert 0.7 < told["set_coverage"] <= 1
    assert told["set_size"] >= 0.5
    page = (run.run / "evaluations" / "test-2" / "report.html").read_text()
    assert "Calibration" in page
    assert "Detection of out-of-distribution images" in page
    rows = [
        json.loads(line)
        for line in (run.run / "evaluations" / "test-2" / "predictions.jsonl")
        .read_text()
        .splitlines()
    ]
    covered = np.mean([row["truth"][0] in row["set"] for row in rows])
    assert covered == pytest.approx(told["set_coverage"])  # it can be rebuilt
    hits = [max(row["scores"].values()) for row in rows]
    assert all(row["confidence"] == pytest.approx(hit) for row, hit in zip(rows, hits, strict=True))


def test_answers_carry_sets_doubts_and_oddness(run, strangers, tmp_path):
    sure = foveate.predict(run.run, strangers, coverage=0.5, risk=0.9)
    wary = foveate.predict(run.run, strangers, coverage=0.99, risk=0.0001)
    assert np.mean(
        [len(answer.prediction.uncertainty.prediction_set) for answer in sure]
    ) <= np.mean([len(answer.prediction.uncertainty.prediction_set) for answer in wary])
    assert all(answer.prediction.uncertainty.abstain for answer in wary)
    assert not any(answer.prediction.uncertainty.abstain for answer in sure)
    assert np.mean([answer.prediction.uncertainty.ood_percentile for answer in sure]) > 0.7
    assert (
        cli._run(
            [
                "predict",
                str(run.run),
                str(strangers),
                "--format",
                "csv",
                "--out",
                str(tmp_path / "answers.csv"),
            ]
        )
        == 0
    )
    with (tmp_path / "answers.csv").open() as file:
        row = next(csv.DictReader(file))
    assert json.loads(row["set"]) == list(
        foveate.predict(run.run, strangers)[0].prediction.uncertainty.prediction_set
    )
    assert row["abstain"] in ("True", "False")
    for words in ({"coverage": 1.0}, {"risk": 0.0}):
        with pytest.raises(UsageError, match="must lie between 0 and 1"):
            foveate.predict(run.run, strangers, **words)


def test_temperatures_leave_the_answers_alone(run):
    """The same classes with and without, and the chances of the calibrated ones are those of the scaled logits."""
    predictor = load_predictor(run.run, "cpu")
    paths = sorted(Path(Run.open(run.run).recipe().data.path).rglob("*.*"))[:12]
    scaled = [answer.prediction for answer in predictor.predict(paths)]
    temperature = predictor.calibration.temperature
    predictor.calibration = None
    raw = [answer.prediction for answer in predictor.predict(paths)]
    assert [each.names for each in scaled] == [each.names for each in raw]
    assert np.stack([each.scores for each in scaled]) == pytest.approx(
        apply_temperature(np.stack([each.scores for each in raw]).astype(float), temperature),
        abs=1e-5,
    )


def test_few_images_and_other_questions_are_not_calibrated(stripes, tmp_path, strangers):
    words = {
        "backbone": "test_efficientnet",
        "weights": "none",
        "size": 32,
        "tuning": "probe",
        "device": "cpu",
    }
    with evaluation_left_out():
        few = foveate.fit(stripes, out=tmp_path / "few", **words)
    assert few.outcome["calibration"] is None
    assert not (few.run / CALIBRATION_FILE).exists()
    assert "set" not in foveate.predict(few.run, strangers)[0].row()
    with pytest.raises(UsageError, match="cannot detect out-of-distribution images"):
        foveate.evaluate(few.run, ood=strangers)


def test_a_run_that_was_adapted_promises_nothing(run, strangers, tmp_path):
    found = foveate.adapt(run.run, strangers, out=tmp_path / "adapted")
    assert "set" not in foveate.predict(found.run, strangers)[0].row()
