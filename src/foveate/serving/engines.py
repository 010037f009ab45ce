"""What stands behind the door: a run, or an exported file. Pictures are decoded by many threads, answered by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from foveate.deploy.runtime import ExportedModel, PreprocessedImage, open_exported
from foveate.errors import UsageError
from foveate.types import StoredImage

if TYPE_CHECKING:
    from foveate.data.dataset import ImageDataset
    from foveate.inference.predictor import Predictor
    from foveate.types import Sample

_TINY = 1e-12


class Engine(ABC):
    """`name`: in addresses. `classes`: of its answers. `about`: for its page of metadata."""

    name: str
    classes: tuple[str, ...]
    about: dict[str, Any]

    @abstractmethod
    def decode(self, content: bytes) -> Any:
        """A picture as it is shown to the network; raises BrokenImage. Called by several threads at once."""

    @abstractmethod
    def answer(self, pictures: Sequence[Any]) -> list[dict[str, Any]]:
        """A JSON-able answer to each."""

    def explain(self, content: bytes) -> dict[str, Any]:
        """Where the answer to an encoded picture comes from, JSON-able: `question`; `map`, (h, w) in [0, 1], the greater the more
        a place speaks for it; `view`, the rectangle (x0, y0, x1, y1) of the upright picture, px, that it lies over; `how` it was
        made. Raises BrokenImage, and UsageError where nothing can be said."""
        raise UsageError(
            "nothing can be said here about where an answer comes from",
            hint="a run that classifies",
        )


class FileEngine(Engine):
    def __init__(self, name: str, exported: ExportedModel) -> None:
        self.name, self.exported, self.classes = name, exported, exported.classes
        self.about = {
            key: exported.about[key] for key in ("task", "backbone", "licence", "precision")
        }
        self.about["explains"] = False

    def decode(self, content: bytes) -> PreprocessedImage:
        return self.exported.seen(content)

    def answer(self, pictures: Sequence[PreprocessedImage]) -> list[dict[str, Any]]:
        return [
            found.row(self.classes, self.exported.multilabel)
            for found in self.exported.metadata(pictures)
        ]


@dataclass(frozen=True, eq=False)
class Held(StoredImage):
    """A picture in memory, in the place of a path. `found`: what was decoded, and the size of the upright original; `item`: what
    the network is shown of it, where that is one square."""

    bytes_: bytes = b""
    found: tuple[np.ndarray, tuple[int, int]] | None = None
    item: Any = None

    def content(self) -> bytes:
        return self.bytes_


class Given:
    """Pixels that are decoded already."""

    def read(self, place: Held) -> tuple[np.ndarray, tuple[int, int]]:
        assert place.found is not None
        return place.found


class RunEngine(Engine):
    def __init__(self, name: str, predictor: Predictor) -> None:
        from foveate.data.image_cache import ImageCache

        self.name, self.predictor = name, predictor
        self.classes, recipe = self.predictor.classes, self.predictor.recipe
        licence = self.predictor.run.outcome().get("licence", "not stated")
        self.about = {
            "task": recipe.task.name,
            "backbone": recipe.backbone.name,
            "licence": licence,
            "precision": "fp32",
        }
        self.about["explains"] = recipe.task.name == "classify"
        model = self.predictor.model
        self.windows = model.task.framing == "windows"
        self.pixels = ImageCache(model.backbone.input.size, model.task.framing, keep=False)

    def decode(self, content: bytes) -> Held:
        found = self.pixels.read(Held(content))
        if (
            self.windows
        ):  # they are cut out one after the other: all of them would be many times the picture
            return Held(content, found)
        return Held(item=self._pictures([Held(found=found)])[0, 0])

    def answer(self, pictures: Sequence[Held]) -> list[dict[str, Any]]:
        from foveate.data.loading import even_slices

        if self.windows:
            answers = self.predictor.predict_samples(_samples(pictures), cast(Any, Given()))
        else:
            items = [(*each.item[:-1], place) for place, each in enumerate(pictures)]
            parts = even_slices(len(items), self.predictor.recipe.training.batch_size)
            shown = self._pictures(pictures)
            answers = self.predictor.predict_dataset(
                shown, (shown.collate(items[part]) for part in parts)
            )
        return [
            self.predictor.with_uncertainty(each).row(self.classes, self.predictor.multilabel)
            for each in answers.predictions
        ]

    def explain(self, content: bytes) -> dict[str, Any]:
        from foveate.explainability.faithfulness import ExplainTarget
        from foveate.explainability.methods import EXPLAINERS, USUAL

        subject = ExplainTarget.of(self.predictor, _samples([Held(content)])[0])
        questions = subject.questions()
        if not questions:
            return super().explain(content)
        map_ = EXPLAINERS.get(USUAL)().explain(subject.asked(questions[0])).detach().float().cpu()
        shares = (map_ / map_.max().clamp(min=_TINY)).double().numpy().round(3)
        return {
            "question": questions[0].name,
            "how": USUAL,
            "map": shares.tolist(),
            "view": subject.batch.views[0].tolist(),
        }

    def _pictures(self, pictures: Sequence[Held]) -> ImageDataset:
        return self.predictor.dataset(_samples(pictures), cast(Any, Given()))


def _samples(pictures: Sequence[Held]) -> list[Sample]:
    from foveate.types import Sample

    return [Sample(cast(Path, each), f"picture {place}") for place, each in enumerate(pictures)]


def engines(places: Sequence[Path], device: str) -> dict[str, Engine]:
    """By name: of the run folder, or of the file without its ending. Raises UsageError for two of one name."""
    names = [place.resolve().stem if place.is_file() else place.resolve().name for place in places]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UsageError(
                f"two of these are called {name!r}",
                where=places[number],
                hint="rename one of the files",
            )
    runs = [place for place in places if not place.is_file()]
    predictors = dict(zip(runs, _loaded(runs, device), strict=True))
    return {
        name: FileEngine(name, open_exported(place))
        if place.is_file()
        else RunEngine(name, predictors[place])
        for name, place in zip(names, places, strict=True)
    }


def _loaded(runs: list[Path], device: str) -> list[Predictor]:
    if not runs:  # files alone need no torch
        return []
    from foveate.serving.weight_sharing import loaded

    return loaded(runs, device)
