"""The ladder of tunings: selection, time budget, resume, and refusals."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.api.evaluate.result import EvaluateResult
from foveate.api.fit import tuning_search, unlike_part
from foveate.api.fit.core import fit_recipe
from foveate.api.fit.pipeline import FitResult
from foveate.api.fit.tuning_trials import AutoTuningResult, TuningTrial
from foveate.errors import DataError, Interrupted, UsageError
from foveate.evaluation.metrics import metric_for
from foveate.inference import features
from foveate.inference.predictor import load_predictor
from foveate.modeling.weights import read_tensors
from foveate.predictions import Labels
from foveate.recipe import with_settings
from foveate.run.folder import Run
from foveate.run.lineage import add_earlier_samples, read_run_table
from foveate.training import head_init


@pytest.fixture
def rungs(quick):
    """A ladder recipe whose rungs take a second each."""
    return with_settings(
        quick,
        {"tuning": "auto", "training.epochs": 3, "training.head_init": "probe", "data.val": 0.25},
    )


def read_leaderboard(folder):
    return json.loads((folder / "leaderboard.json").read_text())


def test_the_best_rung_becomes_the_run_and_alone_is_tested(rungs, tmp_path):
    result = fit_recipe(rungs, tmp_path / "run")
    assert isinstance(result, AutoTuningResult)
    rows = read_leaderboard(result.run)
    assert [row["tuning"] for row in rows][:2] == ["probe", "last"]
    assert len(rows) == 5
    tried = [row for row in rows if "seconds" in row]
    chosen = [row for row in rows if "chosen" in row["note"]]
    assert len(chosen) == 1
    gaining = [row for row in tried if row.get("gain_low") is not None and row["gain_low"] > 0]
    assert chosen[0] == (gaining[-1] if gaining else tried[0])  # the last that gained is the best
    assert (
        load_predictor(result.run, "cpu").recipe.tuning.name
        == chosen[0]["tuning"]
        == result.numbers()["tuning"]
    )
    splits = Run(result.run).splits()
    for row in tried:
        if row is not chosen[0]:
            rung = Run(result.run / "trials" / row["tuning"])
            assert rung.splits() == splits
            assert not (rung.folder / "evaluations" / "test").exists()
    assert result.evaluation is not None
    assert result.evaluation.split == "test"
    report = (result.evaluation.folder / "report.html").read_text()
    assert "Comparison of fine-tuning methods" in report
    assert all(row["tuning"] in report for row in rows)
    assert {row["field"] for row in Run(result.run).read_json("choices.json")} >= {
        "tuning",
        "splits",
    }


def test_two_rungs_without_a_gain_end_it(rungs, tmp_path):
    rows = fit_recipe(
        with_settings(rungs, {"training.epochs": 1, "training.lr": 1e-7, "data.test": 0}),
        tmp_path / "run",
    ).numbers()["leaderboard"]
    assert [row["tuning"] for row in rows if "seconds" in row] == ["probe", "last", "norm"]
    assert all("2 methods in a row" in row["note"] for row in rows[3:])


def test_a_budget_too_small_for_the_first_rung_still_trains_the_cheapest(rungs, tmp_path, capsys):
    result = fit_recipe(with_settings(rungs, {"training.minutes": 0.001}), tmp_path / "run")
    assert result.numbers()["tuning"] == "probe"
    assert all("not tried" in row["note"] for row in read_leaderboard(result.run)[1:])
    assert "even the cheapest tuning takes longer" in capsys.readouterr().out


def test_t1_an_interrupted_ladder_resumes_to_the_same_result(rungs, tmp_path, monkeypatch):
    from foveate.training.trainer import Trainer

    uninterrupted = fit_recipe(rungs, tmp_path / "whole")
    original_step = Trainer._step

    def step_and_stop(self, batch):
        original_step(self, batch)
        if self.model.tuning.search_rank == 2 and self.state.step == 2:
            self._save()
            raise Interrupted("as a test asked", hint="another place")

    monkeypatch.setattr(Trainer, "_step", step_and_stop)
    with pytest.raises(Interrupted) as error:
        fit_recipe(rungs, tmp_path / "cut")
    assert str(tmp_path / "cut") in error.value.hint
    monkeypatch.setattr(Trainer, "_step", original_step)
    resumed = fit_recipe(rungs, resume=tmp_path / "cut")
    columns = ("tuning", "accuracy", "gain", "note")
    assert [[row.get(name) for name in columns] for row in read_leaderboard(resumed.run)] == [
        [row.get(name) for name in columns] for row in read_leaderboard(uninterrupted.run)
    ]
    first, second = (
        read_tensors(folder / "model.safetensors") for folder in (uninterrupted.run, resumed.run)
    )
    assert all(bool((first[name] == second[name]).all()) for name in first)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"data.val": 0}, DataError, "compares tunings on validation images"),
        ({"tuning": {"name": "auto", "rank": 3}}, UsageError, "takes no settings"),
    ],
)
def test_options_that_do_not_apply_to_a_ladder(rungs, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        fit_recipe(with_settings(rungs, settings), tmp_path / "run")


def test_an_existing_folder_is_not_changed(rungs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        fit_recipe(rungs, tmp_path / "run")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["mine.txt"]


# --- look-alikes that are held out from all trials

SHADES = {
    "one": [(220, 30, 30), (220, 220, 30), (30, 220, 220), (120, 60, 200)],
    "two": [(30, 220, 30), (30, 30, 220), (220, 30, 220), (200, 140, 60)],
}


@pytest.fixture(scope="module")
def shades(tmp_path_factory) -> Path:
    """Two classes of four shades each, 20 images of a shade, which nothing but the shade tells."""
    root, rng = tmp_path_factory.mktemp("data") / "shades", np.random.default_rng(0)
    for name, own in SHADES.items():
        (root / name).mkdir(parents=True)
        for (number, shade), repeat in product(enumerate(own), range(20)):
            noise = Image.fromarray(rng.integers(60, 256, (6, 6), np.uint8)).resize((32, 32))
            pixels = np.asarray(noise)[..., None] / 255 * np.array(shade)
            path = root / name / f"{rng.integers(10**6)}-{number}-{repeat}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture
def ladder(rungs, shades):
    return with_settings(rungs, {"data.path": str(shades), "training.epochs": 1})


def splits_of(folder) -> dict[str, str]:
    return {row["path"]: row["split"] for row in Run(folder).splits()}


def test_t70_tunings_are_compared_on_look_alikes_that_no_trial_was_trained_on(
    ladder, tmp_path, monkeypatch
):
    counts = {"unlike": 0, "features": 0}
    measure, compute = head_init.measure_unlike, features._head_features

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(head_init, "measure_unlike", counted("unlike", measure))
    monkeypatch.setattr(features, "_head_features", counted("features", compute))
    recipe = with_settings(ladder, {"task.features": "pooled"})
    result = fit_recipe(recipe, tmp_path / "run")
    rows = [row for row in read_leaderboard(result.run) if "seconds" in row]
    trials = {row["tuning"]: splits_of(result.run / "trials" / row["tuning"]) for row in rows}
    assert "full" in trials  # although the cheap ones brought nothing
    held = {path for path, split in trials["probe"].items() if split == "unlike"}
    assert len(held) >= 20
    assert all(own == trials["probe"] for own in trials.values())
    # what is chosen is trained with them, and known by the same rows otherwise
    final = splits_of(result.run)
    changed = {path: split for path, split in final.items() if split != trials["probe"][path]}
    assert changed == dict.fromkeys(held, "train")
    assert result.outcome["images"]["train"] == list(final.values()).count("train")
    assert counts == {"unlike": 1, "features": 1}  # all trials and the final training share them
    assert result.outcome["unlike"] is not None
    for row in rows:
        assert 0 <= row["unlike_low"] <= row["unlike"] <= row["unlike_high"] <= 1
    assert "unlike_gain" in rows[1]
    assert "unlike images" in result.columns
    assert len(result.rows[0]) == len(result.columns) == 9
    assert "unlike images" in (result.evaluation.folder / "report.html").read_text()


def test_t70_without_time_the_weights_of_the_trial_are_kept_and_it_is_said(
    ladder, tmp_path, monkeypatch, capsys
):
    search = tuning_search._TuningSearch
    monkeypatch.setattr(search, "_free", lambda self: -1.0 if self._holds_out else 60.0)
    result = fit_recipe(with_settings(ladder, {"training.minutes": 1}), tmp_path / "run")
    assert "the weights of the trial are kept" in " ".join(capsys.readouterr().out.split())
    splits = list(splits_of(result.run).values())
    assert splits.count("unlike") == result.outcome["images"]["unlike"] > 0
    reasons = [str(each.reason) for each in Run(result.run).decisions() if each.field == "splits"]
    assert "were held out to compare the tunings" in reasons[-1]
    # a run that continues it trains on them
    own, settings = read_run_table(Run(result.run)), {"start.run": str(result.run)}
    recipe = with_settings(ladder, {**settings, "start.replay": 1.0, "tuning": "probe"})
    both = add_earlier_samples(own, recipe).samples
    earlier = [each.split for each in both if each.key.startswith("earlier:")]
    assert len(earlier) == len(own.samples)
    assert set(earlier) == {"train", "val", "test"}


def test_the_costliest_trial_takes_all_time_that_is_left_if_its_share_is_too_short(
    ladder, tmp_path, monkeypatch
):
    search = tuning_search._TuningSearch
    monkeypatch.setattr(
        search, "_budget", lambda self, left: self._budget_of(100 * left - 100, left)
    )
    monkeypatch.setattr(tuning_search, "_groups", lambda: iter([["probe"], ["full"]]))
    result = fit_recipe(with_settings(ladder, {"training.minutes": 5}), tmp_path / "run")
    assert [trial.tuning for trial in result.leaderboard if trial.result] == ["probe", "full"]


def test_an_interrupted_ladder_holds_the_same_look_alikes_out(ladder, tmp_path, monkeypatch):
    original = tuning_search._TuningSearch._run_first_applicable

    def stop(self, names, left):
        if names == ["last"]:
            raise Interrupted("as a test asked", hint="another place")
        return original(self, names, left)

    monkeypatch.setattr(tuning_search._TuningSearch, "_run_first_applicable", stop)
    with pytest.raises(Interrupted):
        fit_recipe(ladder, tmp_path / "run")
    monkeypatch.setattr(tuning_search._TuningSearch, "_run_first_applicable", original)
    monkeypatch.setattr(unlike_part, "_draw_clusters", None)  # never drawn anew
    monkeypatch.setattr(tuning_search, "_groups", lambda: iter([["probe"], ["last"]]))
    fit_recipe(ladder, resume=tmp_path / "run")
    trials = tmp_path / "run" / "trials"
    assert splits_of(trials / "last") == splits_of(trials / "probe")


def evaluation(hits: list[bool], split: str) -> EvaluateResult:
    """An evaluation with these hits; five images are of one group."""
    metric = metric_for(Labels, ("a", "b"))
    for hit in hits:
        metric.update(Labels(("a" if hit else "b",)), Labels(("a",)))
    scores = metric.compute()
    return EvaluateResult(Path("run"), Path("run"), split, scores, [], 0, metric, 1.0)


def trial(name: str, like: int, unlike: int | None) -> TuningTrial:
    """A tuning that is right for so many of 100 images of each part."""
    parts = [
        None if hits is None else evaluation([index < hits for index in range(100)], split)
        for hits, split in ((like, "val"), (unlike, "unlike"))
    ]
    return TuningTrial(name, FitResult(Path("run"), parts[0], {}), parts[1])


@pytest.mark.parametrize(
    ("like", "unlike", "better", "note"),
    [
        (97, 79, True, "level with probe on validation images, better on unlike ones"),
        (99, 68, True, "better than probe"),
        (99, 79, True, "better than probe"),
        (97, 67, False, "no significant gain over probe"),
        (99, 50, False, "but worse on unlike ones: not taken"),
        (80, 79, False, "but worse on validation images: not taken"),
        (97, None, False, "no significant gain over probe"),
        (99, None, True, "better than probe"),
    ],
)
def test_t70_a_tuning_wins_on_one_part_if_it_is_not_worse_on_the_other(like, unlike, better, note):
    best = trial("probe", 80 if like == 99 else 97, 67)
    tried = trial("full", like, unlike)
    assert tried.is_better_than(best) is better
    assert tried.note_text.endswith(note)
    assert tried.gain.value == pytest.approx((like - (80 if like == 99 else 97)) / 100)


def test_tasks_without_clusters_are_compared_on_validation_images_and_told(rungs, tmp_path, capsys):
    rows = fit_recipe(rungs, tmp_path / "run").numbers()["leaderboard"]
    assert "too few training images to hold out" in " ".join(capsys.readouterr().out.split())
    assert not any("unlike" in row for row in rows)
