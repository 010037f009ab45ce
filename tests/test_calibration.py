"""Calibration: temperature, prediction sets, abstention and OOD scores."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from scipy.stats import beta, betabinom

import foveate
from conftest import make_stripes_folder
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
from foveate.evaluation.coverage import SETS, Promise, conformal_limit, describe_promise
from foveate.inference.predictor import load_predictor
from foveate.predictions import Labels
from foveate.run.folder import CALIBRATION_FILE, FEATURE_SPACE_FILE, Run
from helpers import without_evaluation

FEATURE_SPACE = FeatureSpace(np.zeros(4), np.eye(4)[:2])


def draw_scores(count: int, seed: int, temperature: float = 1.0, classes: int = 5):
    """Draw scores that are distorted by a temperature, and classes by the true probabilities."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, classes))
    probabilities = softmax(logits, axis=1)
    targets = np.array([rng.choice(classes, p=row) for row in probabilities])
    return softmax(logits / temperature, axis=1), targets


def fit_calibration(scores, targets):
    return Calibration.fit(
        scores,
        targets,
        np.zeros((len(targets), 4)),
        FEATURE_SPACE,
        fit_temperature(scores, targets),
    )


# --- formulas


def test_the_calibration_error_and_its_sampling_noise():
    assert calibration_error(
        np.array([0.9, 0.9, 0.3, 0.3]), np.array([True, True, False, True])
    ) == pytest.approx(0.15)
    sizes = (100, 10_000)
    confidences = [np.random.default_rng(size).uniform(0.2, 1, size) for size in sizes]
    small, large = (expected_error_if_calibrated(confidence) for confidence in confidences)
    assert small > 0.05
    assert large < 0.015
    rng = np.random.default_rng(7)
    errors = [
        calibration_error(confidences[0], rng.random(100) < confidences[0]) for _ in range(300)
    ]
    assert small == pytest.approx(np.mean(errors), abs=0.01)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_corrects_miscalibrated_scores(temperature):
    distorted, targets = draw_scores(6000, 0, temperature)
    assert fit_temperature(distorted, targets) == pytest.approx(1 / temperature, rel=0.08)
    assert apply_temperature(distorted, 1.0) == pytest.approx(distorted)
    assert apply_temperature(distorted, 1 / temperature) == pytest.approx(
        draw_scores(6000, 0)[0], abs=1e-6
    )


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_prediction_sets_reach_the_requested_coverage(coverage):
    """Within two points on average over 20 random splits."""
    coverages = []
    for seed in range(20):
        scores, targets = draw_scores(1200, seed)
        calibration = fit_calibration(scores[:400], targets[:400])
        prediction_sets = calibration.prediction_sets(
            apply_temperature(scores[400:], calibration.temperature), coverage
        )
        coverages.append(prediction_sets[np.arange(800), targets[400:]].mean())
    assert np.mean(coverages) == pytest.approx(coverage, abs=0.02)


@pytest.mark.parametrize("count", [30, 60, 200])
@pytest.mark.parametrize("sharpness", [1, 4])
def test_t71_sets_are_never_empty_and_keep_their_coverage(count, sharpness):
    """On average over calibrations, and within the promised interval in 95 % of them or more."""
    coverages, promise = [], Promise.of(0.9, count)
    for seed in range(150):
        scores, targets = draw_scores(count + 400, seed, 1 / sharpness)
        calibration = fit_calibration(scores[:count], targets[:count])
        scaled = apply_temperature(scores[count:], calibration.temperature)
        sets = calibration.prediction_sets(scaled)
        assert sets[np.arange(400), scaled.argmax(1)].all()
        coverages.append(sets[np.arange(400), targets[count:]].mean())
    assert np.mean(coverages) > 0.895
    # 2.5 % are expected, and the coverage on 400 images varies by 0.015 beside
    assert np.mean(np.array(coverages) < promise.low - 0.015) <= 0.04


