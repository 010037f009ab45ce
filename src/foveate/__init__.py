"""Foveate adapts large pretrained vision models to your own images, and tells you honestly what you got.

The words are those of the command line: foveate.check(...), foveate.fit(...), foveate.evaluate(...), foveate.predict(...),
foveate.explain(...), foveate.export(...), foveate.audit(...), foveate.soup(...), foveate.episodes(...), foveate.retrieve(...),
foveate.generate(...), foveate.restyle(...), foveate.convert(...), foveate.runs(), foveate.models(), foveate.demo(); and
foveate.load(run) for a predictor that stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from foveate.version import __version__

if TYPE_CHECKING:
    from foveate.api.adapt import AdaptResult
    from foveate.api.audit.core import AuditResult
    from foveate.api.check.result import CheckResult
    from foveate.api.convert import ConvertResult
    from foveate.api.demo import DemoResult
    from foveate.api.episodes.core import EpisodesResult
    from foveate.api.evaluate.core import EvaluateResult
    from foveate.api.explain.core import ExplainResult
    from foveate.api.export.core import ExportResult
    from foveate.api.fit.pipeline import FitResult
    from foveate.api.generate.core import GenerateResult
    from foveate.api.models.core import ModelsResult
    from foveate.api.models.race import RaceResult
    from foveate.api.pretrain.core import PretrainResult
    from foveate.api.restyle.core import RestyleResult
    from foveate.api.retrieve import RetrieveResult
    from foveate.api.runs import RunsResult
    from foveate.api.soup.core import SoupResult
    from foveate.inference.predictor import Predictor
    from foveate.predictions import ImageResult
    from foveate.recipe import Recipe

__all__ = [
    "__version__",
    "adapt",
    "audit",
    "check",
    "continue_",
    "convert",
    "demo",
    "episodes",
    "evaluate",
    "explain",
    "export",
    "fit",
    "generate",
    "load",
    "models",
    "predict",
    "pretrain",
    "restyle",
    "retrieve",
    "runs",
    "soup",
]

Place = str | Path


def check(
    data: Place,
    *,
    out: Place | None = None,
    images: int = 20_000,
    plan: bool = True,
    settings: dict[str, Any] | None = None,
    **words: Any,
) -> CheckResult:
    """What is wrong with the images and labels at `data`, and what a fit of them would take; a page in the new folder `out`.

    `images`: how many pictures to open, 0 for all; `words` and `settings` as for `fit`: backbone="resnet18" compares by features.
    """
    from foveate.api.check.core import check as looked
    from foveate.recipe import recipe_from

    return looked(
        recipe_from(data, words, settings or {}), _path(out), images, plan, "foveate.check(...)"
    )


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
    from foveate.api.fit.core import fit as run
    from foveate.recipe import Recipe, load_recipe, recipe_from

    base = recipe if isinstance(recipe, Recipe) or recipe is None else load_recipe(Path(recipe))
    settled = recipe_from(data, words, settings or {}, base)
    return run(settled, _path(out), _path(resume), "foveate.fit(...)")


def pretrain(
    images: Place | None = None,
    *,
    objective: str | None = None,
    labels: Place | None = None,
    out: Place | None = None,
    resume: Place | None = None,
    settings: dict[str, Any] | None = None,
    **words: Any,
) -> PretrainResult:
    """Learns a backbone from the pictures in the folder `images`, without labels, and says whether that has helped.

    `labels`: labelled images to judge by, which are never learnt from. `words` and `settings` as for `fit`.
    """
    from foveate.api.pretrain.core import pretrain as learn
    from foveate.recipe import recipe_from

    given = {**words, "task": objective} if objective else words
    recipe = recipe_from(images, given, settings or {})
    found = learn(recipe, _path(labels), _path(out), _path(resume), command="foveate.pretrain(...)")
    return cast("PretrainResult", found)  # a dry run was not asked for


def continue_(
    run: Place, data: Place, *, out: Place | None = None, settings: dict[str, Any] | None = None
) -> FitResult:
    """Adds the images or classes at `data` to what the finished `run` has learnt, in a new run, and measures what it forgets.

    `settings`: dotted fields of the recipe: {"start.replay": 0.2, "start.distill": 1}.
    """
    from foveate.api.continue_ import continue_ as go_on

    return go_on(Path(run), Path(data), _path(out), settings, "foveate.continue_(...)")


def evaluate(
    run: Place,
    data: Place | None = None,
    *,
    shift: Place | None = None,
    ood: Place | None = None,
    slices: Place | None = None,
    **options: Any,
) -> EvaluateResult:
    """Scores a run on its own held-out images, or on `data`; says what is lost on the images of `shift`, and how well pictures of
    other things, `ood`, are told apart.

    `slices`: a table with a column path and others, by which the images are parted. Options: split, format, device, strict,
    corrupt, lang.
    """
    from foveate.api.evaluate.core import evaluate as score

    return score(
        Path(run), _path(data), shift=_path(shift), ood=_path(ood), slices=_path(slices), **options
    )


def predict(run: Place, images: Place | Iterable[Place], **options: Any) -> list[ImageResult]:
    """Answers for pictures and for the pictures in folders; options: device, strict, batch_size, coverage, risk."""
    from foveate.api.predict import predict as answer

    return list(answer(Path(run), _places(images), **options))


def explain(
    run: Place, images: Place | Iterable[Place], *, out: Place | None = None, **options: Any
) -> ExplainResult:
    """Where the answers to these pictures come from, with a test of every map; options: how, texts, nearest, device,
    strict."""
    from foveate.api.explain.core import explain as why

    return why(Path(run), _places(images), out=_path(out), **options)


def export(
    run: Place, to: str = "onnx", *, out: Place | None = None, **options: Any
) -> ExportResult:
    """A file for another runtime, `onnx` or `openvino`, which answers as the run does or is not kept; options: int8, max_drop."""
    from foveate.api.export.core import export as write

    return write(Path(run), to, out=_path(out), **options)


def audit(
    run: Place,
    data: Place | None = None,
    *,
    unlabelled: Place | None = None,
    out: Place | None = None,
    **options: Any,
) -> AuditResult:
    """Which labels to doubt, which images teach nothing new, what more labels would bring, and which of the `unlabelled` pictures
    to label next; options: more, device."""
    from foveate.api.audit.core import audit as asked

    return asked(Path(run), _path(data), _path(unlabelled), out=_path(out), **options)


def soup(
    runs: Place | Iterable[Place],
    *,
    out: Place | None = None,
    shifted: Place | None = None,
    **options: Any,
) -> SoupResult:
    """Averages the weights of one run and its start, or of several runs, as a new run; every average is scored on `shifted` too.

    Options: steps, format (of the shifted data), device, strict.
    """
    from foveate.api.soup.core import soup as average

    return average(
        _places(runs), _path(out), _path(shifted), command="foveate.soup(...)", **options
    )


def adapt(
    run: Place,
    images: Place | Iterable[Place],
    *,
    out: Place | None = None,
    how: str = "adabn",
    **options: Any,
) -> AdaptResult:
    """Adapts the finished `run` to pictures, and the pictures in folders, that nobody has labelled, as a new run.

    `how`: adabn or tent; options: settings ({"prior": 64}), device, strict.
    """
    from foveate.api.adapt import adapt as adjust

    return adjust(
        Path(run), _places(images), _path(out), how, command="foveate.adapt(...)", **options
    )


def episodes(
    data: Place,
    *,
    run: Place | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    count: int = 600,
    **words: Any,
) -> EpisodesResult:
    """How well `ways` new classes are learnt from `shots` images each, over `count` episodes drawn from the images at `data`.

    `words` are short options of a recipe (tuning="ridge", backbone="resnet18"); `run`: take the features of this run.
    """
    from foveate.api.episodes.core import episodes as play

    return play(
        Path(data),
        run=_path(run),
        ways=ways,
        shots=shots,
        queries=queries,
        count=count,
        words=words,
    )


def retrieve(
    data: Place, *, run: Place | None = None, sentences: str | Iterable[str] = (), **words: Any
) -> RetrieveResult:
    """How well pictures find their sentences and sentences their pictures, by a model that embeds both; or the pictures that are
    nearest to the given `sentences`.

    `words`: top, and short options of the command line (backbone="clip:ViT-B-32").
    """
    from foveate.api.retrieve import retrieve as found

    asked = [sentences] if isinstance(sentences, str) else list(sentences)
    return found(Path(data), run=_path(run), sentences=asked, top=words.pop("top", 5), words=words)


def generate(
    run: Place,
    sentences: str | Iterable[str] = (),
    *,
    out: Place | None = None,
    device: str = "auto",
    **options: Any,
) -> GenerateResult:
    """Pictures by a run of the task generate, or by a pretrained painter by its name; one for each sentence or class.

    Options: count, seed, steps, guidance, picture, mask, strength, against, features, as `foveate generate --help` has them.
    """
    from foveate.api.generate.core import Wish
    from foveate.api.generate.core import generate as paint

    files: dict[str, Any] = {
        name: _path(options.pop(name, None)) for name in ("picture", "mask", "against")
    }
    asked = [sentences] if isinstance(sentences, str) else list(sentences)
    return paint(run, Wish(asked, **files, **options), _path(out), device)


def restyle(
    content: Place, style: Place, *, out: Place = "restyled.png", **options: Any
) -> RestyleResult:
    """The content in the manner of the style: two pictures in, one out.

    Options: backbone, weights, size, steps, weight, device.
    """
    from foveate.api.restyle.core import restyle as repaint

    return repaint(Path(content), Path(style), Path(out), **options)


def convert(data: Place, to: str, out: Place, format: str = "auto") -> ConvertResult:
    """The images and boxes at `data` in another format (coco, yolo, voc, boxes_table), in the new folder `out`."""
    from foveate.api.convert import convert as write

    return write(Path(data), to, Path(out), format)


def load(run: Place, device: str = "auto") -> Predictor:
    """The predictor of a finished run, to be asked again and again."""
    from foveate.inference.predictor import load_predictor as opened

    return opened(Path(run), device)


def runs(folder: Place = "runs") -> RunsResult:
    """What was tried in `folder`, the best first."""
    from foveate.api.runs import runs as listed

    return listed(Path(folder))


@overload
def models(*words: str) -> ModelsResult: ...


@overload
def models(*words: str, race: Place, **options: Any) -> RaceResult: ...


def models(*words: str, race: Place | None = None, **options: Any) -> ModelsResult | RaceResult:
    """The backbones whose names hold one of the `words`; without a word a few good starts.

    With `race` they are compared on the images of that data; options: images, size, seed, format, device, strict.
    """
    if race is not None:
        from foveate.api.models.race import race as compare

        return compare(Path(race), *words, **options)
    from foveate.api.models.core import models as listed

    return listed(*words, **options)


def demo(out: Place | None = None) -> DemoResult:
    """The whole story on data and weights that come with the install."""
    from foveate.api.demo import demo as told

    return told(_path(out))


def _path(place: Place | None) -> Path | None:
    return None if place is None else Path(place)


def _places(places: Place | Iterable[Place]) -> list[Path]:
    return [Path(place) for place in ([places] if isinstance(places, str | Path) else places)]
