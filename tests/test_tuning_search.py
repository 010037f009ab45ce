"""The ladder of tunings: selection, time budget, resume, and refusals."""

from __future__ import annotations

import json

import pytest

from foveate.api.fit.core import fit_recipe
from foveate.api.fit.tuning_search import AutoTuningResult
from foveate.errors import DataError, Interrupted, UsageError
from foveate.inference.predictor import load_predictor
from foveate.modeling.weights import read_tensors
from foveate.recipe import with_settings
from foveate.run.folder import Run


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
