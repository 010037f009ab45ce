"""fit --tuning auto: try tunings, cheapest first, as long as they gain and time is left.

Every trial is a run on the same images and splits, in OUT/trials. It replaces the best one before
it if its gain in the main metric on the validation images is significant: if the interval of the
paired difference lies above 0. Only the best one is scored on the test images.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from foveate.api.evaluate import evaluate
from foveate.api.evaluate.result import EvaluateResult
from foveate.api.fit.pipeline import FitResult, prepare_job, reopen_job, run_job
from foveate.errors import DataError, Interrupted, TooLittleTime, UsageError
from foveate.evaluation.metrics import paired_difference
from foveate.messages import Message
from foveate.modeling.tunings import TUNINGS
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.run.lock import LOCK_FILES
from foveate.training.clock import TimeBudget
from foveate.training.data import read_data
from foveate.training.job import PreparedData
from foveate.training.resolve import without_unused_settings
from foveate.types import Decision, Score, Table
from foveate.utils import log
from foveate.utils.files import atomic_write
from foveate.utils.invocation import shell_command

AUTO = "auto"
# trials in a row without a gain; a costly one that gains often follows one that does not
_MAX_WITHOUT_GAIN = 2
_OVERHEAD = 2.0  # seconds for unmeasured work: writing weights, copying the best one
_INITIAL_RESERVE = 0.25  # share of the budget kept for evaluation until its cost is measured
_MIN_EPOCHS = 3  # of a trial: fewer say nothing about a tuning


@dataclass
class TuningTrial:
    """A tuning that was tried, or why it was not.

    Attributes:
        tuning: Its name.
        result: Its run, if it was tried.
        gain: Gain over the best one before.
        note: Outcome, or why it was not tried.
    """

    tuning: str
    result: FitResult | None = None
    gain: Score | None = None
    note: Message | None = None

    @property
    def note_text(self) -> str:
        """The note in English; "" without one."""
        return "" if self.note is None else str(self.note)

    def row(self) -> dict[str, Any]:
        """Its row of the leaderboard."""
        if self.result is None or self.result.evaluation is None:
            return {"tuning": self.tuning, "note": self.note_text}
        scores, outcome = self.result.evaluation.scores, self.result.outcome
        main, gain = scores.numbers[scores.main], self.gain
        size = (self.result.run / "model.safetensors").stat().st_size
        row = {"tuning": self.tuning, scores.main: main.value, "low": main.low, "high": main.high}
        if gain is not None:
            row |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        return {
            **row,
            "trained": outcome["parameters"]["trained"],
            "megabytes": size / 1e6,
            "seconds": outcome["seconds"],
            "note": self.note_text,
        }


@dataclass(frozen=True)
class AutoTuningResult(FitResult):
    """The result of the best tuning, and the `leaderboard`: a row per tuning, cheapest first."""

    columns: ClassVar[list[str]] = [
        "tuning",
        "validation",
        "gain",
        "trained",
        "MB",
        "seconds",
        "note",
    ]
    leaderboard: list[TuningTrial]

    @property
    def rows(self) -> list[list[str]]:
        return [_cells(trial) for trial in self.leaderboard]

    def numbers(self) -> dict[str, Any]:
        rows = [trial.row() for trial in self.leaderboard]
        return {
            **super().numbers(),
            "tuning": Run(self.run).recipe().tuning.name,
            "leaderboard": rows,
        }


def _without_settings(tuning: str, names: list[str]) -> Message:
    """Say which settings of the user a trial cannot honor."""
    text = "{tuning} is tried without {settings}, which it cannot honor"
    return Message("tuning.without_settings", text, tuning=tuning, settings=", ".join(names))


def _cells(trial: TuningTrial) -> list[str]:
    if trial.result is None or trial.result.evaluation is None:
        return [trial.tuning, "", "", "", "", "", trial.note_text]
    row, scores = trial.row(), trial.result.evaluation.scores
    gain = trial.gain.signed if trial.gain else ""
    size = [f"{row['trained']:,}", f"{row['megabytes']:.2f}", f"{row['seconds']:.0f}"]
    return [trial.tuning, str(scores.numbers[scores.main]), gain, *size, trial.note_text]


class Clock:
    """A budget in seconds from a moment of time.monotonic(); endless without minutes."""

    def __init__(self, minutes: float | None, started: float) -> None:
        self.end = math.inf if minutes is None else started + 60 * minutes
        self.budget = self.end - started

    def left(self) -> float:
        return self.end - time.monotonic()


def search_tunings(recipe: Recipe, out: Path | None, started: float) -> FitResult:
    """Search for the best tuning in a new run folder.

    Args:
        recipe: The recipe, with `tuning: auto`.
        out: Run folder to create.
        started: Start of the time budget, in seconds of `time.monotonic()`.

    Raises:
        UsageError: The recipe has settings of a tuning.
    """
    if recipe.tuning.settings:
        raise UsageError(
            "--tuning auto takes no settings of a tuning",
            where="tuning",
            hint="--tuning lora --set tuning.rank=4",
        )
    Run.require_free(out, recipe.data.path)
    table = read_data(recipe)
    run = Run.create(out, f"{Path(recipe.data.path).resolve().stem}-{AUTO}")
    run.write_recipe(recipe, only_set=True)
    with run.locked():
        return _TuningSearch(
            run, recipe, table, Clock(recipe.training.minutes, started)
        ).run_trials()


def resume_search(run: Run, started: float) -> FitResult:
    """Resume an interrupted search; finished trials count, an unfinished one is resumed."""
    recipe = run.recipe()
    with run.locked():
        run.remove_partial_files()
        return _TuningSearch(
            run, recipe, read_data(recipe), Clock(recipe.training.minutes, started)
        ).run_trials()


class _TuningSearch:
    """The state of one search over tunings."""

    def __init__(self, run: Run, recipe: Recipe, table: Table, clock: Clock) -> None:
        self.run, self.table, self.clock = run, table, clock
        # the clock bounds all trials together
        self.recipe = with_settings(recipe, {"training.minutes": None})
        self.trials: list[TuningTrial] = []
        self.best: TuningTrial | None = None
        self.data: PreparedData | None = None
        self.seconds_per_image = 0.0  # measured on the first trial
        self.evaluation_overhead = _OVERHEAD  # seconds of an evaluation, besides inference

    def run_trials(self) -> AutoTuningResult:
        try:
            idle = 0
            groups = list(_groups())
            for index, names in enumerate(groups):
                if idle >= _MAX_WITHOUT_GAIN:
                    self.trials.append(
                        TuningTrial(
                            " or ".join(names),
                            note=Message(
                                "tuning.no_gains",
                                "not tried: {count:method|methods} in a row brought no gain",
                                count=_MAX_WITHOUT_GAIN,
                            ),
                        )
                    )
                else:
                    improved = self._try(names, len(groups) - index)
                    idle = idle if improved is None else 0 if improved else idle + 1
        except Interrupted as stop:
            stop.where, stop.hint = (
                self.run.folder,
                shell_command("fit", "--resume", self.run.folder),
            )
            raise
        return self._finish()

    def _try(self, names: list[str], left: int) -> bool | None:
        """Try a trial; return whether it is now the best, None if it could not be tried."""
        trial = self._run_first_applicable(names, left)
        self.trials.append(trial)
        if trial.result is None or trial.result.evaluation is None:
            return None
        if self.best is None:
            self.best = trial
            return True
        before = self.best.result
        assert before is not None
        assert before.evaluation is not None
        trial.gain = paired_difference(
            trial.result.evaluation.metric,
            before.evaluation.metric,
            _images(trial.result.evaluation),
        )
        if trial.gain.low is None or not trial.gain.low > 0:
            trial.note = Message(
                "tuning.no_gain",
                "no significant gain over {tuning}",
                tuning=self.best.tuning,
            )
            return False
        trial.note = Message("tuning.better", "better than {tuning}", tuning=self.best.tuning)
        self.best = trial
        return True

    def _run_first_applicable(self, names: list[str], left: int) -> TuningTrial:
        """Run the first tuning that fits this backbone and task, or note why none was run."""
        refusal: UsageError | None = None
        for name in names:
            try:
                log.info(f"trying {name}")
                return TuningTrial(name, self._fit(name, left))
            except UsageError as error:
                refusal = error
            except TooLittleTime as error:
                shutil.rmtree(self._folder(name), ignore_errors=True)
                note = Message("tuning.not_tried", "not tried: {reason}", reason=error.what)
                return TuningTrial(name, note=note)
        assert refusal is not None
        if not self.trials:
            raise refusal
        note = Message("tuning.unsuitable", "not applicable: {reason}", reason=refusal.what)
        return TuningTrial(" or ".join(names), note=note)

    def _fit(self, name: str, left: int) -> FitResult:
        folder, recipe = self._folder(name), with_settings(self.recipe, {"tuning": name})
        budget = self._budget(left)
        if (folder / "recipe.yaml").is_file():
            return self._measure_costs(self._resume_trial(Run(folder), budget))
        if self.best is not None and self.data is not None and budget is not None:
            self._require_time(self.data, budget)
        recipe, unused = without_unused_settings(recipe, self.table)
        if unused:
            log.info(_without_settings(name, unused))
        job = prepare_job(recipe, self.table, folder, self.data, budget, ("val",))
        self.data = job.data
        if not job.indices("val"):
            raise DataError(
                "--tuning auto compares tunings on validation images, and there are none",
                hint="--set data.val=0.15",
            )
        with job.run.locked():
            return self._measure_costs(run_job(job))

    def _resume_trial(self, run: Run, budget: TimeBudget | None) -> FitResult:
        """Resume or re-read a trial of an interrupted search."""
        if run.finished:
            return FitResult(run.folder, evaluate(run.folder, split="val"), run.outcome())
        with run.locked():
            run.remove_partial_files()
            return run_job(reopen_job(run, budget=budget, evaluated=("val",)))

    def _measure_costs(self, result: FitResult) -> FitResult:
        """Measure the cost of an evaluation on the first one."""
        if not self.seconds_per_image and result.evaluation is not None:
            self.seconds_per_image = result.evaluation.inference_seconds / _images(
                result.evaluation
            )
            self.evaluation_overhead = (
                result.evaluation.seconds - result.evaluation.inference_seconds
            )
        return result

    def _budget(self, left: int) -> TimeBudget | None:
        """Return the time of the next trial, up to the end of its evaluation.

        It is at most half of all the time, so that a costlier trial has a chance; the last one has
        all that is left, and trains for as long unless epochs were asked for. The first one always
        runs, so that there is a result; the others need the time for some epochs.
        """
        if self.clock.budget == math.inf:
            return None
        free = max(1.0, self.clock.left() - self._reserve())
        seconds = free if left == 1 else min(free, self.clock.budget / 2)
        return TimeBudget(
            seconds / 60,
            time.monotonic(),
            open_end=left == 1 and not self.recipe.is_set("training.epochs"),
            min_epochs=0 if self.best is None else _MIN_EPOCHS,
            resumable=False,
        )

    def _reserve(self) -> float:
        """Return the seconds to keep for the test of the best one."""
        if self.data is None:
            return _INITIAL_RESERVE * self.clock.budget
        splits = [sample.split for sample in self.data.scanned.table.samples]
        per_image = self.seconds_per_image + self.data.read_seconds
        return per_image * splits.count("test") + self.evaluation_overhead + _OVERHEAD

    def _require_time(self, data: PreparedData, budget: TimeBudget) -> None:
        """Raise TooLittleTime if even the inference of three epochs exceeds the time left."""
        images = len(data.scanned.table.in_split("train"))
        needed, left = _MIN_EPOCHS * self.seconds_per_image * images, budget.left()
        if left < needed:
            raise TooLittleTime(
                f"three epochs take at least {needed:.0f} s, {max(0, left):.0f} s are left"
            )

    def _folder(self, name: str) -> Path:
        return self.run.folder / "trials" / name

    def _finish(self) -> AutoTuningResult:
        """Adopt the files of the best one as the run's, and score it on the test images."""
        assert self.best is not None
        assert self.best.result is not None
        name, folder = self.best.tuning, self._folder(self.best.tuning)
        chosen = Message("tuning.chosen", "chosen")
        if self.best.note is not None:
            chosen = Message("tuning.chosen_too", "{note}, chosen", note=self.best.note)
        self.best.note = chosen
        self.best.result = replace(self.best.result, run=self.run.folder)
        tested = any(row["split"] == "test" for row in Run(folder).splits())
        self._adopt_files(
            folder,
            without={*LOCK_FILES, "checkpoints", *(() if tested else ("evaluations",))},
        )
        tried = ", ".join(trial.tuning for trial in self.trials if trial.result)
        text = "the cheapest with a significant gain over those before it, of {tried}"
        reason = Message("choice.cheapest_gain", text, tried=tried)
        self.run.record([Decision("tuning", name, reason)])
        evaluation = evaluate(self.run.folder, split="test" if tested else "val")
        if self.clock.left() < 0:
            log.warning(
                f"over the time budget by {-self.clock.left():.0f} s: "
                "even the cheapest tuning takes longer"
            )
        return AutoTuningResult(self.run.folder, evaluation, self.best.result.outcome, self.trials)

    def _adopt_files(self, folder: Path, without: set[str]) -> None:
        """Move the files of a trial into the run, finished.json last."""
        entries = [entry for entry in folder.iterdir() if entry.name not in without]
        for entry in sorted(entries, key=lambda entry: entry.name == "finished.json"):
            with atomic_write(self.run.folder / entry.name) as partial:
                (shutil.copytree if entry.is_dir() else shutil.copy2)(entry, partial)
        shutil.rmtree(folder)
        rows = [
            {**trial.row(), "note_message": trial.note.row() if trial.note else None}
            for trial in self.trials
        ]
        self.run.write_json("leaderboard.json", rows)


def _images(evaluation: EvaluateResult) -> int:
    return evaluation.scores.numbers[evaluation.scores.main].count


def _groups() -> Iterator[list[str]]:
    """Groups of alternatives, cheapest first: tunings whose ranks have the same integer part."""
    ranks = {
        name: rank
        for name in TUNINGS.names()
        if (rank := TUNINGS.get(name).search_rank) is not None
    }
    ordered = sorted(ranks, key=lambda name: ranks[name])
    for _, names in groupby(ordered, key=lambda name: int(ranks[name])):
        yield list(names)