def test_t71_confident_classifiers_have_sets_of_one_class():
    """A classifier that is right for 97 % has to promise no less, and left 7 % of the sets empty."""
    rng = np.random.default_rng(0)
    scores = np.stack([0.5 + rng.random(400) / 2] * 2, 1)
    scores[:, 1] = 1 - scores[:, 0]
    targets = (rng.random(400) < 0.03).astype(int)
    sets = fit_calibration(scores[:200], targets[:200]).prediction_sets(scores[200:])
    assert (sets.sum(1) == 1).all()
    assert sets[np.arange(200), targets[200:]].mean() > 0.94


def test_t72_the_promise_is_the_beta_interval_and_too_few_images_promise_nothing():
    promise = Promise.of(0.9, 90)
    assert (promise.low, promise.high) == pytest.approx(beta.interval(0.95, 82, 9))
    assert Promise.of(0.9, 8) is None
    assert Promise.of(0.9, 9).high == pytest.approx(0.975 ** (1 / 9))
    assert Promise.of(0.95, 19) is not None  # 20 * 0.95 is 19, not a little more
    told = str(describe_promise(SETS, 0.9, 8))
    assert told.startswith("prediction sets for 0.9 promise nothing: ")
    assert "share of 0.832 to 0.953 of images" in str(describe_promise(SETS, 0.9, 90))


def test_t72_images_of_few_groups_promise_no_more_than_the_groups():
    scores = np.linspace(0, 1, 200)
    assert conformal_limit(scores, 200, 0.9) == scores[180]
    assert conformal_limit(scores, 9, 0.9) == scores[-1]
    assert conformal_limit(scores, 20, 0.9) == scores[189]
    assert np.isinf(conformal_limit(scores, 8, 0.9))


def test_t74_a_promise_is_broken_where_chance_does_not_explain_it():
    """By the beta-binomial distribution, with calibration and images both drawn by chance."""
    promise = Promise.of(0.9, 90)
    for count in (20, 120, 2000):
        hits = next(hits for hits in range(count + 1) if betabinom.cdf(hits, count, 82, 9) >= 0.025)
        assert not promise.is_broken(hits / count, count)
        assert promise.is_broken((hits - 1) / count, count)
    assert promise.is_broken(0.775, 120)
    assert not promise.is_broken(0.85, 120)


def test_too_few_images_are_not_calibrated():
    scores, targets = draw_scores(5, 0)
    assert fit_calibration(scores, targets).prediction_sets(scores, 0.9).all()
    assert not fit_calibration(*draw_scores(40, 0)).prediction_sets(scores, 0.9).all()


def test_abstention_threshold_by_hand():
    """400 confident predictions, all correct, and 100 unconfident ones, half of them wrong."""
    ranked = np.concatenate(
        [
            np.stack([np.linspace(0.99, 0.9, 400), np.ones(400)], 1),
            np.stack([np.linspace(0.5, 0.4, 100), np.arange(100) % 2], 1),
        ]
    )
    calibration = replace(fit_calibration(*draw_scores(40, 0)), ranked_confidence=ranked)
    assert calibration.abstention_threshold(0.012) == pytest.approx(0.9)
    assert calibration.abstention_threshold(0.5) == 0.0
    assert calibration.abstention_threshold(0.001) is None


def test_out_of_distribution_scores():
    assert FEATURE_SPACE.residual(
        np.array([[3.0, 4, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]])
    ) == pytest.approx([0, 1, 0.5])
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 20)) + 5
    space = FeatureSpace.fit(flat)
    assert space.residual(flat).max() < 1e-9
    assert space.residual(rng.normal(size=(200, 20)) + 5).mean() > 0.5


def test_bins_and_risks_by_hand():
    confidence, correct = np.array([0.95, 0.91, 0.33, 0.55]), np.array([True, False, True, True])
    assert reliability_bins(confidence, correct) == [
        {"confidence": pytest.approx(0.33), "accuracy": 1.0, "count": 1},
        {"confidence": pytest.approx(0.55), "accuracy": 1.0, "count": 1},
        {"confidence": pytest.approx(0.93), "accuracy": 0.5, "count": 2},
    ]
    coverage, risk = risk_coverage_curve(confidence, correct)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 0.5, 1 / 3, 0.25])


