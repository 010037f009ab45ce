"""fit --tuning auto: try tunings, cheapest first, as long as they gain and time is left.

Every trial is a run on the same images and splits, in OUT/trials. Validation images are often like
the training images, so that all tunings look alike on them. Where each image has one class, whole
clusters of look-alikes are therefore held out from all trials, as a second validation part. A trial
replaces the best one before it if its gain in the main metric on one of the parts is significant,
that is, if the interval of the paired difference lies above 0, and it is not worse on the other.

The best one is trained again with the look-alikes, if there is time, and alone scored on the test
images.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from foveate.api.evaluate import evaluate
from foveate.api.evaluate.result import EvaluateResult
from foveate.api.fit.pipeline import FitResult, prepare_job, reopen_job, run_job
from foveate.api.fit.tuning_trials import AutoTuningResult, TuningTrial, gain_over
from foveate.api.fit.unlike_part import hold_out_look_alikes
from foveate.errors import DataError, Interrupted, TooLittleTime, UsageError
from foveate.messages import Message
from foveate.modeling.tunings import TUNINGS
from foveate.recipe import Recipe, with_settings
from foveate.run.folder import Run
from foveate.run.lock import LOCK_FILES
from foveate.training.clock import TimeBudget
from foveate.training.data import read_data
from foveate.training.job import DataAudit, Job, PreparedData
from foveate.training.resolve import without_unused_settings
from foveate.types import Decision, Table
from foveate.utils import log
from foveate.utils.files import atomic_write
from foveate.utils.invocation import shell_command

AUTO = "auto"
# trials in a row without a gain; a costly one that gains often follows one that does not
_MAX_WITHOUT_GAIN = 2
_OVERHEAD = 2.0  # seconds for unmeasured work: writing weights, copying the best one
_INITIAL_RESERVE = 0.25  # share of the budget kept for evaluation until its cost is measured
_MIN_EPOCHS = 3  # of a trial: fewer say nothing about a tuning
_FINAL = "final"  # folder of the training with all images, in trials
_STEP = 4  # cost of an image in training, with validation, in forward passes
_RETRAINING = 1.5  # its cost, in trainings without the look-alikes


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
        return _TuningSearch(run, recipe, table, _clock(recipe, started)).run_trials()


def resume_search(run: Run, started: float) -> FitResult:
    """Resume an interrupted search; finished trials count, an unfinished one is resumed."""
    recipe = run.recipe()
    with run.locked():
        run.remove_partial_files()
        return _TuningSearch(run, recipe, read_data(recipe), _clock(recipe, started)).run_trials()


def _clock(recipe: Recipe, started: float) -> TimeBudget:
    """The time of all trials together; endless without minutes."""
    minutes = recipe.training.minutes
    return TimeBudget(math.inf if minutes is None else minutes, started)


class _TuningSearch:
    """The state of one search over tunings."""

    def __init__(self, run: Run, recipe: Recipe, table: Table, clock: TimeBudget) -> None:
        self.run, self.table, self.clock = run, table, clock
        # the clock bounds all trials together
        self.recipe = with_settings(recipe, {"training.minutes": None})
        self.trials: list[TuningTrial] = []
        self.best: TuningTrial | None = None
        self.data: PreparedData | None = None  # of the trials
        self.all_data: PreparedData | None = None  # with nothing held out
        self.audit: DataAudit | None = None  # measured once, by the first trial that can
        self.seconds_per_image = 0.0  # measured on the first trial
        self.evaluation_overhead = _OVERHEAD  # seconds of an evaluation, besides inference

    def run_trials(self) -> AutoTuningResult:
        try:
            idle = 0
            groups = list(_groups())
            for index, names in enumerate(groups):
                # the costliest can be better on unlike images where none of the cheap ones is
                is_decisive = index == len(groups) - 1 and self._holds_out
                if idle >= _MAX_WITHOUT_GAIN and not is_decisive:
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
        better = trial.is_better_than(self.best)
        self.best = trial if better else self.best
        return better

    def _run_first_applicable(self, names: list[str], left: int) -> TuningTrial:
        """Run the first tuning that fits this backbone and task, or note why none was run."""
        refusal: UsageError | None = None
        for name in names:
            try:
                log.info(f"trying {name}")
                result = self._fit_in_time(name, left)
                return TuningTrial(name, result, self._score_unlike(result))
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

    def _fit_in_time(self, name: str, left: int) -> FitResult:
        """Run a trial; the last one without time for the training with all images, if need be."""
        try:
            return self._fit(name, left, self._budget(left))
        except TooLittleTime:
            if left > 1 or not self._holds_out:
                raise
            shutil.rmtree(self._folder(name), ignore_errors=True)
            return self._fit(name, left, self._budget_of(self._free(), left))

    def _fit(self, name: str, left: int, budget: TimeBudget | None) -> FitResult:
        folder, recipe = self._folder(name), with_settings(self.recipe, {"tuning": name})
        if (folder / "recipe.yaml").is_file():
            return self._measure_costs(self._resume_trial(Run(folder), budget))
        if self.best is not None and self.data is not None and budget is not None:
            self._require_time(self.data, budget)
            if self._holds_out and left > 1:
                self._keep_time_for_costliest(budget)
        recipe, unused = without_unused_settings(recipe, self.table)
        if unused:
            log.info(_without_settings(name, unused))
        hold_out = None if self.data else self._hold_out
        job = prepare_job(recipe, self.table, folder, self.data, budget, ("val",), hold_out)
        self.data = job.data
        if not job.indices("val"):
            raise DataError(
                "--tuning auto compares tunings on validation images, and there are none",
                hint="--set data.val=0.15",
            )
        job.audit = self.audit
        with job.run.locked():
            return self._measure_costs(run_job(job))

    def _hold_out(self, job: Job) -> PreparedData:
        """Hold look-alikes out from the training images of all trials."""
        self.all_data = job.data
        trials = [path.parent for path in (self.run.folder / "trials").glob("*/splits.csv")]
        return hold_out_look_alikes(job, [each for each in trials if each.name != _FINAL])

    @property
    def _holds_out(self) -> bool:
        """Whether look-alikes are held out from the trials."""
        return self.best is not None and self.best.unlike is not None

    def _score_unlike(self, result: FitResult) -> EvaluateResult | None:
        """Score a trial on the look-alikes that are held out; None if there are none."""
        if not any(row["split"] == "unlike" for row in Run(result.run).splits()):
            return None
        return evaluate(result.run, split="unlike", device=self.recipe.device)

    def _resume_trial(self, run: Run, budget: TimeBudget | None) -> FitResult:
        """Resume or re-read a trial of an interrupted search."""
        if run.finished:
            return FitResult(run.folder, evaluate(run.folder, split="val"), run.outcome())
        with run.locked():
            run.remove_partial_files()
            job = reopen_job(run, budget=budget, evaluated=("val",))
            job.audit = self.audit
            return run_job(job)

    def _measure_costs(self, result: FitResult) -> FitResult:
        """Measure the cost of an evaluation on the first one, and keep its audit of the data."""
        if result.outcome["leakage_audit"] or result.outcome["unlike"]:
            self.audit = DataAudit(result.outcome["leakage_audit"], result.outcome["unlike"])
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
        all that is left. Where look-alikes are held out, equal shares for the trials that are left,
        two for the last and as many again for the training with all images.
        """
        free = max(1.0, self._free())
        if self._holds_out:
            last = free / (1 + _RETRAINING + (left - 1) / 2)
            return self._budget_of(last if left == 1 else last / 2, left)
        return self._budget_of(free if left == 1 else min(free, self.clock.seconds / 2), left)

    def _budget_of(self, seconds: float, left: int) -> TimeBudget | None:
        """Return so many seconds from now; None if there is no end.

        The last trial trains for as long unless epochs were asked for. The first one always runs,
        so that there is a result; the others need the time for some epochs.
        """
        if seconds == math.inf:
            return None
        return TimeBudget(
            seconds / 60,
            time.monotonic(),
            open_end=left == 1 and not self.recipe.is_set("training.epochs"),
            min_epochs=0 if self.best is None else _MIN_EPOCHS,
            resumable=False,
        )

    def _free(self) -> float:
        """Seconds that are left for training."""
        if self.clock.seconds == math.inf:
            return math.inf
        return self.clock.left() - self._reserve()

    def _reserve(self) -> float:
        """Return the seconds to keep for the look-alikes of the trial and the test of the best."""
        if self.data is None:
            return _INITIAL_RESERVE * self.clock.seconds
        splits = [sample.split for sample in self.data.scanned.table.samples]
        unlike = splits.count("unlike")
        per_image = self.seconds_per_image + self.data.read_seconds
        evaluations = self.evaluation_overhead * (2 if unlike else 1)
        return per_image * (splits.count("test") + unlike) + evaluations + _OVERHEAD

    def _require_time(self, data: PreparedData, budget: TimeBudget) -> None:
        """Raise TooLittleTime if even the inference of three epochs exceeds the time left."""
        images = len(data.scanned.table.in_split("train"))
        needed, left = _MIN_EPOCHS * self.seconds_per_image * images, budget.left()
        if left < needed:
            raise TooLittleTime(
                f"three epochs take at least {needed:.0f} s, {max(0, left):.0f} s are left"
            )

    def _keep_time_for_costliest(self, budget: TimeBudget) -> None:
        """Raise TooLittleTime if the costliest trial does not fit beside one with this budget.

        It is the one that can be better on unlike images where the cheap ones are not.
        """
        later = self._free() - budget.left()
        if later < (1 + _RETRAINING) * self._least_seconds():
            raise TooLittleTime(f"the time is kept for {list(_groups())[-1][-1]}")

    def _least_seconds(self) -> float:
        """Estimate what three epochs of training take, by the time of inference."""
        assert self.data is not None
        images = len(self.data.scanned.table.in_split("train"))
        return _MIN_EPOCHS * _STEP * self.seconds_per_image * images

    def _folder(self, name: str) -> Path:
        return self.run.folder / "trials" / name

    def _finish(self) -> AutoTuningResult:
        """Adopt the files of the best one as the run's, and score it on the test images."""
        assert self.best is not None
        assert self.best.result is not None
        best, result, outcome = self.best, self.best.result, self.best.result.outcome
        chosen = Message("tuning.chosen", "chosen")
        if best.note is not None:
            chosen = Message("tuning.chosen_too", "{note}, chosen", note=best.note)
        best.note = chosen
        folder, decisions = self._folder(best.tuning), list[Decision]()
        if self._holds_out:
            final = self._train_with_all(best)
            if isinstance(final, Message):
                log.warning(final)
                decisions.append(Decision("splits", "unlike images stay held out", final))
            else:
                folder, outcome = final.run, final.outcome
        tested = any(row["split"] == "test" for row in Run(folder).splits())
        rows = [
            {**trial.row(), "note_message": trial.note.row() if trial.note else None}
            for trial in self.trials
        ]
        self._adopt_files(
            folder,
            without={*LOCK_FILES, "checkpoints", *(() if tested else ("evaluations",))},
        )
        self.run.write_json("leaderboard.json", rows)
        best.result = replace(result, run=self.run.folder)
        tried = ", ".join(trial.tuning for trial in self.trials if trial.result)
        text = "the cheapest with a significant gain over those before it, of {tried}"
        reason = Message("choice.cheapest_gain", text, tried=tried)
        self.run.record([Decision("tuning", best.tuning, reason), *decisions])
        evaluation = evaluate(self.run.folder, split="test" if tested else "val")
        if self.clock.left() < 0:
            log.warning(
                f"over the time budget by {-self.clock.left():.0f} s: "
                "even the cheapest tuning takes longer"
            )
        return AutoTuningResult(self.run.folder, evaluation, outcome, self.trials)

    def _train_with_all(self, best: TuningTrial) -> FitResult | Message:
        """Train the best one again, with the look-alikes that were held out from the trials.

        Returns:
            Its run; or why the weights of the trial are kept.
        """
        folder = self._folder(_FINAL)
        begun = (folder / "recipe.yaml").is_file()
        final = (
            self._resume_trial(Run(folder), self._budget_of(self._free(), 2))
            if begun
            else self._fit_with_all(best, folder)
        )
        if isinstance(final, Message):
            return final
        assert best.evaluation is not None
        assert final.evaluation is not None
        loss = gain_over(best.evaluation, final.evaluation)
        if loss.low is None or loss.low <= 0:
            return final
        return Message(
            "tuning.all_is_worse",
            "the weights of the trial are kept: training with the images that were held out as "
            "well is worse on the validation images, by {loss}",
            loss=loss.with_interval,
        )

    def _fit_with_all(self, best: TuningTrial, folder: Path) -> FitResult | Message:
        """As `_train_with_all`, in a new folder, with the settings of the trial."""
        assert best.result is not None
        trial = Run(self._folder(best.tuning))
        counts = Counter(row["split"] for row in trial.splits())
        needed = best.result.outcome["seconds"] * (1 + counts["unlike"] / counts["train"])
        left = self._free()
        too_late = Message(
            "tuning.no_time_for_all",
            "the weights of the trial are kept: they were trained without {count:image|images} "
            "that were held out to compare the tunings, but training with them takes about "
            "{needed} s, and {left} s are left",
            count=counts["unlike"],
            needed=f"{needed:.0f}",
            left=f"{max(0, left):.0f}",
        )
        if needed > left:
            return too_late
        log.info(f"training {best.tuning} with all training images")
        recipe, outcome = trial.recipe(), best.result.outcome
        if outcome["epochs"]:  # where time was to decide, the recipe has an estimate
            recipe = with_settings(recipe, {"training.epochs": max(1, round(outcome["epochs"]))})
        budget = self._budget_of(left, 2)
        try:
            job = prepare_job(recipe, self.table, folder, self.all_data, budget, ("val",))
            known = {"training.epochs", *(each.field for each in job.run.decisions())}
            job.run.record([each for each in trial.decisions() if each.field not in known])
            job.audit = self.audit or DataAudit()
            with job.run.locked():
                return run_job(job)
        except TooLittleTime:
            shutil.rmtree(folder, ignore_errors=True)
            return too_late

    def _adopt_files(self, folder: Path, without: set[str]) -> None:
        """Move the files of a trial into the run, finished.json last."""
        entries = [entry for entry in folder.iterdir() if entry.name not in without]
        for entry in sorted(entries, key=lambda entry: entry.name == "finished.json"):
            with atomic_write(self.run.folder / entry.name) as partial:
                (shutil.copytree if entry.is_dir() else shutil.copy2)(entry, partial)
        shutil.rmtree(folder)


def _without_settings(tuning: str, names: list[str]) -> Message:
    """Say which settings of the user a trial cannot honor."""
    text = "{tuning} is tried without {settings}, which it cannot honor"
    return Message("tuning.without_settings", text, tuning=tuning, settings=", ".join(names))


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
