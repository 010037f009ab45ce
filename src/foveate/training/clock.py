"""A time budget, and the plan of a training that keeps it.

A budget counts from the start of the command and holds all that the command does. The plan of a
training is what is left of it, without what has to follow: it is revised after every step, by the
seconds that steps and validations have taken lately.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass

from foveate.messages import Message
from foveate.recipe import Recipe
from foveate.training.state import TrainingState
from foveate.utils import log
from foveate.utils.invocation import current_invocation

VALIDATION_SHARE = 0.15  # of the time of training, at most, for validations in the middle of it
_ROUNDS = 20  # validations of a training that has the time for them
_VALIDATION_PART = 0.05  # of the time of training that one of them may take
_MIN_VALIDATION = 32  # images: fewer tell nothing, whatever they cost
_MIN_ROUND = 0.3  # of the usual one: a shorter rest is trained without another validation
_PROMISED = 1.05  # of the budget: a command may take so much
_SLACK = 0.01  # of the budget: what comes after is never exactly what was measured
_RECENT = 0.05  # of the budget: steps of that time tell how long the next ones will take
_HEAD_SHARE = 0.1  # of the training, at most, for a head alone, where time may end it early
_MIN_STEPS = 3  # steps that are averaged at least
_LATE = 1.1  # a step may take this much longer than those before it
_EVALUATION = 1.2  # seconds, on a free core, besides inference: scores, images and page of a report
_TIMED = 0.03  # seconds of computing that tell how busy the machine is


class TimeBudget:
    """The time that a command may take, from its start to its end.

    Args:
        minutes: The budget.
        started: When it begins, in seconds of `time.monotonic()`.
        open_end: Whether time alone decides how long to train, and not the epochs of the recipe.
        min_epochs: Epochs that have to fit, if the recipe has as many; else training is refused.
        resumable: Whether a resumed training is charged for what it used before.
    """

    def __init__(
        self,
        minutes: float,
        started: float,
        *,
        open_end: bool = False,
        min_epochs: int = 0,
        resumable: bool = True,
    ) -> None:
        self.seconds = 60 * minutes
        self.end = started + self.seconds
        self.open_end, self.min_epochs, self.resumable = open_end, min_epochs, resumable

    @classmethod
    def of(cls, recipe: Recipe, *, open_end: bool) -> TimeBudget | None:
        """Return the budget of a recipe, from the start of the command; None if it has none."""
        if recipe.training.minutes is None:
            return None
        return cls(recipe.training.minutes, current_invocation().started, open_end=open_end)

    def left(self) -> float:
        """Return the seconds that are left; less than 0 when it is used up."""
        return self.end - time.monotonic()

    def used(self) -> float:
        return self.seconds - self.left()

    def charge(self, seconds: float) -> None:
        """Take off what a training used before it was interrupted."""
        if self.resumable:
            self.end -= seconds


def warn_if_exceeded(budget: TimeBudget | None) -> None:
    """Say that a command has taken longer than its budget, beyond what is promised."""
    if budget is None or budget.used() <= _PROMISED * budget.seconds:
        return
    text = (
        "this took {used} minutes and not {minutes}: reading the images, and scoring those that are"
        " held out, cannot be made shorter on this machine"
    )
    minutes = f"{budget.seconds / 60:g}"
    used = f"{budget.used() / 60:.1f}"
    log.warning(Message("training.budget_exceeded", text, used=used, minutes=minutes))


@dataclass(frozen=True)
class AfterTraining:
    """What a command does when training is over.

    Attributes:
        images: Images that go through the network.
        evaluations: Evaluations, with a report each.
        evaluated: Images in them, which are read and whose predictions are written.
        read_seconds: Time of reading an image.
    """

    images: float = 0.0
    evaluations: int = 0
    evaluated: int = 0
    read_seconds: float = 0.0

    def reserve(
        self, image_seconds: float, write_seconds: float = 0.0, contention: float = 1.0
    ) -> float:
        """Return the time of all that.

        Args:
            image_seconds: Time of an image in the network, and of its score.
            write_seconds: Time of writing a prediction.
            contention: How many times longer this machine takes now than it would for us alone.
        """
        files = self.evaluated * (self.read_seconds + write_seconds)
        return self.images * image_seconds + files + self.evaluations * _EVALUATION * contention


def measure_contention() -> float:
    """Return how many times longer computing takes now than it would on an idle core, at least 1.

    Scores and reports are made on one core, and cannot be timed before they are made.
    """
    wall, cpu = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu < _TIMED:
        pass
    return max(1.0, (time.monotonic() - wall) / _TIMED)


@dataclass(frozen=True)
class Turn:
    """What comes after a step.

    Attributes:
        progress: Share of the training that is done, from 0 to 1.
        steps: Steps of the whole training, as they are planned now.
        validate: Whether to validate now.
        is_last: Whether time is up.
    """

    progress: float
    steps: int
    validate: bool
    is_last: bool


class TrainingPlan:
    """How many steps a training takes, when it validates, and where in its schedule it is.

    Without a budget, the epochs of the recipe say it all.

    Args:
        epochs: Epochs of the recipe: the most that are trained, unless the budget has an open end.
        steps_per_epoch: Steps of each.
        budget: The time that there is; None for any.
        after: What the command does afterwards.
        expected_step: Seconds of a step, as far as they are known before the first one.
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        budget: TimeBudget | None = None,
        after: AfterTraining = AfterTraining(),
        expected_step: float = 0.0,
    ) -> None:
        self.steps_per_epoch = max(1, steps_per_epoch)
        self.steps, self.budget, self.after = epochs * steps_per_epoch, budget, after
        self.expected_step = expected_step
        self.image_seconds = 0.0  # of an image in a validation
        self.write_seconds = 0.0  # of a prediction
        self.validation_seconds = 0.0
        self.contention = 1.0
        self.began = self.step_began = self.validated = time.monotonic()
        self.planned = self.steps  # steps of the whole training, as of the last step
        self.durations: deque[float] = deque()
        self.recent = 0.0  # seconds of these together

    @property
    def open_end(self) -> bool:
        """Whether time alone decides how long to train."""
        return self.budget is not None and self.budget.open_end

    @property
    def rounds(self) -> int:
        """The number of validations, if time allows them."""
        return self.steps // self.steps_per_epoch if self.budget is None else _ROUNDS

    def is_done(self, state: TrainingState) -> bool:
        """Whether all epochs are done."""
        if self.budget is None:  # only after its validation
            return state.epoch * self.steps_per_epoch >= self.steps
        return not self.open_end and state.step >= self.steps

    def epochs_done(self, state: TrainingState) -> float:
        """Return how many epochs are done; with a part of the last one, as a float."""
        done = state.epoch + state.step_in_epoch / self.steps_per_epoch
        return int(done) if done == int(done) else round(done, 4)

    def fitting_images(self, count: int, seconds: float) -> int:
        """Return how many of `count` images a validation may score, at `seconds` an image."""
        self.image_seconds = seconds
        allowed = _VALIDATION_PART * max(0.0, self.time_left())
        return min(count, max(_MIN_VALIDATION, int(allowed / max(seconds, 1e-9))))

    def begin(self) -> None:
        """Start the clock: the first step follows."""
        self.begin_round()
        self.began = self.validated

    def begin_round(self) -> None:
        """Start the clock of the next round, after the validation that ended the last one."""
        if self.budget is not None:
            self.contention = measure_contention()
        self.step_began = self.validated = time.monotonic()

    def expect_validation(self, image_seconds: float, images: int) -> None:
        """Reckon with validations that take so long."""
        self.image_seconds, self.validation_seconds = image_seconds, image_seconds * images

    def note_validation(self, seconds: float, images: int) -> None:
        """Take account of a validation that is over."""
        self.validation_seconds = seconds
        self.image_seconds = seconds / max(1, images)

    def count_step(self, state: TrainingState) -> Turn:
        """Take account of a step that is over, and say what comes next."""
        if self.budget is None:
            return Turn(0.0, self.steps, validate=False, is_last=False)
        now = time.monotonic()
        self.durations.append(now - self.step_began)
        self.recent += now - self.step_began
        self.step_began, enough = now, _RECENT * self.budget.seconds
        while len(self.durations) > _MIN_STEPS and self.recent - self.durations[0] > enough:
            self.recent -= self.durations.popleft()
        left = self.steps_left(state.step)
        progress = state.progress + (1 - state.progress) / (left + 1)
        return Turn(progress, state.step + left, self._validation_is_due(left), self.time_is_up())

    def position(self, state: TrainingState) -> tuple[float, int]:
        """Return where in the schedule the next step is, and how long that is, in steps.

        With a budget it is the share that is done which counts: it only grows, whatever the number
        of steps turns out to be, and is 1 when time is up.
        """
        if self.budget is None:
            return state.step, self.steps
        steps = max(state.step + 1, self.planned)
        return min(state.progress * steps, steps - 1), steps

    def epochs(self, state: TrainingState) -> int:
        """Return how many epochs the whole training has, as planned now."""
        _, steps = self.position(state)
        if not self.open_end:
            steps = min(steps, self.steps)
        return max(math.ceil(self.epochs_done(state)), math.ceil(steps / self.steps_per_epoch))

    def trains_head_alone(self, state: TrainingState, head_epochs: int) -> bool:
        """Whether the backbone is still frozen, for so many epochs or a tenth of the time."""
        return state.epoch < head_epochs and (self.budget is None or state.progress < _HEAD_SHARE)

    def time_is_up(self) -> bool:
        """Whether another step would take more time than there is."""
        return self.budget is not None and self.time_left() < _LATE * self.step_seconds()

    def step_seconds(self) -> float:
        """Return the seconds of a step, as the last ones took them."""
        return self.recent / len(self.durations) if self.durations else self.expected_step

    def time_left(self) -> float:
        """Return the seconds that are left for steps and for validations between them."""
        assert self.budget is not None
        per_image = self.image_seconds or self.step_seconds()
        after = self.after.reserve(per_image, self.write_seconds, self.contention)
        slack = _SLACK * self.budget.seconds
        return self.budget.left() - after - self.validation_seconds - slack

    def steps_left(self, step: int) -> int:
        """Return how many steps follow, with `step` of them done."""
        by_epochs = math.inf if self.open_end else self.steps - step
        if self.budget is None or not self.step_seconds():
            return max(0, self.steps - step)
        by_time = self._time_for_steps() / self.step_seconds()
        return max(0, int(min(by_epochs, by_time)))

    def _time_for_steps(self) -> float:
        """Return the time that is left without the validations between the steps."""
        rest = max(0.0, self.time_left())
        cycle = self._usual_round(rest) + self.validation_seconds
        rounds = math.floor(rest / cycle) if cycle else 0
        return rest - rounds * self.validation_seconds

    def _usual_round(self, rest: float) -> float:
        """Return the seconds between two validations, with `rest` seconds of training to come."""
        span = time.monotonic() - self.began + rest
        return max(span / _ROUNDS, self.validation_seconds * (1 / VALIDATION_SHARE - 1))

    def _validation_is_due(self, steps_left: int) -> bool:
        rest = min(self.time_left(), steps_left * self.step_seconds() + self.validation_seconds)
        usual = self._usual_round(max(0.0, rest))
        if time.monotonic() - self.validated < usual:
            return False
        return rest > self.validation_seconds + _MIN_ROUND * usual
