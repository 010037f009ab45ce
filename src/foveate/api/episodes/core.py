"""episodes DATA: how well new classes are learnt from a few images each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from foveate.api.episodes.protocol import accuracies, mean_of
from foveate.api.episodes.protocol import episodes as drawn
from foveate.data.scan import ScannedTable
from foveate.data.tables import label_names, require_single_label
from foveate.errors import UsageError
from foveate.inference.engine import scan_with_progress
from foveate.inference.features import backbone_features
from foveate.inference.predictor import load_predictor
from foveate.modeling.model import Model, build_model
from foveate.modeling.tunings import TUNINGS
from foveate.recipe import Recipe, recipe_from, with_settings
from foveate.run.folder import Run
from foveate.training.data import read_data
from foveate.training.resolve import resolve_recipe
from foveate.types import Score, Table
from foveate.utils import console
from foveate.utils.device import resolve_device

_QUICK = {"training.channels_last": True}  # as in a race


@dataclass(frozen=True)
class EpisodesResult:
    """`accuracy`: the mean over episodes.

    `what`: the backbone and the tuning, in words. `cautions`: what it cannot promise.
    """

    columns: ClassVar[list[str]] = [
        "backbone",
        "tuning",
        "ways",
        "shots",
        "queries",
        "episodes",
        "accuracy",
    ]
    what: tuple[str, str]
    asked: tuple[int, int, int]
    accuracy: Score
    cautions: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[list[str]]:
        found = self.accuracy
        interval = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
        return [[*self.what, *map(str, self.asked), str(found.count), interval]]

    def numbers(self) -> dict[str, Any]:
        ways, shots, queries = self.asked
        about = {
            "backbone": self.what[0],
            "tuning": self.what[1],
            "ways": ways,
            "shots": shots,
            "queries": queries,
        }
        return {**about, "accuracy": asdict(self.accuracy), "cautions": self.cautions}

    def lines(self) -> list[str]:
        told = "mean over episodes with its 95 % interval, for these images and classes only"
        return [told, *(f"note: {caution}" for caution in self.cautions)]


@dataclass(frozen=True)
class Protocol:
    """Episodes of `ways` classes: `shots` images of each for training, `queries` for testing."""

    ways: int
    shots: int
    queries: int
    count: int


def episodes_recipe(data: Path, run: Path | None, options: dict[str, Any]) -> Recipe:
    """Return the recipe. Raises UsageError for a tuning that needs gradient steps."""
    tuning = TUNINGS.get(options["tuning"])
    if tuning.needs_steps or tuning.knows_classes:
        hint = "--tuning centroid, ridge, lpplus, knn or probe"
        raise UsageError(f"an episode cannot use {options['tuning']!r}", where="tuning", hint=hint)
    return with_settings(_of_run(recipe_from(data, options, {}), run, options), _QUICK)


def run_episodes(recipe: Recipe, run: Path | None, protocol: Protocol) -> EpisodesResult:
    """Draw the episodes, fit a head in each on frozen features, and average the accuracies.

    The features are those of the finished `run`, or of the backbone of the recipe.
    """
    ways, shots, queries = protocol.ways, protocol.shots, protocol.queries
    table = require_single_label(read_data(recipe), "an episode")
    recipe = resolve_recipe(recipe, table)[0]
    labels, seed = _names(table), recipe.seed
    next(drawn(labels, ways, shots, queries, 1, seed))  # refuses before features are computed
    model = _opened(recipe, run, ways)
    scanned = scan_with_progress(table, model, recipe.data)
    labels, device = _names(scanned.table), resolve_device(recipe.device)
    with console.progress(len(labels), "features") as bar:
        features = backbone_features(model, scanned, recipe, device, bar.advance)
    tasks = drawn(labels, ways, shots, queries, protocol.count, seed)
    found = mean_of(accuracies(model.cpu(), features, tasks))
    cautions = [] if run is None else _known_already(Run.open(run), scanned)
    what = str(run) if run else f"{recipe.backbone.name} ({model.backbone.origin})"
    return EpisodesResult((what, recipe.tuning.name), (ways, shots, queries), found, cautions)


def _of_run(recipe: Recipe, run: Path | None, words: dict[str, Any]) -> Recipe:
    """The recipe with the run's backbone."""
    if run is None:
        return recipe
    odd = sorted({"backbone", "weights", "size"} & words.keys())
    if odd:
        raise UsageError(f"--run and --{odd[0]} are mutually exclusive", where=run)
    return with_settings(recipe, {"backbone": Run.open(run).recipe().backbone.model_dump()})


def _opened(recipe: Recipe, run: Path | None, ways: int) -> Model:
    """A model of so many nameless classes; with the run's backbone, as the run adapted it."""
    classes = tuple(map(str, range(ways)))
    if run is None:
        return build_model(recipe, classes)
    model = build_model(recipe, classes, weights="none")
    model.backbone = load_predictor(run, "cpu").model.backbone
    return model


def _known_already(run: Run, scanned: ScannedTable) -> list[str]:
    """What makes the figure flatter than it would be on new classes."""
    trained = {row["sha256"] for row in run.splits() if row["split"] == "train"}
    seen, known = (
        sum(digest in trained for digest in scanned.hashes),
        sorted(set(run.classes()) & set(_names(scanned.table))),
    )
    found = (
        [
            f"{seen} of {len(scanned.hashes)} images were in the training set (byte for byte): "
            "the score is optimistically biased"
        ]
        if seen
        else []
    )
    if known:
        found.append(
            f"the run was trained on {len(known)} of these classes, such as {known[0]!r}: "
            "expect less on new classes"
        )
    return found


def _names(table: Table) -> list[str]:
    return [name for sample in table.samples for name in label_names(sample)]
