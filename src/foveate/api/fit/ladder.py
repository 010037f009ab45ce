"""fit --tuning auto: try tunings from the cheapest on, as long as they gain and time is left.

Every rung of this ladder is a run on the same images and splits, in OUT/rungs. A rung replaces the
best one before it if its gain in the main metric on the validation images is significant by a
paired bootstrap. Only the winner is scored on the test images.
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
from foveate.training.data import read_data
from foveate.training.job import PreparedData
from foveate.types import Decision, Score, Table
from foveate.utils import log
from foveate.utils.files import atomic_write

AUTO = "auto"
# rungs in a row without a gain; a costly one that gains often follows one that does not
_MAX_WITHOUT_GAIN = 2
_OVERHEAD = 2.0  # seconds for unmeasured work: writing weights, copying the winner
_INITIAL_RESERVE = 0.25  # share of the budget kept for evaluation until its cost is measured
_VALIDATION_PASSES = 3  # passes over the validation images after the last step of a rung


@dataclass
class Rung:
    """A tuning that was tried, or why it was not. `gain`: over the best rung before."""

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
        main, size = (
            scores.numbers[scores.main],
            (self.result.run / "model.safetensors").stat().st_size,
        )
        gained = (
            {}
            if self.gain is None
            else {"gain": self.gain.value, "gain_low": self.gain.low, "gain_high": self.gain.high}
        )
        told = {
            "trained": outcome["parameters"]["trained"],
            "megabytes": size / 1e6,
            "seconds": outcome["seconds"],
        }
        found = {"tuning": self.tuning, scores.main: main.value, "low": main.low, "high": main.high}
        return {**found, **gained, **told, "note": self.note_text}


@dataclass(frozen=True)
class LadderResult(FitResult):
    """The winner's result, and the `leaderboard`: a row a rung, the cheapest first."""

    columns: ClassVar[list[str]] = [
        "tuning",
        "validation",
        "gain",
        "trained",
        "MB",
        "seconds",
        "note",
    ]
    leaderboard: list[Rung]

    @property
    def rows(self) -> list[list[str]]:
        return [_cells(rung) for rung in self.leaderboard]

    def numbers(self) -> dict[str, Any]:
        rows = [rung.row() for rung in self.leaderboard]
        return {
            **super().numbers(),
            "tuning": Run(self.run).recipe().tuning.name,
            "leaderboard": rows,
        }


def _cells(rung: Rung) -> list[str]:
    if rung.result is None or rung.result.evaluation is None:
        return [rung.tuning, "", "", "", "", "", rung.note_text]
    row, scores = rung.row(), rung.result.evaluation.scores
    gained = (
        f"{rung.gain.value:+.3f} [{rung.gain.low:+.3f}, {rung.gain.high:+.3f}]" if rung.gain else ""
    )
    size = [f"{row['trained']:,}", f"{row['megabytes']:.2f}", f"{row['seconds']:.0f}"]
    return [rung.tuning, str(scores.numbers[scores.main]), gained, *size, rung.note_text]


class Clock:
    """A budget in seconds from a moment of time.monotonic(); endless without minutes."""

    def __init__(self, minutes: float | None, started: float) -> None:
        self.end = math.inf if minutes is None else started + 60 * minutes
        self.whole = self.end - started

    def left(self) -> float:
        return self.end - time.monotonic()


def climb(recipe: Recipe, out: Path | None, started: float) -> FitResult:
    """A new ladder in a new run folder. Raises UsageError for settings that no ladder can have."""
    if recipe.tuning.settings:
        raise UsageError(
            "the ladder takes no settings of a tuning",
            where="tuning",
            hint="--tuning lora --set tuning.rank=4",
        )
    Run.require_free(out)
    table = read_data(recipe)
    run = Run.create(out, f"{Path(recipe.data.path).resolve().stem}-{AUTO}")
    run.write_recipe(recipe, only_set=True)
    with run.locked():
        return _Ladder(run, recipe, table, Clock(recipe.training.minutes, started)).climb()