def test_a_calibration_survives_json():
    first = fit_calibration(*draw_scores(60, 3))
    restored = Calibration.from_row(json.loads(json.dumps(first.row())), FEATURE_SPACE)
    scores, _ = draw_scores(50, 4)
    assert restored.temperature == first.temperature
    assert (
        restored.prediction_sets(scores, 0.9) == first.prediction_sets(scores, 0.9)
    ).mean() > 0.98  # five digits are kept
    assert restored.abstention_threshold(0.3) == pytest.approx(
        first.abstention_threshold(0.3), abs=1e-4
    )


def test_t73_an_odd_image_has_a_set_of_all_classes_and_abstains():
    calibration = fit_calibration(*draw_scores(60, 0))
    calibration = replace(calibration, residuals=np.linspace(0.2, 0.4, 60))
    sure = np.array([0.96, 0.01, 0.01, 0.01, 0.01], np.float32)
    inside, outside = np.array([1.0, 0, 0.6, 0]), np.array([1.0, 0, 2, 0])
    classes = tuple("abcde")
    for features, is_odd in ((inside, False), (outside, True)):
        (labels,) = calibration.annotate([Labels(("a",), sure)], features[None], classes, 0.9, 0.5)
        uncertainty = labels.uncertainty
        assert labels.names == ("a",)
        assert uncertainty.abstain is is_odd
        assert uncertainty.prediction_set == (classes if is_odd else ("a",))
        assert (uncertainty.ood_percentile == 1) is is_odd


# --- through a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = make_stripes_folder(tmp_path_factory.mktemp("many") / "data", per_class=120)
    settings = {"data.near_duplicates": 1, "data.leakage_audit": False, "data.val": 0.25}
    options = {
        "backbone": "test_efficientnet",
        "weights": "none",
        "size": 32,
        "tuning": "probe",
        "device": "cpu",
    }
    return foveate.fit(
        data, out=tmp_path_factory.mktemp("runs") / "run", settings=settings, **options
    )


