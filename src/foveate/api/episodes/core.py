"""episodes DATA: few-shot evaluation on new classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from foveate.api.episodes.protocol import draw_episodes, episode_accuracies, mean_accuracy
from foveate.api.names import check_names
from foveate.data.scan import ScannedTable
from foveate.data.tables import label_names, require_single_label
from foveate.errors import UsageError
from foveate.inference.engine import scan_with_progress
from foveate.inference.features import backbone_features
from foveate.inference.predictor import load_predictor
from foveate.messages import counted
from foveate.modeling.model import Model, build_model
from foveate.modeling.tunings import TUNINGS
from foveate.recipe import Recipe, recipe_from, with_settings
from foveate.run.folder import Run
from foveate.training.data import read_data
from foveate.training.resolve import resolve_recipe
from foveate.types import Score, Table
from foveate.utils import console
from foveate.utils.device import resolve_device

_CHANNELS = ("bands", "value_range", "bits", "mean", "std")  # how a backbone reads images
_FAST_SETTINGS = {"training.channels_last": True}  # as in models --compare


@dataclass(frozen=True)
class EpisodesResult:
    """Few-shot accuracy.

    Attributes:
        backbone: Run folder, or backbone and origin of its weights.
        tuning: Classifier that is fitted in each episode.
        protocol: Size and number of the episodes.
        accuracy: Mean over episodes.
        cautions: Reasons to expect less on new classes.
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
    backbone: str
    tuning: str
    protocol: Protocol
    accuracy: Score
    cautions: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[list[str]]:
        score, protocol = self.accuracy, self.protocol
        sizes = protocol.ways, protocol.shots, protocol.queries, score.count
        return [[self.backbone, self.tuning, *map(str, sizes), score.with_interval]]

    def numbers(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone,
            "tuning": self.tuning,
            "ways": self.protocol.ways,
            "shots": self.protocol.shots,
            "queries": self.protocol.queries,
            "accuracy": asdict(self.accuracy),
            "cautions": self.cautions,
        }

    def lines(self) -> list[str]:
        text = "mean over episodes with its 95 % interval, for these images and classes only"
        if self.accuracy.low is None:
            text = "accuracy of one episode: an interval needs the spread of several (--count 100)"
        return [text, *(f"note: {caution}" for caution in self.cautions)]


@dataclass(frozen=True)
class Protocol:
    """`count` episodes of `ways` classes, each with `shots` support and `queries` query images."""

    ways: int
    shots: int
    queries: int
    count: int


def episodes_recipe(data: Path, run: Path | None, options: dict[str, Any]) -> Recipe:
    """Return the recipe, with the backbone of `run` if there is one.

    Raises:
        UsageError: The tuning needs gradient steps, or `run` and a backbone are both given.
    """
    name = options["tuning"]
    tuning = TUNINGS.get(name)
    if tuning.needs_steps or tuning.knows_classes:
        why = "it starts from the names of the classes, which episodes do not use"
        if tuning.needs_steps:
            why = "it trains in steps, and episodes fit a head in closed form"
        raise UsageError(
            f"episodes do not support the tuning {name!r}",
            where="tuning",
            why=why,
            hint="--tuning centroid, ridge, lpplus, knn or probe",
        )
    recipe = with_settings(recipe_from(data, options, {}), _FAST_SETTINGS)
    return recipe if run is None else _with_run_backbone(recipe, run, options)


def run_episodes(recipe: Recipe, run: Path | None, protocol: Protocol) -> EpisodesResult:
    """Draw the episodes, fit a head in each on frozen features, and average the accuracies.

    The features are those of the finished `run`, or of the backbone of the recipe.
    """
    check_names(recipe)
    ways, shots, queries = protocol.ways, protocol.shots, protocol.queries
    table = require_single_label(read_data(recipe), "an episode")
    recipe = resolve_recipe(recipe, table)[0]
    seed, device = recipe.seed, resolve_device(recipe.device)
    # fails before features are computed
    next(draw_episodes(_labels(table), ways, shots, queries, 1, seed))
    model = _build_model(recipe, run, ways)
    scanned = scan_with_progress(table, model, recipe.data)
    labels = _labels(scanned.table)
    with console.progress(len(labels), "features") as bar:
        features = backbone_features(model, scanned, recipe, device, bar.advance)
    episodes = draw_episodes(labels, ways, shots, queries, protocol.count, seed)
    accuracy = mean_accuracy(episode_accuracies(model.cpu(), features, episodes))
    cautions = [] if run is None else _cautions(Run.open(run), scanned)
    backbone = str(run) if run else f"{recipe.backbone.name} ({model.backbone.origin})"
    return EpisodesResult(backbone, recipe.tuning.name, protocol, accuracy, cautions)


def _with_run_backbone(recipe: Recipe, run: Path, options: dict[str, Any]) -> Recipe:
    conflicts = sorted({"backbone", "weights", "size"} & options.keys())
    if conflicts:
        raise UsageError(f"--run and --{conflicts[0]} are mutually exclusive", where=run)
    of_run = Run.open(run).recipe()
    channels = {f"data.{name}": getattr(of_run.data, name) for name in _CHANNELS}
    return with_settings(recipe, {"backbone": of_run.backbone.model_dump(), **channels})


def _build_model(recipe: Recipe, run: Path | None, ways: int) -> Model:
    """Build a model of `ways` classes; with the backbone of the run, as trained there."""
    classes = tuple(map(str, range(ways)))
    if run is None:
        return build_model(recipe, classes)
    model = build_model(recipe, classes, weights="none")
    model.backbone = load_predictor(run, "cpu").model.backbone
    return model


def _cautions(run: Run, scanned: ScannedTable) -> list[str]:
    """Return why the score would be lower on new classes."""
    trained_on = {row["sha256"] for row in run.splits() if row["split"] == "train"}
    known_images = sum(digest in trained_on for digest in scanned.hashes)
    known_classes = sorted(set(run.classes()) & set(_labels(scanned.table)))
    cautions = []
    if known_images:
        cautions.append(
            f"{known_images} of {counted(len(scanned.hashes), 'image', 'images')} took part in "
            "training (identical files): the score is optimistically biased"
        )
    if known_classes:
        cautions.append(
            f"{counted(len(known_classes), 'class was', 'classes were')} known from training, such "
            f"as {known_classes[0]!r}: expect less on new classes"
        )
    return cautions


def _labels(table: Table) -> list[str]:
    return [name for sample in table.samples for name in label_names(sample)]
