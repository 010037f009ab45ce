"""What stands behind the door: a run, or an exported file. Pictures are decoded by many threads, answered by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from foveate.errors import UsageError
from foveate.exported import Exported, Seen, opened


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


class FileEngine(Engine):
    def __init__(self, name: str, exported: Exported) -> None:
        self.name, self.exported, self.classes = name, exported, exported.classes
        self.about = {key: exported.about[key] for key in ("task", "backbone", "licence", "precision")}

    def decode(self, content: bytes) -> Seen:
        return self.exported.seen(content)

    def answer(self, pictures: Sequence[Seen]) -> list[dict[str, Any]]:
        return [found.row(self.classes, self.exported.multilabel) for found in self.exported.told(pictures)]


@dataclass(frozen=True, eq=False)
class Held:
    """A picture in memory, in the place of a path. `found`: what was decoded, and the size of the upright original."""

    bytes_: bytes = b""
    found: tuple[np.ndarray, tuple[int, int]] | None = None

    def content(self) -> bytes:
        return self.bytes_


class Given:
    """Pixels that are decoded already."""

    def read(self, place: Held) -> tuple[np.ndarray, tuple[int, int]]:
        assert place.found is not None
        return place.found


class RunEngine(Engine):
    def __init__(self, name: str, run: Path, device: str) -> None:
        from foveate.data import Pixels
        from foveate.predictor import load

        self.name, self.predictor = name, load(run, device)
        self.classes, recipe = self.predictor.classes, self.predictor.recipe
        licence = self.predictor.run.outcome().get("licence", "not stated")
        self.about = {"task": recipe.task.name, "backbone": recipe.backbone.name, "licence": licence, "precision": "fp32"}
        model = self.predictor.model
        self.pixels = Pixels((), model.backbone.input.size, model.task.framing, keep=False)

    def decode(self, content: bytes) -> Held:
        return Held(found=self.pixels.read(Held(content)))

    def answer(self, pictures: Sequence[Held]) -> list[dict[str, Any]]:
        from foveate.types import Sample

        samples = [Sample(cast(Path, each), f"picture {place}") for place, each in enumerate(pictures)]
        found = self.predictor.answers(samples, cast(Any, Given())).predictions
        return [self.predictor.sure(each).row(self.classes, self.predictor.multilabel) for each in found]


def engines(places: Sequence[Path], device: str) -> dict[str, Engine]:
    """By name: of the run folder, or of the file without its ending. Raises UsageError for two of one name."""
    found: dict[str, Engine] = {}
    for place in places:
        name = place.resolve().stem if place.is_file() else place.resolve().name
        if name in found:
            raise UsageError(f"two of these are called {name!r}", where=place, hint="rename one of the files")
        found[name] = FileEngine(name, opened(place)) if place.is_file() else RunEngine(name, place, device)
    return found
