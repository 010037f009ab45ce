"""The trials of --tuning auto: scores, comparisons with the best one, and the leaderboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from foveate.api.evaluate.result import EvaluateResult
from foveate.api.fit.pipeline import FitResult
from foveate.evaluation.metrics import paired_difference
from foveate.messages import Message
from foveate.run.folder import Run
from foveate.types import Score


@dataclass
class TuningTrial:
    """A tuning that was tried, or why it was not.

    Attributes:
        tuning: Its name.
        result: Its run, if it was tried, evaluated on the validation images.
        unlike: Evaluation on the look-alikes that are held out, if any are.
        gain: Gain on the validation images over the best one before.
        unlike_gain: Gain on the look-alikes over the best one before.
        note: Outcome, or why it was not tried.
    """

    tuning: str
    result: FitResult | None = None
    unlike: EvaluateResult | None = None
    gain: Score | None = None
    unlike_gain: Score | None = None
    note: Message | None = None

    @property
    def evaluation(self) -> EvaluateResult | None:
        """On the validation images; None if it was not tried."""
        return None if self.result is None else self.result.evaluation

    @property
    def note_text(self) -> str:
        """The note in English; "" without one."""
        return "" if self.note is None else str(self.note)

    def is_better_than(self, best: TuningTrial) -> bool:
        """Measure and note the gains over the best one before.

        Returns:
            Whether it is better, beyond the noise, on the validation images or on the look-alikes
            that are held out, and not worse on the others.
        """
        assert self.evaluation is not None
        assert best.evaluation is not None
        self.gain = gain_over(self.evaluation, best.evaluation)
        if self.unlike is not None and best.unlike is not None:
            self.unlike_gain = gain_over(self.unlike, best.unlike)
        signs = _sign(self.gain), _sign(self.unlike_gain)
        self.note = _describe(*signs, best.tuning)
        return max(signs) > 0 and min(signs) >= 0

    def row(self) -> dict[str, Any]:
        """Its row of the leaderboard."""
        if self.result is None or self.evaluation is None:
            return {"tuning": self.tuning, "note": self.note_text}
        scores, outcome = self.evaluation.scores, self.result.outcome
        size = (self.result.run / "model.safetensors").stat().st_size
        main = scores.numbers[scores.main]
        row = {"tuning": self.tuning, scores.main: main.value, "low": main.low, "high": main.high}
        row |= _columns("gain", self.gain)
        if self.unlike is not None:
            row |= _columns("unlike", self.unlike.scores.numbers[scores.main])
        return {
            **row,
            **_columns("unlike_gain", self.unlike_gain),
            "trained": outcome["parameters"]["trained"],
            "megabytes": size / 1e6,
            "seconds": outcome["seconds"],
            "note": self.note_text,
        }

    def cells(self) -> list[str]:
        """Its row of the table in a terminal, in the order of `AutoTuningResult.all_columns`."""
        if self.result is None or self.evaluation is None:
            return [self.tuning, *[""] * 7, self.note_text]
        row, main = self.row(), self.evaluation.scores.main
        scores = [self.evaluation, self.unlike]
        like, unlike = ("" if each is None else str(each.scores.numbers[main]) for each in scores)
        gains = [each.signed if each else "" for each in (self.gain, self.unlike_gain)]
        size = [f"{row['trained']:,}", f"{row['megabytes']:.2f}", f"{row['seconds']:.0f}"]
        return [self.tuning, like, gains[0], unlike, gains[1], *size, self.note_text]


def gain_over(evaluation: EvaluateResult, before: EvaluateResult) -> Score:
    """Return the gain in the main metric over another evaluation of the same images."""
    count = evaluation.scores.numbers[evaluation.scores.main].count
    return paired_difference(evaluation.metric, before.metric, count)


def _sign(gain: Score | None) -> int:
    """1 for a gain beyond the noise, -1 for a loss, 0 for neither."""
    if gain is None or gain.low is None or gain.high is None:
        return 0
    return int(gain.low > 0) - int(gain.high < 0)


def _describe(like: int, unlike: int, best: str) -> Message:
    """The outcome of a comparison with the best one before, by the signs of the two gains."""
    if like > 0 > unlike:
        text = "better than {tuning} on validation images, but worse on unlike ones: not taken"
        return Message("tuning.worse_on_unlike", text, tuning=best)
    if unlike > 0 > like:
        text = "better than {tuning} on unlike images, but worse on validation images: not taken"
        return Message("tuning.worse_on_like", text, tuning=best)
    if like > 0:
        return Message("tuning.better", "better than {tuning}", tuning=best)
    if unlike > 0:
        text = "level with {tuning} on validation images, better on unlike ones"
        return Message("tuning.better_on_unlike", text, tuning=best)
    return Message("tuning.no_gain", "no significant gain over {tuning}", tuning=best)


def _columns(name: str, score: Score | None) -> dict[str, Any]:
    if score is None:
        return {}
    return {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}


@dataclass(frozen=True)
class AutoTuningResult(FitResult):
    """The result of the best tuning, and the `leaderboard`: a row per tuning, cheapest first."""

    leaderboard: list[TuningTrial]

    @property
    def columns(self) -> list[str]:
        gains = ["validation", "gain", "unlike images", "gain there"]
        return [
            "tuning",
            *gains[: 4 if self._has_unlike else 2],
            "trained",
            "MB",
            "seconds",
            "note",
        ]

    @property
    def rows(self) -> list[list[str]]:
        cells = [trial.cells() for trial in self.leaderboard]
        return cells if self._has_unlike else [[*row[:3], *row[5:]] for row in cells]

    @property
    def _has_unlike(self) -> bool:
        return any(trial.unlike is not None for trial in self.leaderboard)

    def numbers(self) -> dict[str, Any]:
        rows = [trial.row() for trial in self.leaderboard]
        return {
            **super().numbers(),
            "tuning": Run(self.run).recipe().tuning.name,
            "leaderboard": rows,
        }
