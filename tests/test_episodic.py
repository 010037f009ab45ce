"""Few-shot episodes: sampling, prediction, intervals, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist

import foveate
from conftest import stripe_image
from foveate.api.episodes.core import EpisodesResult, Protocol
from foveate.api.episodes.protocol import (
    draw_episodes,
    episode_accuracies,
    fit_and_predict,
    mean_accuracy,
)
from foveate.cli import main as cli
from foveate.errors import DataError, UsageError
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.model import build_model
from foveate.recipe import Recipe, with_settings
from helpers import without_evaluation

TINY = {"backbone": "test_efficientnet", "weights": "none", "size": 32}
LABELS = [f"c{index % 8}" for index in range(8 * 6)]


def make_model(tuning: str, ways: int):
    settings = {
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "backbone.size": 32,
        "tuning": tuning,
    }
    recipe = with_settings(
        Recipe(), {**settings, "task": {"name": "classify", "features": "pooled"}}
    )
    return build_model(recipe, tuple(map(str, range(ways))))


def make_features(spread: float, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(8, width))
    return (
        centers[[int(name[1]) for name in LABELS]] + spread * rng.normal(size=(len(LABELS), width))
    ).astype(np.float32)


def test_an_episode_is_ordered_by_class_and_uses_no_image_twice():
    for episode in draw_episodes(LABELS, 5, 2, 3, 50, 0):
        support, query = (
            np.array(LABELS)[indices].reshape(5, -1) for indices in (episode.support, episode.query)
        )
        assert support.shape == (5, 2)
        assert query.shape == (5, 3)
        assert all(
            len(set(row) | set(other)) == 1 for row, other in zip(support, query, strict=True)
        )
        assert len(set(support[:, 0])) == 5
        assert len({*episode.support, *episode.query}) == 25


def test_the_same_seed_draws_the_same_episodes():
    first, same_seed, other_seed = (
        [episode.query.tolist() for episode in draw_episodes(LABELS, 5, 1, 1, 9, seed)]
        for seed in (3, 3, 4)
    )
    assert first == same_seed != other_seed


@pytest.mark.parametrize("tuning", ["centroid", "knn", "ridge", "lpplus", "probe"])
def test_separable_classes_score_high_and_noise_at_chance(tuning):
    model = make_model(tuning, 4)
    separable = episode_accuracies(
        model, make_features(0.05, model.backbone.width), draw_episodes(LABELS, 4, 2, 3, 6, 0)
    )
    assert separable.mean() > 0.95
    noise = (
        np.random.default_rng(1).normal(size=(len(LABELS), model.backbone.width)).astype(np.float32)
    )
    assert (
        0.05 < episode_accuracies(model, noise, draw_episodes(LABELS, 4, 2, 3, 20, 0)).mean() < 0.45
    )


def test_one_shot_is_nearest_neighbor():
    """With one image per class, it is the nearest by cosine, relative to the mean of all."""
    model = make_model("centroid", 5)
    features = make_features(1.0, model.backbone.width)
    for episode in draw_episodes(LABELS, 5, 1, 4, 10, 0):
        support, queries = features[episode.support], features[episode.query]
        center = support.mean(0)
        reference = cdist(queries - center, support - center, "cosine").argmin(1)
        predicted = fit_and_predict(
            model, LabeledFeatures(support, np.eye(5), np.zeros(5)), queries
        ).argmax(1)
        assert predicted.tolist() == reference.tolist()


def test_the_interval_is_the_usual_one_of_few_shot_papers():
    accuracies = np.array([0.2, 0.4, 0.9, 0.5])
    score = mean_accuracy(accuracies)
    half_width = 1.96 * accuracies.std(ddof=1) / 2
    assert (score.value, score.count) == (pytest.approx(0.5), 4)
    assert (score.low, score.high) == (
        pytest.approx(0.5 - half_width, abs=1e-4),
        pytest.approx(0.5 + half_width, abs=1e-4),
    )


def test_one_episode_has_no_interval_and_says_so():
    score = mean_accuracy(np.array([0.75]))
    assert (score.low, score.high, score.with_interval) == (None, None, "0.750")
    result = EpisodesResult("net", "ridge", Protocol(5, 1, 15, 1), score)
    assert result.rows[0][-1] == "0.750"
    assert result.lines() == [
        "accuracy of one episode: an interval needs the spread of several (--count 100)"
    ]


@pytest.mark.parametrize(
    ("ways", "shots", "queries", "message"),
    [
        (5, 3, 4, "5 classes with at least 7 images each.*0 classes have as many"),
        (9, 1, 1, "an episode of 9 classes needs as many.*8 classes"),
        (1, 1, 1, "2 ways, 1 shot"),
        (5, 0, 1, "1 shot"),
    ],
)
def test_impossible_episodes_are_one_error_message(ways, shots, queries, message):
    with pytest.raises(UsageError, match=message):
        next(draw_episodes(LABELS, ways, shots, queries, 1, 0))


@pytest.fixture(scope="module")
def widths(tmp_path_factory) -> Path:
    """Four classes that no network was trained on: wide and narrow stripes, upright and lying."""
    rng, root = np.random.default_rng(5), tmp_path_factory.mktemp("data") / "widths"
    for number, (upright, waves) in enumerate(
        [(True, (0.3, 0.5)), (True, (1.8, 2.2)), (False, (0.3, 0.5)), (False, (1.8, 2.2))]
    ):
        (root / f"kind{number}").mkdir(parents=True)
        for index in range(8):
            Image.fromarray(stripe_image(rng, upright, waves=waves)).save(
                root / f"kind{number}" / f"{index}.png"
            )
    return root


def test_the_command_runs_episodes_on_new_classes(widths, capsys):
    assert (
        cli._run(
            [
                "episodes",
                str(widths),
                "--ways",
                "3",
                "--shots",
                "2",
                "--queries",
                "4",
                "--count",
                "30",
                "--json",
            ]
            + [part for name, value in TINY.items() for part in (f"--{name}", str(value))]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["ways"], result["shots"], result["queries"], result["accuracy"]["count"]) == (
        3,
        2,
        4,
        30,
    )
    assert result["accuracy"]["low"] < result["accuracy"]["value"] < result["accuracy"]["high"]
    assert result["cautions"] == []


def test_episodes_on_the_backbone_of_a_run(quick, stripes, widths, tmp_path):
    with without_evaluation():
        run = foveate.fit(
            recipe=with_settings(quick, {"training.epochs": 6, "training.lr": 3e-3}),
            out=tmp_path / "run",
        ).run
    own_classes = foveate.episodes(stripes, run=run, ways=2, shots=2, queries=4, count=40)
    assert own_classes.accuracy.value > 0.9  # the run was trained on these classes
    assert [note.split(":")[0].split(" (")[0] for note in own_classes.cautions] == [
        "23 of 32 images took part in training",
        "2 classes were known from training, such as 'lying'",
    ]
    one_shot, repeated, four_shot = (
        foveate.episodes(widths, run=run, ways=4, shots=k, queries=4, count=60) for k in (1, 1, 4)
    )
    assert one_shot == repeated
    assert (
        four_shot.accuracy.value > one_shot.accuracy.value > 0.3
    )  # new classes, and better than chance
    assert four_shot.cautions == []
    assert (four_shot.backbone, four_shot.tuning) == (str(run), "centroid")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tuning": "lora"}, "do not support the tuning 'lora'"),
        ({"tuning": "zeroshot"}, "do not support the tuning 'zeroshot'"),
        ({"ways": 9}, "an episode of 9 classes needs as many.*4 classes"),
    ],
)
def test_unsuitable_tunings_and_too_many_ways_are_refused(widths, options, message):
    with pytest.raises(UsageError, match=message):
        foveate.episodes(widths, **{**TINY, "queries": 2, **options})


def test_a_backbone_with_a_run_and_box_labels_are_refused(widths, tmp_path):
    with pytest.raises(UsageError, match="--run and --size are mutually exclusive"):
        foveate.episodes(widths, run=tmp_path, size=64)
    (tmp_path / "sorted.csv").write_text("path,labels\nx.png,a|b\n", encoding="utf-8")
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="single-label"):
        foveate.episodes(tmp_path / "sorted.csv", **TINY)
