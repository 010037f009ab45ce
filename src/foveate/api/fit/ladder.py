"""fit --tuning auto: the ladder of tunings, climbed from the cheapest as long as it pays and time is left.

Every rung is a run of its own on the same pictures and splits, in OUT/rungs. A rung replaces the best one before it when its gain
in the main number on the validation images is beyond the noise, by a paired bootstrap. The winner alone sees the test images.
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
from foveate.api.fit.pipeline import FitResult, adapted, prepared, reopened
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
_PATIENCE = (
    2  # rungs in a row without a gain: the first dear one often waits behind one that does not pay
)
_ENDING = 2.0  # seconds for what nobody measured: writing weights, copying the winner
_UNKNOWN = 0.25  # of the budget is kept for the end while nobody knows what an evaluation costs
_LOOKS = 3  # passes over the validation images that a rung may need after its last step


@dataclass
class Rung:
    """A tuning that was tried, or why it was not. `gain`: over the best rung before it."""

    tuning: str
    result: FitResult | None = None
    gain: Score | None = None
    note: Message | None = None

    @property
    def note_text(self) -> str:
        """The note in English; "" without one."""
        return "" if self.note is None else str(self.note)

    def row(self) -> dict[str, Any]:
        """JSON-able: what the leaderboard says of it."""
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
        return _Climb(run, recipe, table, Clock(recipe.training.minutes, started)).whole()


def climb_on(run: Run, started: float) -> FitResult:
    """Goes on with a ladder that was interrupted: rungs that are finished count, an unfinished one is resumed."""
    recipe = run.recipe()
    with run.locked():
        run.remove_partial_files()
        return _Climb(
            run, recipe, read_data(recipe), Clock(recipe.training.minutes, started)
        ).whole()


class _Climb:
    """One ladder on its way up."""

    def __init__(self, run: Run, recipe: Recipe, table: Table, clock: Clock) -> None:
        self.run, self.table, self.clock = run, table, clock
        self.recipe = with_settings(
            recipe, {"training.minutes": None}
        )  # the clock counts for all rungs together
        self.rungs: list[Rung] = []
        self.best: Rung | None = None
        self.ground: PreparedData | None = None
        self.look = 0.0  # seconds the network needs for an image, measured on the first rung
        self.ending = _ENDING  # seconds of an evaluation beside that

    def whole(self) -> LadderResult:
        try:
            idle = 0
            groups = list(_groups())
            for place, names in enumerate(groups):
                if idle >= _PATIENCE:
                    self.rungs.append(
                        Rung(
                            " or ".join(names),
                            note=Message(
                                "ladder.no_gains",
                                "not tried: {count:method|methods} in a row brought no gain",
                                count=_PATIENCE,
                            ),
                        )
                    )
                else:
                    gained = self._step(names, len(groups) - place)
                    idle = idle if gained is None else 0 if gained else idle + 1
        except Interrupted as stop:
            stop.where, stop.hint = self.run.folder, f"foveate fit --resume {self.run.folder}"
            raise
        return self._crowned()

    def _step(self, names: list[str], left: int) -> bool | None:
        """Tries a rung; whether it is the best one now, None when it could not be tried."""
        rung = self._tried(names, left)
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

    def _tried(self, names: list[str], left: int) -> Rung:
        """The first of the names that fits this backbone and task; a rung without a result says why."""
        refusal: UsageError | None = None
        for name in names:
            try:
                log.info(f"rung {name}:")
                return Rung(name, self._fitted(name, left))
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

    def _fitted(self, name: str, left: int) -> FitResult:
        folder, recipe = self._folder(name), with_settings(self.recipe, {"tuning": name})
        if (folder / "recipe.yaml").is_file():
            return self._noted(self._picked_up(Run(folder)))
        deadline = self._deadline(left)
        if self.best is not None and self.ground is not None and deadline is not None:
            self._refuse_hopeless(self.ground, deadline)
        elif (
            self.best is None and deadline is not None
        ):  # the first rung is taken whatever it costs: some answer must be given
            recipe = with_settings(
                recipe, {"training.minutes": max(1.0, deadline - time.monotonic()) / 60}
            )
            deadline = None
        job = prepared(recipe, self.table, folder, self.ground)
        self.ground = job.data
        if not job.indices("val"):
            raise DataError(
                "the ladder compares on validation images, and there are none",
                hint="--set data.val=0.15",
            )
        job.deadline = deadline
        with job.run.locked():
            return self._noted(adapted(job, ["val"]))

    def _picked_up(self, run: Run) -> FitResult:
        """A rung of a ladder that was interrupted."""
        if run.finished:
            return FitResult(run.folder, evaluate(run.folder, split="val"), run.outcome())
        with run.locked():
            run.remove_partial_files()
            return adapted(reopened(run), ["val"])

    def _noted(self, result: FitResult) -> FitResult:
        """What an evaluation costs, from the first one."""
        if not self.look and result.evaluation is not None:
            self.look = result.evaluation.inference_seconds / _images(result.evaluation)
            self.ending = result.evaluation.seconds - result.evaluation.inference_seconds
        return result

    def _deadline(self, left: int) -> float | None:
        """When the training of the next rung must be over: half of the budget at the most, so that a dearer rung has a chance, but
        all that is free for the last one."""
        if self.clock.whole == math.inf:
            return None
        free = self.clock.left() - (self._reserve() if self.ground else _UNKNOWN * self.clock.whole)
        return time.monotonic() + (free if left == 1 else min(free, self.clock.whole / 2))

    def _reserve(self) -> float:
        """Seconds for the rung's own validation and for the winner's test."""
        assert self.ground is not None
        splits = [sample.split for sample in self.ground.scanned.table.samples]
        return (
            self.look * (_LOOKS * splits.count("val") + splits.count("test"))
            + 2 * self.ending
            + _ENDING
        )

    def _refuse_hopeless(self, ground: PreparedData, deadline: float) -> None:
        """A training of three epochs costs at least three looks at every image: known before anything is built."""
        images = len(ground.scanned.table.in_split("train"))
        least, there = 3 * self.look * images, deadline - time.monotonic()
        if there < least:
            raise TooLittleTime(
                f"three epochs take {least:.0f} s at least, {max(0, there):.0f} s are left"
            )

    def _folder(self, name: str) -> Path:
        return self.run.folder / "rungs" / name

    def _crowned(self) -> LadderResult:
        """The winner's files become the run's; its test images are scored now."""
        assert self.best is not None
        assert self.best.result is not None
        name, folder = self.best.tuning, self._folder(self.best.tuning)
        chosen = Message("ladder.chosen", "chosen")
        if self.best.note is not None:
            chosen = Message("ladder.chosen_too", "{note}, chosen", note=self.best.note)
        self.best.note = chosen
        self.best.result = replace(self.best.result, run=self.run.folder)
        tested = any(row["split"] == "test" for row in Run(folder).splits())
        self._take(
            folder,
            without={*LOCK_FILES, "checkpoints", *(() if tested else ("evaluations",))},
        )
        tried = ", ".join(rung.tuning for rung in self.rungs if rung.result)
        reason = f"the cheapest whose gain over those below it is beyond the noise, of {tried}"
        self.run.record([Decision("tuning", name, reason)])
        evaluation = evaluate(self.run.folder, split="test" if tested else "val")
        if self.clock.left() < 0:
            log.warning(
                f"the time was up {-self.clock.left():.0f} s ago: the cheapest answer takes longer than was given"
            )
        return LadderResult(self.run.folder, evaluation, self.best.result.outcome, self.rungs)

    def _take(self, folder: Path, without: set[str]) -> None:
        """Moves a rung's files into the run, the one that makes it finished last."""
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
