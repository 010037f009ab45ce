"""episodes DATA: how well new classes are learnt from a few images each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from foveate.api.episodes.protocol import accuracies, mean_of
from foveate.api.episodes.protocol import episodes as drawn
from foveate.data.scan import Scanned
from foveate.data.tables import label_names, refuse_other_questions
from foveate.errors import UsageError
from foveate.inference.engine import scanned_aloud
from foveate.inference.features import features_of
from foveate.inference.predictor import load
from foveate.modeling.model import Model, build
from foveate.modeling.tunings import TUNINGS
from foveate.recipe import Recipe, recipe_from, with_settings
from foveate.run.folder import Run
from foveate.training.resolve import read, settled
from foveate.types import Score, Table
from foveate.utils import console
from foveate.utils.device import device_of

_QUICK = {"training.channels_last": True}  # as in a race


@dataclass(frozen=True)
class EpisodesResult:
    """`accuracy`: the mean over episodes. `what`: the backbone and the tuning, in words. `cautions`: what it cannot promise."""

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
        told = "mean over episodes with its 95 % interval: over these images and classes, not over others"
        return [told, *(f"note: {caution}" for caution in self.cautions)]


def episodes(
    data: Path,
    *,
    run: Path | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    count: int = 600,
    words: dict[str, Any] | None = None,
) -> EpisodesResult:
    """Draws `count` episodes from the classes of the data: `shots` images of each of `ways` classes teach a head on frozen
    features, `queries` others of each are answered (Vinyals et al. 2016).

    The features are those of the finished `run`, or of the backbone that the `words` of a recipe name; the tuning, `centroid`
    unless `words` say otherwise, is one that is solved. Raises UsageError for too few classes or images, for a tuning that takes
    steps, and for a backbone beside a run; DataError for data other than one class an image.
    """
    words = {"tuning": "centroid", **(words or {})}
    tuning = TUNINGS.load(words["tuning"])
    if tuning.needs_steps or tuning.knows_classes:
        hint = "--tuning centroid, ridge, lpplus, knn or probe"
        raise UsageError(f"an episode cannot use {words['tuning']!r}", where="tuning", hint=hint)
    recipe = with_settings(_of_run(recipe_from(data, words, {}), run, words), _QUICK)
    table = refuse_other_questions(read(recipe), "an episode")
    recipe = settled(recipe, table)[0]
    labels = _names(table)
    next(
        drawn(labels, ways, shots, queries, 1, recipe.seed)
    )  # refuses before features are computed
    model = _opened(recipe, run, ways)
    scanned = scanned_aloud(table, model, recipe.data)
    labels = _names(scanned.table)
    with console.progress(len(labels), "features") as bar:
        features = features_of(model, scanned, recipe, device_of(recipe.device), bar.advance)
    found = mean_of(
        accuracies(model.cpu(), features, drawn(labels, ways, shots, queries, count, recipe.seed))
    )
    cautions = [] if run is None else _known_already(Run.open(run), scanned)
    what = str(run) if run else f"{recipe.backbone.name} ({model.backbone.origin})"
    return EpisodesResult((what, recipe.tuning.name), (ways, shots, queries), found, cautions)


def _of_run(recipe: Recipe, run: Path | None, words: dict[str, Any]) -> Recipe:
    """The recipe with the run's backbone."""
    if run is None:
        return recipe
    odd = sorted({"backbone", "weights", "size"} & words.keys())
    if odd:
        raise UsageError(
            f"--run brings its own backbone: --{odd[0]} cannot be named beside it", where=run
        )
    return with_settings(recipe, {"backbone": Run.open(run).recipe().backbone.model_dump()})


def _opened(recipe: Recipe, run: Path | None, ways: int) -> Model:
    """A model of so many nameless classes; with the run's backbone, as the run adapted it."""
    classes = tuple(map(str, range(ways)))
    if run is None:
        return build(recipe, classes)
    model = build(recipe, classes, weights="none")
    model.backbone = load(run, "cpu").model.backbone
    return model


def _known_already(run: Run, scanned: Scanned) -> list[str]:
    """What makes the figure flatter than it would be on new classes."""
    trained = {row["sha256"] for row in run.splits() if row["split"] == "train"}
    seen, known = (
        sum(digest in trained for digest in scanned.hashes),
        sorted(set(run.classes()) & set(_names(scanned.table))),
    )
    found = (
        [
            f"{seen} of these {len(scanned.hashes)} images were trained on (byte for byte): the figure flatters"
        ]
        if seen
        else []
    )
    if known:
        found.append(
            f"the run was trained on {len(known)} of these classes, such as {known[0]!r}: new classes will be harder"
        )
    return found


def _names(table: Table) -> list[str]:
    return [name for sample in table.samples for name in label_names(sample)]
