"""soup RUN [RUN ...]: average the weights of finished runs; the best average becomes a new run.

One run is averaged with its own start. The weights (1 - a) * start + a * end for a = 0, 0.1, ..., 1
lie between the pretrained network with a fitted head, and the trained network. The best often lies
in between, and loses less on a shifted domain (WiSE-FT: Wortsman et al. 2022, "Robust fine-tuning
of zero-shot models", equation 1). A run has such a start if its head was fitted before the training
(LP-FT, Kumar et al. 2022).

Several runs, trained from the same start with other seeds, learning rates or augmentations, are
sorted by their validation score, and each joins the average if the score of the average does not
fall (greedy soup: Wortsman et al. 2022, "Model soups", recipe 1).

The tensors that the tuning trains are averaged. Of low-rank updates these are the factors, so that
the update as a whole is not linear in a; the curve leads from the start to the end all the same,
and every point of it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from foveate.api.evaluate import evaluate
from foveate.api.evaluate.core import Source
from foveate.api.evaluate.result import EvaluateResult
from foveate.api.fit.pipeline import reopen_job
from foveate.api.soup.averaging import Tensors
from foveate.api.soup.candidates import Candidate, CandidateScorer
from foveate.api.soup.ingredients import (
    final_weights,
    initial_weights,
    open_runs,
    require_same_frozen,
)
from foveate.data.scan import ScannedTable
from foveate.data.tables import read_matching_table, select_split
from foveate.errors import UsageError
from foveate.evaluation.metrics import paired_difference
from foveate.inference.engine import scan_with_progress
from foveate.messages import Message, counted
from foveate.reporting import plots
from foveate.reporting.metric_names import metric_name
from foveate.run.folder import Run
from foveate.training.job import Job
from foveate.types import Decision, Score, Split
from foveate.utils import console, log
from foveate.utils.device import resolve_device
from foveate.utils.invocation import shell_command

_LEFT_OUT = "left out"


@dataclass(frozen=True)
class Selection:
    """The candidates, and the selected one.

    Attributes:
        candidates: In the order in which they were scored.
        best: Index of the selected candidate.
        baseline: Index of the network without averaging: the end of the run, or the best of
            several runs.
        tensors: Weights of the selected candidate.
        decision: Why it was selected.
    """

    candidates: list[Candidate]
    best: int
    baseline: int
    tensors: Tensors
    decision: Decision


@dataclass(frozen=True)
class SoupResult:
    """The new run.

    Attributes:
        run: Its folder, with curve.json and curve.svg.
        selection: The averages that were scored.
        gain: Difference of the main metric on the shifted data between the selected average and
            the baseline; None if there is nothing to compare.
        evaluation: Evaluation on the held-out images.
        seconds: Duration.
    """

    run: Path
    selection: Selection
    gain: Score | None
    evaluation: EvaluateResult
    seconds: float

    @property
    def columns(self) -> list[str]:
        point = self.selection.candidates[0]
        return [
            "average",
            f"validation {point.metric}",
            *(["shifted"] if point.shifted else []),
            "note",
        ]

    @property
    def rows(self) -> list[list[str]]:
        return [
            [
                point.name,
                str(point.validation),
                *([str(point.shifted)] if point.shifted else []),
                point.full_note,
            ]
            for point in self.selection.candidates
        ]

    def numbers(self) -> dict[str, Any]:
        curve = _curve_json(self.selection, self.gain)
        return {
            **self.evaluation.numbers(),
            **curve,
            "run": str(self.run),
            "seconds": round(self.seconds, 2),
        }

    def lines(self) -> list[str]:
        lines = [f"run: {self.run}", f"curve: {self.run / 'curve.svg'}"]
        if self.gain is not None:
            baseline, gain = self.selection.candidates[self.selection.baseline], self.gain
            name = baseline.name if baseline.alpha is None else "the end"
            lines.append(f"on the shifted data: {gain.signed} over {name} (paired)")
        return [
            *lines,
            *self.evaluation.lines(),
            f"next: {shell_command('predict', self.run, 'IMAGES')}",
        ]


def average_runs(
    runs: Sequence[Path], out: Path | None, shift: Source | None, steps: int, device: str
) -> SoupResult:
    """Average the runs, and write the best average as the new run `out`.

    Args:
        runs: Run folders: of one run, points between its start and its end; of several, a greedy
            soup.
        out: Run folder to create.
        shift: Other data on which every average is scored as well; it chooses nothing.
        steps: Number of interpolation steps of a single run.
        device: Device to compute on.
    """
    started = time.perf_counter()
    Run.require_free(out)
    if steps < 1:
        raise UsageError("--steps must be at least 1", where="steps", hint="--steps 10")
    torch_device, opened_runs = resolve_device(device), open_runs(runs)
    first = opened_runs[0]
    job = replace(reopen_job(first), device=torch_device)
    require_same_frozen(job)
    averager = CandidateScorer(job, None if shift is None else _scan_shifted(job, shift))
    selection = (
        _interpolate_run(averager, job, steps)
        if len(opened_runs) == 1
        else _greedy_soup(averager, job, opened_runs)
    )
    gain = _shifted_gain(selection)
    run = Run.create(out, f"{first.folder.name}-soup")
    with run.locked():
        _write_run(run, job, selection, gain, time.perf_counter() - started)
        splits: tuple[Split, ...] = ("val", "test")
        present = [split for split in splits if job.indices(split)]
        evaluation = [evaluate(run.folder, split=split, device=device) for split in present][-1]
    return SoupResult(run.folder, selection, gain, evaluation, time.perf_counter() - started)


def _scan_shifted(job: Job, shift: Source) -> ScannedTable:
    """Scan the images that `evaluate` would score, and warn about those used for training."""
    assert shift.path is not None
    task = job.model.task
    accepted, data = task.accepted_targets(), job.recipe.data
    table = read_matching_table(task.classes, accepted, shift.path, shift.format, data)
    _, table = select_split(table, shift.split)
    scanned = scan_with_progress(
        table, job.model, job.recipe.data.model_copy(update={"strict": shift.strict})
    )
    trained_on = {job.scanned.hashes[index] for index in job.indices("train")}
    known = sum(digest in trained_on for digest in scanned.hashes)
    if known:
        log.warning(
            f"{known} of {counted(len(scanned.hashes), 'image', 'images')} took part in training "
            "(identical files): the score is optimistically biased"
        )
    return scanned


def _interpolate_run(averager: CandidateScorer, job: Job, steps: int) -> Selection:
    """WiSE-FT: interpolate from the start of the run to its end."""
    start, end, runs = initial_weights(job), final_weights(job.run, job), (job.run.folder,)
    points: list[Candidate] = []
    best, kept = 0, start
    with console.progress(steps + 1, "averages") as bar:
        for step in range(steps + 1):
            point, tensors = averager.average(start, end, step / steps, runs, step / steps)
            points.append(replace(point, note={0: "start", steps: "end"}.get(step, "")))
            if point.rank > points[best].rank:
                best, kept = step, tensors
            bar.advance()
    chosen, start_, end_ = (_format_candidate(points[index]) for index in (best, 0, -1))
    reason = Message(
        "choice.soup_alpha",
        "{rule}: {chosen}, start {start}, end {end}",
        rule=_selection_rule(points[best], job),
        chosen=chosen,
        start=start_,
        end=end_,
    )
    return Selection(
        _mark_chosen(points, best),
        best,
        steps,
        kept,
        Decision("soup.alpha", points[best].alpha, reason),
    )


def _greedy_soup(averager: CandidateScorer, job: Job, runs: list[Run]) -> Selection:
    """Greedy soup: the best run first, then each run that does not lower the score."""
    points: list[Candidate] = []
    with console.progress(2 * len(runs) - 1, "averages") as bar:
        for run in runs:
            points.append(averager.score_run(final_weights(run, job), (run.folder,)))
            bar.advance()
        points.sort(key=lambda point: point.rank, reverse=True)
        best, kept = 0, final_weights(Run(points[0].runs[0]), job)
        for single in points[1:]:
            together = (*points[best].runs, *single.runs)
            point, tensors = averager.average(
                kept, final_weights(Run(single.runs[0]), job), 1 / len(together), together
            )
            joins = point.rank >= points[best].rank
            points.append(point if joins else replace(point, note=_LEFT_OUT))
            if joins:
                best, kept = len(points) - 1, tensors
            bar.advance()
    chosen, alone = (_format_candidate(points[index]) for index in (best, 0))
    text = "{rule}: {chosen}, the best single run {single}"
    rule = _selection_rule(points[best], job)
    reason = Message("choice.soup_runs", text, rule=rule, chosen=chosen, single=alone)
    value = [str(folder) for folder in points[best].runs]
    return Selection(
        _mark_chosen(points, best), best, 0, kept, Decision("soup.runs", value, reason)
    )


def _mark_chosen(points: list[Candidate], best: int) -> list[Candidate]:
    """The candidates, with the selected one marked."""
    note = ", ".join(word for word in (points[best].note, "chosen") if word)
    return [
        replace(point, note=note) if index == best else point for index, point in enumerate(points)
    ]


def _selection_rule(point: Candidate, job: Job) -> Message:
    return Message(
        "choice.selection_rule",
        "best {metric} on the {count:validation image|validation images}, then lowest loss",
        metric=metric_name(point.metric),
        count=len(job.indices("val")),
    )


def _format_candidate(point: Candidate) -> str:
    return f"{point.validation.value:.3f} / {point.loss:.3f}"


def _shifted_gain(selection: Selection) -> Score | None:
    best = selection.candidates[selection.best]
    baseline = selection.candidates[selection.baseline]
    if (
        selection.best == selection.baseline
        or best.shifted_metric is None
        or baseline.shifted_metric is None
        or best.shifted is None
    ):
        return None
    return paired_difference(best.shifted_metric, baseline.shifted_metric, best.shifted.count)


def _curve_json(selection: Selection, gain: Score | None) -> dict[str, Any]:
    """The content of curve.json."""
    points = [point.row() for point in selection.candidates]
    metric, chosen = selection.candidates[0].metric, points[selection.best]
    curve = {"metric": metric, "chosen": chosen, "points": points}
    return curve if gain is None else {**curve, "shifted_gain": asdict(gain)}


def _write_run(
    run: Run, job: Job, selection: Selection, gain: Score | None, seconds: float
) -> None:
    """Write what a fit writes, without epochs."""
    first, best = job.run, selection.candidates[selection.best]
    run.copy_metadata(first)
    run.record([selection.decision])
    run.write_json("curve.json", _curve_json(selection, gain))
    run.write_text("curve.svg", _draw_curve(selection))
    run.write_tensors("model.safetensors", selection.tensors)
    # a folder without a recipe is no run, so it is written when the rest is complete
    run.write_text("recipe.yaml", first.recipe().to_yaml())
    outcome = first.outcome()
    kept = {key: outcome[key] for key in outcome if key not in ("checksums", "parts")}
    if best.alpha is not None:
        text = "an average of weights, alpha {alpha} between start and end of {run}"
        reason = Message("training.interpolated", text, alpha=best.name, run=str(best.runs[0]))
    else:
        runs = " + ".join(map(str, best.runs))
        reason = Message("training.soup", "an average of weights, greedy soup: {runs}", runs=runs)
    new = {
        "epochs": 0,
        "best_epoch": -1,
        "steps": 0,
        "seconds": seconds,
        "reason": reason.row(),
        "threshold": best.threshold,
    }
    run.finish({**kept, **new})


def _draw_curve(selection: Selection) -> str:
    """Draw the candidates as SVG.

    Shifted score over validation score; without shifted data, validation score over alpha or over
    the number of runs.
    """
    point = selection.candidates[0]
    x_label = "alpha" if point.alpha is not None else "runs in the average"
    labels = (
        (f"validation {point.metric}", f"shifted {point.metric}")
        if point.shifted
        else (x_label, f"validation {point.metric}")
    )
    groups: dict[str, list[plots.Point]] = {"averages": [], "single runs": [], "left out": []}
    for each in selection.candidates:
        group = (
            "left out"
            if each.note == _LEFT_OUT
            else "averages"
            if each.alpha is not None or len(each.runs) > 1
            else "single runs"
        )
        groups[group].append(_plot_point(each))
    if point.alpha is None:
        groups["averages"].insert(0, _plot_point(point))
    marked = {
        word: [_plot_point(each) for each in selection.candidates if word in each.note.split(", ")]
        for word in ("start", "end", "chosen")
    }
    return plots.weight_averages({**groups, **marked}, *labels)


def _plot_point(point: Candidate) -> plots.Point:
    if point.shifted is not None:
        return point.validation, point.shifted
    return Score(float(len(point.runs)) if point.alpha is None else point.alpha), point.validation
