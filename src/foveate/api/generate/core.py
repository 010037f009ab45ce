"""generate RUN: pictures of a network's own making, or a part of a picture painted anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.api.generate.distances import Distances, compared
from foveate.api.generate.inpainting import Hole, filled, hole
from foveate.data.loading import even_parts
from foveate.data.transforms import as_pixels, evaluation
from foveate.errors import UsageError
from foveate.images import codec as images
from foveate.images.sheets import tiled
from foveate.inference.predictor import load
from foveate.modeling.backbones import Painter, Said, family_of
from foveate.modeling.diffusion import Ground, Reader, painted
from foveate.run.folder import Run
from foveate.utils import console
from foveate.utils.device import device_of
from foveate.utils.files import numbered, refuse_taken, written_aside
from foveate.version import __version__

_AT_ONCE = 16  # pictures
_THUMBNAIL = 128  # px of a picture in the grid
_SHOWN, _ACROSS = (
    96,
    12,
)  # pictures in the grid at the most, evenly taken from all, and in a row of it
_NOTE = "made by a network, and shows nothing that was there"


@dataclass(frozen=True)
class Artist:
    """A painter and what it is asked with. `name`: what is written into its pictures."""

    painter: Painter
    read: Callable[[Sequence[str]], Said]
    name: str
    sentences: list[str]
    steps: int
    guidance: float
    reader: Reader | None = None


@dataclass(frozen=True)
class GenerateResult:
    """`folder`: the pictures, grid.png and pictures.jsonl; `distances`: from real pictures, where they were given."""

    folder: Path
    count: int
    distances: Distances | None = None

    def numbers(self) -> dict[str, Any]:
        found = {"folder": str(self.folder), "images": self.count}
        return found if self.distances is None else {**found, **self.distances.numbers()}

    def lines(self) -> list[str]:
        told = [] if self.distances is None else self.distances.lines()
        first = f"{self.count} pictures in {self.folder}; grid.png shows {'all' if self.count <= _SHOWN else _SHOWN} of them"
        return [first, *told, f"note: each is {_NOTE}; its PNG says how"]


@dataclass(frozen=True)
class Wish:
    """What is asked. `sentences`: of the pictures, the run's examples where there are none; `count`: pictures of each sentence;
    `seed`: of the first picture, each other one has the next. `picture`: one to begin from, at `strength` 0 (as it is) to 1
    (anew); with a `mask` only its white part is painted. `against`: real pictures to compare with, by the features of `features`.
    """

    sentences: Sequence[str] = ()
    count: int = 1
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    picture: Path | None = None
    mask: Path | None = None
    strength: float | None = None
    against: Path | None = None
    features: str = "tf_efficientnet_lite0"


def generate(
    run: Path | str, wish: Wish | None = None, out: Path | None = None, device: str = "auto"
) -> GenerateResult:
    """Paints, with a finished run of the task generate, or with a pretrained painter by its name; the folder `out` is new.

    The same seed gives the same picture, whatever else is painted beside it. Raises UsageError for a run of another task, sentences
    that cannot be read and settings that do not fit, DataError for a mask of another size or without white.
    """
    wish = wish or Wish()
    _refuse(wish)
    folder = out or numbered(Path(run) / "pictures" if Path(run).is_dir() else Path("pictures"))
    refuse_taken(folder)
    artist = _told(_artist(run, device), wish)
    sentences = [
        sentence for sentence in wish.sentences or artist.sentences for _ in range(wish.count)
    ]
    for sentence in dict.fromkeys(sentences):
        if artist.reader is not None:
            artist.reader.refuse_unknown(sentence)
    original = _Original.of(wish, artist.painter) if wish.picture is not None else None
    made = _all(artist, sentences, wish, original)
    distances = (
        compared(made, wish.against, artist.painter.input, wish.features, device)
        if wish.against is not None
        else None
    )
    whole = made if original is None else [original.with_part(pixels) for pixels in made]
    _written(folder, whole, sentences, artist, wish)
    if distances is not None:
        Run(folder).write_json("distances.json", distances.numbers())
    return GenerateResult(folder, len(made), distances)


def _refuse(wish: Wish) -> None:
    if wish.mask is not None and wish.picture is None:
        raise UsageError(
            "a mask wants a picture", where="--mask", hint="--picture FILE --mask FILE"
        )
    if wish.strength is not None and not 0 < wish.strength <= 1:
        raise UsageError(
            f"the strength lies above 0 and is 1 at the most, not {wish.strength}",
            where="--strength",
        )
    if wish.strength is not None and wish.picture is None:
        raise UsageError(
            "the strength is that of changing a picture", where="--strength", hint="--picture FILE"
        )
    if wish.against is not None and wish.picture is not None:
        raise UsageError(
            "pictures that began from another one say nothing of the painter", where="--against"
        )


def _artist(run: Path | str, device: str) -> Artist:
    family = None if Path(run).exists() else _family(str(run))
    if family is not None:
        painter = family.open(str(run), "auto").eval().to(device_of(device))
        if not isinstance(painter, Painter) or not painter.reads:
            raise UsageError(
                f"{run!r} cannot paint before it has learnt to",
                hint="foveate fit DATA --task generate",
            )
        return Artist(painter, painter.embed, str(run), [""], 30, 7.5)
    predictor = load(run, device)
    model, task = predictor.model, predictor.model.task
    painter = model.backbone
    if not isinstance(painter, Painter):
        what = f"this run answers with {task.answer.__name__.lower()}, and paints nothing"
        raise UsageError(what, where=run, hint="foveate fit DATA --task generate")

    def read(sentences: Sequence[str]) -> Said:
        said: Said = task.read(painter, model.head, sentences)  # type: ignore[attr-defined]
        return said

    asked, reader = task.settings, model.head if isinstance(model.head, Reader) else None
    sentences = asked.examples or [asked.prompt]
    return Artist(
        painter, read, predictor.run.folder.name, sentences, asked.steps, asked.guidance, reader
    )


def _told(artist: Artist, wish: Wish) -> Artist:
    """With the steps and the guidance that are wished for."""
    guidance = artist.guidance if wish.guidance is None else wish.guidance
    return replace(artist, steps=wish.steps or artist.steps, guidance=guidance)


def _family(name: str) -> Any:
    """That of a painter by its name; a path that is not there is told as such by `load`."""
    return family_of(name) if ":" in name or not ("/" in name or name.startswith(".")) else None


def _all(
    artist: Artist, sentences: list[str], wish: Wish, original: _Original | None
) -> list[np.ndarray]:
    """(S, S, 3) uint8 for each sentence."""
    parts, spec, found = (
        even_parts(len(sentences), _AT_ONCE),
        artist.painter.input,
        list[np.ndarray](),
    )
    with console.progress(artist.steps * len(parts), "paint") as bar:
        for part in parts:
            asked, seeds = (
                sentences[part],
                [wish.seed + place for place in range(len(sentences))[part]],
            )
            ground = original.ground(artist.painter, len(asked)) if original else None
            made = painted(
                artist.painter,
                artist.read,
                asked,
                seeds,
                artist.steps,
                artist.guidance,
                ground,
                bar.advance,
            )
            found += as_pixels(made, spec.mean, spec.std)
    return found


@dataclass(frozen=True)
class _Original:
    """The picture that it begins from. `part`: where to paint; None = everywhere."""

    pixels: np.ndarray
    mask: np.ndarray | None
    part: Hole | None
    strength: float

    @classmethod
    def of(cls, wish: Wish, painter: Painter) -> _Original:
        assert wish.picture is not None
        pixels, _ = images.read(wish.picture)
        if wish.mask is None:
            return cls(pixels, None, None, wish.strength or 0.5)
        mask = images.read(wish.mask)[0].max(-1) >= 128
        return cls(pixels, mask, hole(pixels, mask, painter.input.size), wish.strength or 1.0)

    def ground(self, painter: Painter, count: int) -> Ground:
        device = next(painter.parameters()).device
        pixels = self.pixels if self.part is None else self.part.pixels
        image, _, _ = evaluation(painter.input, "crop")(pixels, pixels.shape[:2], {})
        clean = painter.packed(painter.input.seen(image[None].to(device))).expand(count, -1, -1, -1)
        if self.part is None:
            return Ground(clean, self.strength)
        wanted = torch.from_numpy(self.part.open).float()[None, None]
        wanted = torch.nn.functional.adaptive_max_pool2d(wanted, clean.shape[-2:])
        return Ground(clean, self.strength, wanted.to(device))

    def with_part(self, made: np.ndarray) -> np.ndarray:
        return (
            made
            if self.part is None or self.mask is None
            else filled(self.pixels, self.mask, self.part, made)
        )


def _written(
    folder: Path, made: list[np.ndarray], sentences: list[str], artist: Artist, wish: Wish
) -> None:
    """PNGs that say how they were made, a grid, and a table that `fit` reads."""
    folder.mkdir(parents=True)
    rows = []
    for place, (pixels, sentence) in enumerate(zip(made, sentences, strict=True)):
        told = {
            "prompt": sentence,
            "seed": str(wish.seed + place),
            "model": artist.name,
            "steps": str(artist.steps),
        }
        told |= {
            "guidance": str(artist.guidance),
            "software": f"foveate {__version__}",
            "note": _NOTE,
        }
        name = f"{place:04d}.png"
        images.write(pixels, folder / name, told)
        rows.append({"path": name, "text": sentence or "a picture", "seed": wish.seed + place})
    shown = np.unique(np.linspace(0, len(made) - 1, _SHOWN).round().astype(int)).tolist()
    grid = tiled(
        [_seen(made[place]) for place in shown], [sentences[place] for place in shown], _ACROSS
    )
    images.write(grid, folder / "grid.png", {"note": _NOTE, "model": artist.name})
    with written_aside(folder / "pictures.jsonl") as aside:
        aside.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )


def _seen(pixels: np.ndarray) -> np.ndarray:
    """As large as a grid shows it: small ones are enlarged, each pixel to a square."""
    times = max(1, _THUMBNAIL // 2 // max(pixels.shape[:2]))
    return images.thumbnail(pixels.repeat(times, 0).repeat(times, 1), _THUMBNAIL)
