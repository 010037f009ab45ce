"""The words a user types: one function a verb. Nothing heavy is imported before a verb runs, so --help answers at once."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from foveate import __version__, console
from foveate.errors import FoveateError, UsageError, near_names
from foveate.options import command
from foveate.options import common as _common
from foveate.options import listed as _names
from foveate.options import named_options as _named_options
from foveate.options import option as _option
from foveate.options import path_argument as _path_argument
from foveate.options import recipe_options as _recipe_options
from foveate.options import shown as _shown
from foveate.options import typed as _typed

_STARTED = time.monotonic()  # a time budget counts from here: imports take seconds
_FOLDERS = ["pictures", "coco", "yolo", "masks"]
_CONTINUED = {  # the short words of `continue`
    "replay": "start.replay",
    "distill": "start.distill",
    "epochs": "training.epochs",
    "minutes": "training.minutes",
    "lr": "training.lr",
    "seed": "seed",
    "device": "device",
}
_PRETRAINED = ("backbone", "weights", "size", "tuning", "epochs", "minutes", "batch_size", "lr", "strict", "seed", "device")
_SPLITS = ["auto", "train", "val", "test", "all"]


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 failed, 2 wrong words, 130 and 143 stopped by a signal."""
    sys.exit(_run(sys.argv[1:]))


def _run(words: list[str]) -> int:
    try:
        return _verbs().main(words, prog_name="foveate", standalone_mode=False) or 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort:
        return 130
    except click.UsageError as error:
        return _told(_translated(error))
    except FoveateError as error:
        return _told(error)
    except KeyboardInterrupt:
        return _told(FoveateError("stopped by Ctrl-C"), 130)
    except Exception as error:
        if os.environ.get("FOVEATE_DEBUG") == "1":
            raise
        return _told(_bug(error))


def _told(error: FoveateError, code: int | None = None) -> int:
    console.error(error)
    return code or error.exit_code


def _translated(error: click.UsageError) -> UsageError:
    """click's complaint in our words, with the nearest option or verb."""
    near: list[str] = []
    if isinstance(error, click.NoSuchOption) and error.ctx:
        known = [name for parameter in error.ctx.command.get_params(error.ctx) for name in parameter.opts]
        near = near_names(error.option_name, known)
    elif isinstance(error, _NoSuchVerb):
        near = near_names(error.verb, _VERBS)
    command = error.ctx.command_path if error.ctx else "foveate"
    hint = "did you mean " + " or ".join(near) + "?" if near else f"{command} --help"
    return UsageError(error.format_message().split(" Did you mean")[0].rstrip("."), hint=hint)


