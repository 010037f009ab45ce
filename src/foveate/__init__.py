"""Foveate adapts large pretrained vision models to your own images, and tells you honestly what you got.

The words are those of the command line: foveate.fit(...), foveate.evaluate(...), foveate.predict(...), foveate.convert(...),
foveate.runs(), foveate.models(), foveate.demo(); and foveate.load(run) for a predictor that stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.predictor import Answer, Predictor
    from foveate.recipe import Recipe
    from foveate.verbs.convert import ConvertResult
    from foveate.verbs.demo import DemoResult
    from foveate.verbs.evaluate import EvaluateResult
    from foveate.verbs.fit import FitResult
    from foveate.verbs.models import ModelsResult
    from foveate.verbs.runs import RunsResult

__all__ = ["__version__", "convert", "demo", "evaluate", "fit", "load", "models", "predict", "runs"]
__version__ = "0.1.0"

Place = str | Path


def fit(
    data: Place | None = None,
    *,
    out: Place | None = None,
    resume: Place | None = None,
    recipe: Recipe | Place | None = None,
    settings: dict[str, Any] | None = None,
    **words: Any,
) -> FitResult:
    """Adapts a backbone to the images at `data`; the run folder is `out`, or runs/NAME-N.

    `words` are the short options of the command line (tuning="lora", epochs=20), `settings` any dotted field of the recipe
    ({"training.ema": 0}), `recipe` a whole one or its YAML file. Raises FoveateError and its kin.
    """
    from foveate.recipe import Recipe, load_recipe, recipe_from
    from foveate.verbs.fit import fit as run

    base = recipe if isinstance(recipe, Recipe) or recipe is None else load_recipe(Path(recipe))
    settled = recipe_from(data, words, settings or {}, base)
    return run(settled, _path(out), _path(resume), "foveate.fit(...)")


def evaluate(run: Place, data: Place | None = None, **options: Any) -> EvaluateResult:
    """Scores a run on its own held-out images, or on `data`; options: split, format, device, strict."""
    from foveate.verbs.evaluate import evaluate as score

    return score(Path(run), _path(data), **options)


def predict(run: Place, images: Place | Iterable[Place], **options: Any) -> list[Answer]:
    """Answers for pictures and for the pictures in folders; options: device, strict, batch_size."""
    from foveate.verbs.predict import predict as answer

    places = [images] if isinstance(images, str | Path) else images
    return list(answer(Path(run), [Path(place) for place in places], **options))


def convert(data: Place, to: str, out: Place, format: str = "auto") -> ConvertResult:
    """The images and boxes at `data` in another format (coco, yolo, voc, boxes_table), in the new folder `out`."""
    from foveate.verbs.convert import convert as write

    return write(Path(data), to, Path(out), format)


def load(run: Place, device: str = "auto") -> Predictor:
    """The predictor of a finished run, to be asked again and again."""
    from foveate.predictor import load as opened

    return opened(Path(run), device)


def runs(folder: Place = "runs") -> RunsResult:
    """What was tried in `folder`, the best first."""
    from foveate.verbs.runs import runs as listed

    return listed(Path(folder))


def models(word: str = "") -> ModelsResult:
    """The backbones whose names hold `word`; without a word a few good starts."""
    from foveate.verbs.models import models as listed

    return listed(word)


def demo(out: Place | None = None) -> DemoResult:
    """The whole story on data and weights that come with the install."""
    from foveate.verbs.demo import demo as told

    return told(_path(out))


def _path(place: Place | None) -> Path | None:
    return None if place is None else Path(place)
