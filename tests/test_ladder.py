"""The ladder of tunings: what it chooses, what it costs, what it says."""

from __future__ import annotations

import json
import time

import pytest

from foveate.api.fit.core import fit_recipe
from foveate.api.fit.ladder import LadderResult
from foveate.errors import DataError, Interrupted, UsageError
from foveate.inference.predictor import load_predictor
from foveate.modeling.weights import read_tensors
from foveate.recipe import with_settings
from foveate.run.folder import Run


@pytest.fixture
def rungs(quick):
    """A recipe whose rungs take a second each."""
    return with_settings(
        quick,
        {"tuning": "auto", "training.epochs": 3, "training.head_init": "probe", "data.val": 0.25},
    )


def rows_of(folder):
    return json.loads((folder / "leaderboard.json").read_text())


def test_the_winner_is_the_run_and_the_test_images_are_its_own(rungs, tmp_path):
    result = fit_recipe(rungs, tmp_path / "run")
    assert isinstance(result, LadderResult)
    rows = rows_of(result.run)
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
            rung = Run(result.run / "rungs" / row["tuning"])
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


def test_a_budget_too_small_for_the_first_rung_still_gives_the_cheapest_answer(
    rungs, tmp_path, capsys
):
    result = fit_recipe(with_settings(rungs, {"training.minutes": 0.001}), tmp_path / "run")
    assert result.numbers()["tuning"] == "probe"
    assert all("not tried" in row["note"] for row in rows_of(result.run)[1:])
    assert "even the cheapest tuning takes longer" in capsys.readouterr().out


def test_a_budget_is_kept_by_leaving_rungs_out_and_cutting_epochs(rungs, tmp_path):
    started = time.monotonic()
    result = fit_recipe(
        with_settings(
            rungs, {"training.minutes": 0.25, "training.epochs": 10_000, "training.patience": 0}
        ),
        tmp_path / "run",
    )
    assert (
        time.monotonic() - started < 1.3 * 15
    )  # seconds; bench/adapt.py measures the real promise, of 5 %
    tried = [row["tuning"] for row in rows_of(result.run) if "seconds" in row]
    assert "last" in tried
    if (tmp_path / "run" / "rungs" / "last").exists():
        assert Run(tmp_path / "run" / "rungs" / "last").recipe().training.epochs < 10_000


def test_t1_an_interrupted_ladder_goes_on_to_the_same_end(rungs, tmp_path, monkeypatch):
    from foveate.training.trainer import Trainer

    whole = fit_recipe(rungs, tmp_path / "whole")
    own = Trainer._step

    def stopped(self, batch):
        own(self, batch)
        if self.model.tuning.ladder_rank == 2 and self.state.step == 2:
            self._save()
            raise Interrupted("as a test asked", hint="another place")

    monkeypatch.setattr(Trainer, "_step", stopped)
    with pytest.raises(Interrupted) as stop:
        fit_recipe(rungs, tmp_path / "cut")
    assert str(tmp_path / "cut") in stop.value.hint
    monkeypatch.setattr(Trainer, "_step", own)
    again = fit_recipe(rungs, resume=tmp_path / "cut")
    told = ("tuning", "accuracy", "gain", "note")
    assert [[row.get(name) for name in told] for row in rows_of(again.run)] == [
        [row.get(name) for name in told] for row in rows_of(whole.run)
    ]
    one, other = (read_tensors(folder / "model.safetensors") for folder in (whole.run, again.run))
    assert all(bool((one[name] == other[name]).all()) for name in one)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"data.val": 0}, DataError, "compares tunings on validation images"),
        ({"tuning": {"name": "auto", "rank": 3}}, UsageError, "takes no settings"),
    ],
)
def test_what_no_ladder_can_have(rungs, tmp_path, settings, error, words):
    with pytest.raises(error, match=words):
        fit_recipe(with_settings(rungs, settings), tmp_path / "run")


def test_a_taken_folder_is_left_alone(rungs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        fit_recipe(rungs, tmp_path / "run")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["mine.txt"]