def _bug(error: Exception) -> FoveateError:
    with tempfile.NamedTemporaryFile("w", prefix="foveate-", suffix=".txt", delete=False, encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    what = f"this should not happen: {type(error).__name__}: {error}"
    return FoveateError(what, why="a bug in Foveate", hint=f"send the details in {file.name}")


class _NoSuchVerb(click.UsageError):
    def __init__(self, verb: str, ctx: click.Context) -> None:
        super().__init__(f"there is no verb {verb!r}", ctx)
        self.verb = verb


class _Verbs(click.Group):
    """Makes a verb's command when it is used: the options of `fit` come from the recipe, whose import takes time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _VERBS[cmd_name]() if cmd_name in _VERBS else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _VERBS:
            raise _NoSuchVerb(args[0], ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, make.__doc__ or "") for name, make in _VERBS.items()])


def _verbs() -> click.Group:
    return _Verbs(
        help="Adapts large pretrained vision models to your own images, and tells you honestly what you got.\n\n"
        "Start with: foveate demo, or foveate fit FOLDER (a folder with a folder of images for each class).",
        params=[_option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_say_version, help="The version.")],
        no_args_is_help=True,
    )


def _say_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        console.lines([f"foveate {__version__}"])
        ctx.exit()


def _command(name: str, run: Callable[..., Any], params: list[click.Parameter], example: str) -> click.Command:
    return command(name, _VERBS[name].__doc__ or "", run, params, example)


# --- verbs


def _fit() -> click.Command:
    """Adapts a backbone to your images: a folder per class, a table, boxes (COCO, YOLO, VOC), or images and masks."""

    def run(data: Path | None, out: Path | None, resume: Path | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        recipe, settings = words.pop("recipe"), words.pop("set_")
        from foveate.recipe import load_recipe, parse_assignment, recipe_from
        from foveate.verbs.fit import fit

        if data is None and recipe is None and resume is None:
            raise UsageError("no data was named", hint="foveate fit FOLDER")
        given = {word: value for word, value in words.items() if value is not None}
        base = load_recipe(recipe) if recipe else None
        settled = recipe_from(data, given, dict(parse_assignment(text) for text in settings), base)
        _shown(fit(settled, out, resume, _typed(), _STARTED), as_json)

    params: list[click.Parameter] = [
        _path_argument("data", required=False),
        _option("--out", type=click.Path(path_type=Path), help="The run folder to make; default: runs/NAME-N."),
        _option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with an unfinished run, by its recipe."),
        _option("--recipe", type=click.Path(path_type=Path), help="A YAML file with all settings; words beside it count more."),
        _option("--set", "set_", multiple=True, metavar="FIELD=VALUE", help="Any field of the recipe: --set training.ema=0."),
        *_recipe_options(),
    ]
    return _command("fit", run, params, "foveate fit photos --tuning full --epochs 20")


def _pretrain() -> click.Command:
    """Learns a backbone from images without labels, and says whether it has helped."""

    def run(images: Path | None, objective: str | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.recipe import parse_assignment, recipe_from
        from foveate.verbs.pretrain import pretrain

        others = {name: words.pop(name) for name in ("labels", "out", "resume", "dry_run")}
        if images is None and others["resume"] is None:
            raise UsageError("no images were named", hint="foveate pretrain FOLDER")
        settings = dict(parse_assignment(text) for text in words.pop("set_"))
        given = {word: value for word, value in {**words, "task": objective}.items() if value is not None}
        _shown(pretrain(recipe_from(images, given, settings), command=_typed(), **others), as_json)

    params: list[click.Parameter] = [
        _path_argument("images", required=False),
        _option("--objective", help=f"How{_names('objective')}. Default: lejepa."),
        _option("--labels", type=click.Path(path_type=Path), metavar="DATA", help="Labelled images to judge by alone."),
        _option("--out", type=click.Path(path_type=Path), help="The run folder to make; default: runs/NAME-N."),
        _option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with an unfinished run, by its recipe."),
        _option("--dry-run", is_flag=True, help="Say how fast it would go and what it would take, and stop."),
        *_recipe_options(_PRETRAINED),
        _option("--set", "set_", multiple=True, metavar="FIELD=VALUE", help="Any field of the recipe: --set task.narrow=0."),
    ]
    return _command("pretrain", run, params, "foveate pretrain pictures --backbone resnet18 --weights none")


def _continue() -> click.Command:
    """Adds images or classes to a finished run, and measures what it forgets."""

    def run(run: Path, data: Path, out: Path | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.recipe import parse_assignment
        from foveate.verbs.continuing import continue_

        settings = dict(parse_assignment(text) for text in words.pop("set_"))
        stated = {_CONTINUED[word]: value for word, value in words.items() if value is not None}
        _shown(continue_(run, data, out, {**stated, **settings}, _typed(), _STARTED), as_json)

    params: list[click.Parameter] = [
        _path_argument("run"),
        _path_argument("data"),
        _option("--out", type=click.Path(path_type=Path), help="The run folder to make; default: runs/NAME-N."),
        *_named_options(_CONTINUED, kept="start."),
        _option("--set", "set_", multiple=True, metavar="FIELD=VALUE", help="Any field of the recipe; the rest is as in RUN."),
    ]
    return _command("continue", run, params, "foveate continue runs/photos-lora-1 new_photos --replay 0.2")


def _evaluate() -> click.Command:
    """Scores a run on its held-out images, or on other DATA; writes a report."""

    def run(run: Path, data: Path | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.verbs.evaluate import evaluate

        _shown(evaluate(run, data, command=_typed(), **words), as_json)

    params: list[click.Parameter] = [
        _path_argument("run"),
        _path_argument("data", required=False),
        _option("--split", type=click.Choice(_SPLITS), default="auto", help="Which images; auto: test, else val, else all."),
        _option("--shift", type=click.Path(path_type=Path), metavar="DATA", help="Images from elsewhere: what is lost there."),
        _option("--format", default="auto", help="How the data lies on disk; auto looks."),
        *_common(),
    ]
    return _command("evaluate", run, params, "foveate evaluate runs/photos-probe-1 new_photos")


def _predict() -> click.Command:
    """Answers for images: files, folders, or - for a list of paths on stdin."""

    def run(run: Path, images: tuple[Path, ...], format: str, out: Path | None, as_json: bool, **words: Any) -> None:
        console.setup(json=True)  # stdout belongs to the answers
        from foveate.outputs import written
        from foveate.verbs.predict import predict

        counted = written(predict(run, _listed(images), **words), format, out)
        if counted.errors:
            console.warn(f"{counted.errors} of {counted.rows} images could not be read")
        if as_json:
            console.final_json({"run": str(run), "images": counted.rows, "skipped": counted.errors})

    params: list[click.Parameter] = [
        _path_argument("run"),
        _path_argument("images", nargs=-1, required=True),
        _option(
            "--format",
            type=click.Choice(["jsonl", "csv", *_FOLDERS]),
            default="jsonl",
            help="JSON lines or CSV; or a folder of drawn pictures, COCO JSON, YOLO text or index masks.",
        ),
        _option("--out", type=click.Path(path_type=Path), help="A file for the answers instead of stdout; or the folder."),
        _option("--batch-size", default=32, type=click.IntRange(min=1), help="Images at once."),
        *_common(),
    ]
    return _command("predict", run, params, "foveate predict runs/photos-probe-1 new_photos --format csv")


def _listed(images: Iterable[Path]) -> Iterator[Path]:
    for image in images:
        if str(image) == "-":
            yield from (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
        else:
            yield image


def _soup() -> click.Command:
    """Averages the weights of finished runs: of one with its start, or of several."""

    def run(runs: tuple[Path, ...], as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.verbs.soup import soup

        _shown(soup(runs, command=_typed(), **words), as_json)

    params: list[click.Parameter] = [
        _path_argument("runs", nargs=-1, required=True, metavar="RUN [RUN ...]"),
        _option("--out", type=click.Path(path_type=Path), help="The run folder to make; default: runs/NAME-soup-N."),
        _option("--shifted", type=click.Path(path_type=Path), metavar="DATA", help="Data to score averages on; chooses nothing."),
        _option("--steps", default=10, type=click.IntRange(min=1), help="From the start of a single run to its end. Default: 10."),
        _option("--format", default="auto", help="How the shifted data lies on disk; auto looks."),
        *_common(),
    ]
    return _command("soup", run, params, "foveate soup runs/photos-full-1 --shifted other_camera")


def _adapt() -> click.Command:
    """A run adapted to images from elsewhere, without a label of them."""

    def run(run: Path, images: tuple[Path, ...], as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.recipe import parse_assignment
        from foveate.verbs.adapt import adapt

        settings = dict(parse_assignment(text) for text in words.pop("set_"))
        _shown(adapt(run, _listed(images), settings=settings, command=_typed(), **words), as_json)

    params: list[click.Parameter] = [
        _path_argument("run"),
        _path_argument("images", nargs=-1, required=True),
        _option("--out", type=click.Path(path_type=Path), help="The run folder to make; default: runs/NAME-HOW-N."),
        _option("--how", default="adabn", help=f"How{_names('how')}. Default: adabn."),
        _option("--set", "set_", multiple=True, metavar="FIELD=VALUE", help="A setting of the adaptation: --set prior=64."),
        *_common(),
    ]
    return _command("adapt", run, params, "foveate adapt runs/photos-full-1 other_camera")


def _episodes() -> click.Command:
    """How well new classes are learnt from a few images each: n ways, k shots, over and over."""

    def run(data: Path, run: Path | None, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.verbs.episodes import episodes

        counts = {name: words.pop(name) for name in ("ways", "shots", "queries", "count")}
        given = {word: value for word, value in words.items() if value is not None}
        _shown(episodes(data, run=run, **counts, words=given), as_json)

    least = click.IntRange(min=1)
    params: list[click.Parameter] = [
        _path_argument("data"),
        _option("--run", type=click.Path(path_type=Path), metavar="RUN", help="Features of this run; default: of --backbone."),
        _option("--ways", default=5, type=click.IntRange(min=2), help="Classes in an episode. Default: 5."),
        _option("--shots", default=1, type=least, help="Images of each class that teach. Default: 1."),
        _option("--queries", default=15, type=least, help="Images of each class that are asked. Default: 15."),
        _option("--count", default=600, type=least, help="Episodes. Default: 600."),
        _option("--tuning", default="centroid", help="How: centroid, ridge, lpplus, knn, probe. Default: centroid."),
        *_recipe_options(("backbone", "weights", "size", "format", "strict", "seed", "device")),
    ]
    return _command("episodes", run, params, "foveate episodes photos --ways 5 --shots 1")


def _convert() -> click.Command:
    """The same images and boxes in another format, in a new folder."""

    def run(data: Path, as_json: bool, **words: Any) -> None:
        console.setup(json=as_json)
        from foveate.verbs.convert import convert

        _shown(convert(data, **words), as_json)

    params: list[click.Parameter] = [
        _path_argument("data"),
        _option("--to", required=True, metavar="FORMAT", help="coco, yolo, voc or boxes_table."),
        _option("--out", required=True, type=click.Path(path_type=Path), help="The new folder; images are copied into it."),
        _option("--format", default="auto", help="How DATA lies on disk; auto looks."),
    ]
    return _command("convert", run, params, "foveate convert bccd --to coco --out bccd_coco")


def _runs() -> click.Command:
    """A table of what was tried, the best first."""

    def run(folder: Path, as_json: bool) -> None:
        console.setup(json=as_json)
        from foveate.verbs.runs import runs

        _shown(runs(folder), as_json)

    return _command("runs", run, [_path_argument("folder", default=Path("runs"))], "foveate runs")


def _models() -> click.Command:
    """The backbones that can be adapted; WORDS pick some, --race DATA compares some on your images."""

    def run(words: tuple[str, ...], race: Path | None, as_json: bool, **options: Any) -> None:
        console.setup(json=as_json)
        from foveate.verbs import _race, models

        _shown(models.models(*words) if race is None else _race.race(race, *words, **options), as_json)

    told = "Rank backbones by a linear classifier and nearest neighbours on their features of these images, test images aside."
    params: list[click.Parameter] = [
        click.Argument(["words"], nargs=-1),
        _option("--race", type=click.Path(path_type=Path), metavar="DATA", help=f"{told} A word may name weights: resnet18:none."),
        _option("--images", default=400, type=click.IntRange(min=0), help="Of a race: images drawn from DATA; 0 takes all."),
        _option("--size", type=click.IntRange(min=16), help="Of a race: side of the square that all see, px; default: their own."),
        _option("--seed", default=0, type=click.IntRange(min=0), help="Of a race: seed of the drawing, folds and random weights."),
        _option("--format", default="auto", help="Of a race: how DATA lies on disk; auto looks."),
        *_common(),
    ]
    return _command("models", run, params, "foveate models --race photos tf_efficientnet_lite0 resnet18")


def _demo() -> click.Command:
    """The whole story on data and weights that come with the install."""

    def run(out: Path | None, as_json: bool) -> None:
        console.setup(json=as_json)
        from foveate.verbs.demo import demo

        _shown(demo(out), as_json)

    out = _option("--out", type=click.Path(path_type=Path), help="A new folder; default: foveate-demo.")
    return _command("demo", run, [out], "foveate demo")


_VERBS: dict[str, Callable[[], click.Command]] = {
    "pretrain": _pretrain,
    "fit": _fit,
    "continue": _continue,
    "evaluate": _evaluate,
    "predict": _predict,
    "soup": _soup,
    "adapt": _adapt,
    "episodes": _episodes,
    "convert": _convert,
    "runs": _runs,
    "models": _models,
    "demo": _demo,
}