@pytest.fixture(scope="module")
def ood_images(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("ood"), np.random.default_rng(0)
    for index in range(12):
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[:, : rng.integers(5, 35)] = rng.integers(0, 256, 3)
        Image.fromarray(pixels).save(root / f"{index}.png")
    return root


def test_a_fit_calibrates_its_run(run, ood_images, capsys):
    assert run.outcome["calibration"]["images"] == 60
    counts = run.outcome[
        "images"
    ]  # the temperature of a probe also uses out-of-fold scores of training images
    assert run.outcome["calibration"]["left_out"] == counts["train"]
    assert run.outcome["calibration"]["units"] == 60 + counts["train"]  # few images: both count
    assert (run.run / FEATURE_SPACE_FILE).is_file()
    assert cli._run(["evaluate", str(run.run), "--ood", str(ood_images), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ood"]["auroc"]["value"] > 0.7  # on untrained features
    assert 0.7 < result["set_coverage"] <= 1
    assert result["set_size"] >= 1
    units = run.outcome["calibration"]["units"]
    assert result["coverage"]["low"] == Promise.of(0.9, units).low
    assert result["coverage"]["observed"] == result["set_coverage"]
    page = (run.run / "evaluations" / "test-2" / "report.html").read_text()
    assert "Calibration" in page
    assert f"prediction sets for 0.9 are calibrated on {units} images" in page
    assert "in which case the set holds all classes" in page
    assert "Detection of out-of-distribution images" in page
    rows = [
        json.loads(line)
        for line in (run.run / "evaluations" / "test-2" / "predictions.jsonl")
        .read_text()
        .splitlines()
    ]
    covered = np.mean([row["target"][0] in row["prediction_set"] for row in rows])
    assert covered == pytest.approx(result["set_coverage"])  # can be recomputed
    top_scores = [max(row["scores"].values()) for row in rows]
    assert all(
        row["confidence"] == pytest.approx(top_score)
        for row, top_score in zip(rows, top_scores, strict=True)
    )


def test_predictions_carry_sets_uncertainty_and_ood_flags(run, ood_images, tmp_path):
    tolerant = foveate.predict(run.run, ood_images, coverage=0.5, risk=0.9)
    strict = foveate.predict(run.run, ood_images, coverage=0.99, risk=0.0001)
    assert np.mean(
        [len(result.prediction.uncertainty.prediction_set) for result in tolerant]
    ) <= np.mean([len(result.prediction.uncertainty.prediction_set) for result in strict])
    assert all(result.prediction.uncertainty.abstain for result in strict)
    assert not any(result.prediction.uncertainty.abstain for result in tolerant)
    assert np.mean([result.prediction.uncertainty.ood_percentile for result in tolerant]) > 0.7
    assert (
        cli._run(
            [
                "predict",
                str(run.run),
                str(ood_images),
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
    assert json.loads(row["prediction_set"]) == list(
        foveate.predict(run.run, ood_images)[0].prediction.uncertainty.prediction_set
    )
    assert row["abstain"] in ("True", "False")
    for options in ({"coverage": 1.0}, {"risk": 0.0}):
        with pytest.raises(UsageError, match="must lie between 0 and 1"):
            foveate.predict(run.run, ood_images, **options)


def test_temperatures_do_not_change_the_predicted_class(run):
    """The predicted classes stay the same, and the scores are those of scaled logits."""
    predictor = load_predictor(run.run, "cpu")
    paths = sorted(Path(Run.open(run.run).recipe().data.path).rglob("*.*"))[:12]
    scaled = [result.prediction for result in predictor.predict(paths)]
    temperature = predictor.calibration.temperature
    predictor.calibration = None
    raw = [result.prediction for result in predictor.predict(paths)]
    assert [prediction.names for prediction in scaled] == [prediction.names for prediction in raw]
    assert np.stack([prediction.scores for prediction in scaled]) == pytest.approx(
        apply_temperature(
            np.stack([prediction.scores for prediction in raw]).astype(float), temperature
        ),
        abs=1e-5,
    )


def test_few_images_and_other_tasks_are_not_calibrated(stripes, tmp_path, ood_images):
    options = {
        "backbone": "test_efficientnet",
        "weights": "none",
        "size": 32,
        "tuning": "probe",
        "device": "cpu",
    }
    with without_evaluation():
        few = foveate.fit(stripes, out=tmp_path / "few", **options)
    assert few.outcome["calibration"] is None
    assert not (few.run / CALIBRATION_FILE).exists()
    assert "set" not in foveate.predict(few.run, ood_images)[0].row()
    with pytest.raises(UsageError, match="cannot detect out-of-distribution images"):
        foveate.evaluate(few.run, ood=ood_images)


def test_an_adapted_run_has_no_calibration(run, ood_images, tmp_path):
    result = foveate.adapt(run.run, ood_images, out=tmp_path / "adapted")
    assert "set" not in foveate.predict(result.run, ood_images)[0].row()


def test_t74_evaluate_says_that_a_promise_is_broken_and_what_to_do(run, tmp_path, capsys):
    """Upside-down labels: nothing that the calibration saw."""
    data = make_stripes_folder(tmp_path / "swapped", per_class=40, seed=5)
    (data / "lying").rename(data / "other")
    (data / "upright").rename(data / "lying")
    (data / "other").rename(data / "upright")
    result = foveate.evaluate(run.run, shift=data)
    row = result.numbers()["shifted"]["coverage"]
    assert row["broken"]
    assert row["observed"] < row["low"]
    assert not result.numbers()["coverage"]["broken"]
    (told,) = [
        line for line in result.lines() if "promise of the prediction sets is broken" in line
    ]
    assert f"foveate continue {run.run} LABELED_DATA" in told
    alone = foveate.evaluate(run.run, data)
    assert any("promise of the prediction sets is broken" in line for line in alone.lines())
    page = (alone.folder / "report.html").read_text()
    assert "promise of the prediction sets is broken" in page