def resume_ladder(run: Run, started: float) -> FitResult:
    """Resume an interrupted ladder; finished rungs count, an unfinished one is resumed."""
    recipe = run.recipe()
    with run.locked():
        run.remove_partial_files()
        return _Ladder(
            run, recipe, read_data(recipe), Clock(recipe.training.minutes, started)
        ).climb()


class _Ladder:
    """The state of one search over tunings."""

    def __init__(self, run: Run, recipe: Recipe, table: Table, clock: Clock) -> None:
        self.run, self.table, self.clock = run, table, clock
        # the clock bounds all rungs together
        self.recipe = with_settings(recipe, {"training.minutes": None})
        self.rungs: list[Rung] = []
        self.best: Rung | None = None
        self.data: PreparedData | None = None
        self.seconds_per_image = 0.0  # measured on the first rung
        self.evaluation_overhead = _OVERHEAD  # seconds of an evaluation, besides inference

    def climb(self) -> LadderResult:
        try:
            idle = 0
            groups = list(_groups())
            for place, names in enumerate(groups):
                if idle >= _MAX_WITHOUT_GAIN:
                    self.rungs.append(
                        Rung(
                            " or ".join(names),
                            note=Message(
                                "ladder.no_gains",
                                "not tried: {count:method|methods} in a row brought no gain",
                                count=_MAX_WITHOUT_GAIN,
                            ),
                        )
                    )
                else:
                    gained = self._try_rung(names, len(groups) - place)
                    idle = idle if gained is None else 0 if gained else idle + 1
        except Interrupted as stop:
            stop.where, stop.hint = self.run.folder, f"foveate fit --resume {self.run.folder}"
            raise
        return self._finish()

    def _try_rung(self, names: list[str], left: int) -> bool | None:
        """Try a rung; return whether it is now the best, None if it could not be tried."""
        rung = self._run_first_applicable(names, left)
        self.rungs.append(rung)
        if rung.result is None or rung.result.evaluation is None:
            return None
        if self.best is None:
            self.best = rung
            return True
        before = self.best.result
        assert before is not None
        assert before.evaluation is not None
        rung.gain = paired_difference(
            rung.result.evaluation.metric, before.evaluation.metric, _images(rung.result.evaluation)
        )
        if rung.gain.low is None or not rung.gain.low > 0:
            rung.note = Message(
                "ladder.no_gain",
                "no significant gain over {tuning}",
                tuning=self.best.tuning,
            )
            return False
        rung.note = Message("ladder.better", "better than {tuning}", tuning=self.best.tuning)
        self.best = rung
        return True

    def _run_first_applicable(self, names: list[str], left: int) -> Rung:
        """Run the first tuning that fits this backbone and task, or note why none was run."""
        refusal: UsageError | None = None
        for name in names:
            try:
                log.info(f"rung {name}:")
                return Rung(name, self._fit(name, left))
            except UsageError as error:
                refusal = error
            except TooLittleTime as error:
                shutil.rmtree(self._folder(name), ignore_errors=True)
                note = Message("ladder.not_tried", "not tried: {reason}", reason=error.what)
                return Rung(name, note=note)
        assert refusal is not None
        if not self.rungs:
            raise refusal
        note = Message("ladder.unsuitable", "not applicable: {reason}", reason=refusal.what)
        return Rung(" or ".join(names), note=note)

    def _fit(self, name: str, left: int) -> FitResult:
        folder, recipe = self._folder(name), with_settings(self.recipe, {"tuning": name})
        if (folder / "recipe.yaml").is_file():
            return self._measure_costs(self._resume_rung(Run(folder)))
        deadline = self._deadline(left)
        if self.best is not None and self.data is not None and deadline is not None:
            self._require_time(self.data, deadline)
        elif self.best is None and deadline is not None:
            # the first rung always runs, so that there is a result
            recipe = with_settings(
                recipe, {"training.minutes": max(1.0, deadline - time.monotonic()) / 60}
            )
            deadline = None
        job = prepare_job(recipe, self.table, folder, self.data)
        self.data = job.data
        if not job.indices("val"):
            raise DataError(
                "--tuning auto compares tunings on validation images, and there are none",
                hint="--set data.val=0.15",
            )
        job.deadline = deadline
        with job.run.locked():
            return self._measure_costs(run_job(job, ["val"]))

    def _resume_rung(self, run: Run) -> FitResult:
        """Resume or re-read a rung of an interrupted ladder."""
        if run.finished:
            return FitResult(run.folder, evaluate(run.folder, split="val"), run.outcome())
        with run.locked():
            run.remove_partial_files()
            return run_job(reopen_job(run), ["val"])

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

    def _deadline(self, left: int) -> float | None:
        """Deadline of the next rung's training.

        At most half of the budget, so that a costlier rung has a chance; all that is left for the
        last.
        """
        if self.clock.whole == math.inf:
            return None
        free = self.clock.left() - (
            self._reserve() if self.data else _INITIAL_RESERVE * self.clock.whole
        )
        return time.monotonic() + (free if left == 1 else min(free, self.clock.whole / 2))

    def _reserve(self) -> float:
        """Seconds to keep for the validation of the rung and the test of the winner."""
        assert self.data is not None
        splits = [sample.split for sample in self.data.scanned.table.samples]
        return (
            self.seconds_per_image
            * (_VALIDATION_PASSES * splits.count("val") + splits.count("test"))
            + 2 * self.evaluation_overhead
            + _OVERHEAD
        )

    def _require_time(self, ground: PreparedData, deadline: float) -> None:
        """Raise TooLittleTime if even the inference of three epochs exceeds the time left."""
        images = len(ground.scanned.table.in_split("train"))
        least, there = 3 * self.seconds_per_image * images, deadline - time.monotonic()
        if there < least:
            raise TooLittleTime(
                f"three epochs take at least {least:.0f} s, {max(0, there):.0f} s are left"
            )

    def _folder(self, name: str) -> Path:
        return self.run.folder / "rungs" / name

    def _finish(self) -> LadderResult:
        """Adopt the files of the winner as the run's, and score it on the test images."""
        assert self.best is not None
        assert self.best.result is not None
        name, folder = self.best.tuning, self._folder(self.best.tuning)
        chosen = Message("ladder.chosen", "chosen")
        if self.best.note is not None:
            chosen = Message("ladder.chosen_too", "{note}, chosen", note=self.best.note)
        self.best.note = chosen
        self.best.result = replace(self.best.result, run=self.run.folder)
        tested = any(row["split"] == "test" for row in Run(folder).splits())
        self._adopt_files(
            folder,
            without={*LOCK_FILES, "checkpoints", *(() if tested else ("evaluations",))},
        )
        tried = ", ".join(rung.tuning for rung in self.rungs if rung.result)
        reason = f"the cheapest with a significant gain over those before it, of {tried}"
        self.run.record([Decision("tuning", name, reason)])
        evaluation = evaluate(self.run.folder, split="test" if tested else "val")
        if self.clock.left() < 0:
            log.warning(
                f"over the time budget by {-self.clock.left():.0f} s: "
                "even the cheapest tuning takes longer"
            )
        return LadderResult(self.run.folder, evaluation, self.best.result.outcome, self.rungs)

    def _adopt_files(self, folder: Path, without: set[str]) -> None:
        """Move the files of a rung into the run, finished.json last."""
        entries = [entry for entry in folder.iterdir() if entry.name not in without]
        for entry in sorted(entries, key=lambda entry: entry.name == "finished.json"):
            with atomic_write(self.run.folder / entry.name) as aside:
                (shutil.copytree if entry.is_dir() else shutil.copy2)(entry, aside)
        shutil.rmtree(folder)
        rows = [
            {**rung.row(), "note_message": rung.note.row() if rung.note else None}
            for rung in self.rungs
        ]
        self.run.write_json("leaderboard.json", rows)


def _images(evaluation: EvaluateResult) -> int:
    return evaluation.scores.numbers[evaluation.scores.main].count


def _groups() -> Iterator[list[str]]:
    """Names of tunings by rung, the cheapest first."""
    rungs = {
        name: rung
        for name in TUNINGS.names()
        if (rung := TUNINGS.get(name).ladder_rank) is not None
    }
    for _, names in groupby(
        sorted(rungs, key=lambda name: rungs[name]), key=lambda name: int(rungs[name])
    ):
        yield list(names)
