"""Episodes: what is drawn, what is answered, what the interval is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist

import foveate
from conftest import striped
from foveate.api.episodes.protocol import accuracies, episodes, mean_of, solved_answers
from foveate.cli import main as cli
from foveate.errors import DataError, UsageError
from foveate.modeling.classifiers.logistic import LabeledFeatures
from foveate.modeling.model import build_model
from foveate.recipe import Recipe, with_settings
from helpers import evaluation_left_out

TINY = {"backbone": "test_efficientnet", "weights": "none", "size": 32}
LABELS = [f"c{place % 8}" for place in range(8 * 6)]


def model_of(tuning: str, ways: int):
    words = {
        "backbone.name": "test_efficientnet",
        "backbone.weights": "none",
        "backbone.size": 32,
        "tuning": tuning,
    }
    recipe = with_settings(Recipe(), {**words, "task": {"name": "classify", "features": "pooled"}})
    return build_model(recipe, tuple(map(str, range(ways))))


def features_of(spread: float, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(8, width))
    return (
        middles[[int(name[1]) for name in LABELS]] + spread * rng.normal(size=(len(LABELS), width))
    ).astype(np.float32)


def test_an_episode_is_class_after_class_and_no_image_twice():
    for episode in episodes(LABELS, 5, 2, 3, 50, 0):
        known, asked = (
            np.array(LABELS)[places].reshape(5, -1) for places in (episode.known, episode.asked)
        )
        assert known.shape == (5, 2)
        assert asked.shape == (5, 3)
        assert all(len(set(row) | set(other)) == 1 for row, other in zip(known, asked, strict=True))
        assert len(set(known[:, 0])) == 5
        assert len({*episode.known, *episode.asked}) == 25


def test_the_same_seed_draws_the_same():
    one, again, other = (
        [episode.asked.tolist() for episode in episodes(LABELS, 5, 1, 1, 9, seed)]
        for seed in (3, 3, 4)
    )
    assert one == again != other


@pytest.mark.parametrize("tuning", ["centroid", "knn", "ridge", "lpplus", "probe"])
def test_what_differs_is_told_apart_and_noise_is_not(tuning):
    model = model_of(tuning, 4)
    clear = accuracies(
        model, features_of(0.05, model.backbone.width), episodes(LABELS, 4, 2, 3, 6, 0)
    )
    assert clear.mean() > 0.95
    noise = (
        np.random.default_rng(1).normal(size=(len(LABELS), model.backbone.width)).astype(np.float32)
    )
    assert 0.05 < accuracies(model, noise, episodes(LABELS, 4, 2, 3, 20, 0)).mean() < 0.45


def test_one_shot_is_the_nearest_image():
    """With one image of a class its mean is the image: the nearest by cosine round the mean of all."""
    model = model_of("centroid", 5)
    features = features_of(1.0, model.backbone.width)
    for episode in episodes(LABELS, 5, 1, 4, 10, 0):
        known, asked = features[episode.known], features[episode.asked]
        middle = known.mean(0)
        reference = cdist(asked - middle, known - middle, "cosine").argmin(1)
        found = solved_answers(model, LabeledFeatures(known, np.eye(5), np.zeros(5)), asked).argmax(
            1
        )
        assert found.tolist() == reference.tolist()


def test_the_interval_is_that_of_the_papers():
    shares = np.array([0.2, 0.4, 0.9, 0.5])
    score = mean_of(shares)
    reach = 1.96 * shares.std(ddof=1) / 2
    assert (score.value, score.count) == (pytest.approx(0.5), 4)
    assert (score.low, score.high) == (
        pytest.approx(0.5 - reach, abs=1e-4),
        pytest.approx(0.5 + reach, abs=1e-4),
    )


@pytest.mark.parametrize(
    ("ways", "shots", "queries", "sentence"),
    [
        (5, 3, 4, "0 classes have 3 . 4 images"),
        (9, 1, 1, "8 classes, 9 ways"),
        (1, 1, 1, "2 ways, 1 shot"),
        (5, 0, 1, "1 shot"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(ways, shots, queries, sentence):
    with pytest.raises(UsageError, match=sentence):
        next(episodes(LABELS, ways, shots, queries, 1, 0))


@pytest.fixture(scope="module")
def widths(tmp_path_factory) -> Path:
    """Four classes that no network here was trained on: wide and narrow stripes, upright and lying."""
    rng, root = np.random.default_rng(5), tmp_path_factory.mktemp("data") / "widths"
    for number, (upright, waves) in enumerate(
        [(True, (0.3, 0.5)), (True, (1.8, 2.2)), (False, (0.3, 0.5)), (False, (1.8, 2.2))]
    ):
        (root / f"kind{number}").mkdir(parents=True)
        for picture in range(8):
            Image.fromarray(striped(rng, upright, waves=waves)).save(
                root / f"kind{number}" / f"{picture}.png"
            )
    return root


def test_the_verb_plays_episodes_on_new_classes(widths, capsys):
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
            + [part for word, value in TINY.items() for part in (f"--{word}", str(value))]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["ways"], told["shots"], told["queries"], told["accuracy"]["count"]) == (
        3,
        2,
        4,
        30,
    )
    assert told["accuracy"]["low"] < told["accuracy"]["value"] < told["accuracy"]["high"]
    assert told["cautions"] == []


def test_a_run_lends_its_features_says_what_it_knows_and_gains_by_shots(
    quick, stripes, widths, tmp_path
):
    with evaluation_left_out():
        run = foveate.fit(
            recipe=with_settings(quick, {"training.epochs": 6, "training.lr": 3e-3}),
            out=tmp_path / "run",
        ).run
    own = foveate.episodes(stripes, run=run, ways=2, shots=2, queries=4, count=40)
    assert own.accuracy.value > 0.9  # it has learnt to tell them apart
    assert [note.split(":")[0].split(" (")[0] for note in own.cautions] == [
        "23 of 32 images were in the training set",
        "the run was trained on 2 of these classes, such as 'lying'",
    ]
    one, again, four = (
        foveate.episodes(widths, run=run, ways=4, shots=k, queries=4, count=60) for k in (1, 1, 4)
    )
    assert one == again
    assert (
        four.accuracy.value > one.accuracy.value > 0.3
    )  # new to it, and told apart better than by chance
    assert four.cautions == []
    assert four.what == (str(run), "centroid")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"tuning": "lora"}, "cannot use 'lora'"),
        ({"tuning": "zeroshot"}, "cannot use 'zeroshot'"),
        ({"ways": 9}, "4 classes, 9 ways"),
    ],
)
def test_what_no_episode_can_be_made_of(widths, words, sentence):
    with pytest.raises(UsageError, match=sentence):
        foveate.episodes(widths, **{**TINY, "queries": 2, **words})


def test_a_backbone_beside_a_run_and_boxes_are_refused(widths, tmp_path):
    with pytest.raises(UsageError, match="--run and --size are mutually exclusive"):
        foveate.episodes(widths, run=tmp_path, size=64)
    (tmp_path / "sorted.csv").write_text("path,labels\nx.png,a|b\n", encoding="utf-8")
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="single-label"):
        foveate.episodes(tmp_path / "sorted.csv", **TINY)
