"""generate RUN: pictures of a network's own making, or a part of a picture painted anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.api.generate.distances import Distances, compare_to_real
from foveate.api.generate.inpainting import InpaintingRegion, find_region, paste_region
from foveate.data.loading import even_slices
from foveate.data.transforms import as_pixels, evaluation_transform
from foveate.errors import UsageError
from foveate.images import codec as images
from foveate.images.sheets import image_grid
from foveate.inference.predictor import load_predictor
from foveate.modeling.backbones import Conditioning, DiffusionBackbone, family_of
from foveate.modeling.diffusion import ConditioningEncoder, InitialImage, generate_images
from foveate.utils import console
from foveate.utils.device import resolve_device
from foveate.utils.files import next_free_path, require_free, write_json, write_text
from foveate.version import __version__

_AT_ONCE = 16  # pictures
_THUMBNAIL = 128  # px of a picture in the grid
_SHOWN, _ACROSS = (
    96,
    12,
)  # pictures in the grid at the most, evenly taken from all, and in a row of it
_NOTE = "made by a network, and shows nothing that was there"


@dataclass(frozen=True)
class ImageGenerator:
    """A painter and what it is asked with. `name`: what is written into its pictures."""

    backbone: DiffusionBackbone
    encode: Callable[[Sequence[str]], Conditioning]
    name: str
    sentences: list[str]
    steps: int
    guidance: float
    encoder: ConditioningEncoder | None = None


@dataclass(frozen=True)
class GenerateResult:
    """`folder`: the pictures, grid.png and pictures.jsonl; `distances`: from real pictures, where
    they were given.
    """

    folder: Path
    count: int
    distances: Distances | None = None

    def numbers(self) -> dict[str, Any]:
        found = {"folder": str(self.folder), "images": self.count}
        return found if self.distances is None else {**found, **self.distances.numbers()}

    def lines(self) -> list[str]:
        told = [] if self.distances is None else self.distances.lines()
        shown = "all" if self.count <= _SHOWN else _SHOWN
        first = f"{self.count} images in {self.folder}; grid.png shows {shown} of them"
        return [first, *told, f"note: each is {_NOTE}; its PNG says how"]


@dataclass(frozen=True)
class Request:
    """What to generate: the options of `foveate.generate`, which explains them."""

    prompts: Sequence[str]
    count: int
    seed: int
    steps: int | None
    guidance: float | None
    image: Path | None
    mask: Path | None
    strength: float | None
    reference: Path | None
    feature_backbone: str


def generate_files(
    run: Path | str, request: Request, out: Path | None, device: str
) -> GenerateResult:
    """Generate the images and write them, with a grid and a table, to the new folder `out`."""
    _check_request(request)
    folder = out or next_free_path(
        Path(run) / "pictures" if Path(run).is_dir() else Path("pictures")
    )
    require_free(folder)
    artist = _with_overrides(_load_generator(run, device), request)
    prompts = [
        prompt for prompt in request.prompts or artist.sentences for _ in range(request.count)
    ]
    for prompt in dict.fromkeys(prompts):
        if artist.encoder is not None:
            artist.encoder.check_prompt(prompt)
    original = _SourceImage.of(request, artist.backbone) if request.image is not None else None
    made = _generate_all(artist, prompts, request, original)
    distances = (
        compare_to_real(
            made, request.reference, artist.backbone.input, request.feature_backbone, device
        )
        if request.reference is not None
        else None
    )
    whole = made if original is None else [original.with_part(pixels) for pixels in made]
    _write_images(folder, whole, prompts, artist, request)
    if distances is not None:
        write_json(folder / "distances.json", distances.numbers())
    return GenerateResult(folder, len(made), distances)


def _check_request(request: Request) -> None:
    if request.mask is not None and request.image is None:
        raise UsageError("--mask requires --image", where="--mask", hint="--image FILE --mask FILE")
    if request.strength is not None and not 0 < request.strength <= 1:
        raise UsageError(
            f"the strength lies above 0 and is 1 at the most, not {request.strength}",
            where="--strength",
        )
    if request.strength is not None and request.image is None:
        raise UsageError(
            "the strength is that of changing a picture", where="--strength", hint="--image FILE"
        )
    if request.reference is not None and request.image is not None:
        raise UsageError(
            "pictures that began from another one say nothing of the painter", where="--reference"
        )


def _load_generator(run: Path | str, device: str) -> ImageGenerator:
    family = None if Path(run).exists() else _family_by_name(str(run))
    if family is not None:
        backbone = family.open(str(run), "auto").eval().to(resolve_device(device))
        if not isinstance(backbone, DiffusionBackbone) or not backbone.encodes_text:
            raise UsageError(
                f"{run!r} cannot paint before it has learnt to",
                hint="foveate fit DATA --task generate",
            )
        return ImageGenerator(backbone, backbone.encode_prompts, str(run), [""], 30, 7.5)
    predictor = load_predictor(run, device)
    model, task = predictor.model, predictor.model.task
    backbone = model.backbone
    if not isinstance(backbone, DiffusionBackbone):
        what = f"this run answers with {task.prediction_type.__name__.lower()}, and paints nothing"
        raise UsageError(what, where=run, hint="foveate fit DATA --task generate")

    def read(sentences: Sequence[str]) -> Conditioning:
        said: Conditioning = task.condition(backbone, model.head, sentences)  # type: ignore[attr-defined]
        return said

    asked, reader = (
        task.settings,
        model.head if isinstance(model.head, ConditioningEncoder) else None,
    )
    sentences = asked.example_prompts or [asked.prompt]
    return ImageGenerator(
        backbone, read, predictor.run.folder.name, sentences, asked.steps, asked.guidance, reader
    )


def _with_overrides(artist: ImageGenerator, request: Request) -> ImageGenerator:
    """With the steps and the guidance that are wished for."""
    guidance = artist.guidance if request.guidance is None else request.guidance
    return replace(artist, steps=request.steps or artist.steps, guidance=guidance)


def _family_by_name(name: str) -> Any:
    """That of a painter by its name; a path that is not there is told as such by `load`."""
    return family_of(name) if ":" in name or not ("/" in name or name.startswith(".")) else None


def _generate_all(
    artist: ImageGenerator, sentences: list[str], request: Request, original: _SourceImage | None
) -> list[np.ndarray]:
    """(S, S, 3) uint8 for each sentence."""
    parts, spec, found = (
        even_slices(len(sentences), _AT_ONCE),
        artist.backbone.input,
        list[np.ndarray](),
    )
    with console.progress(artist.steps * len(parts), "paint") as bar:
        for part in parts:
            asked, seeds = (
                sentences[part],
                [request.seed + place for place in range(len(sentences))[part]],
            )
            ground = original.initial_image(artist.backbone, len(asked)) if original else None
            made = generate_images(
                artist.backbone,
                artist.encode,
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
class _SourceImage:
    """The picture that it begins from. `part`: where to paint; None = everywhere."""

    pixels: np.ndarray
    mask: np.ndarray | None
    part: InpaintingRegion | None
    strength: float

    @classmethod
    def of(cls, request: Request, backbone: DiffusionBackbone) -> _SourceImage:
        assert request.image is not None
        pixels, _ = images.read_image(request.image)
        if request.mask is None:
            return cls(pixels, None, None, request.strength or 0.5)
        mask = images.read_image(request.mask)[0].max(-1) >= 128
        return cls(
            pixels, mask, find_region(pixels, mask, backbone.input.size), request.strength or 1.0
        )

    def initial_image(self, backbone: DiffusionBackbone, count: int) -> InitialImage:
        device = next(backbone.parameters()).device
        pixels = self.pixels if self.part is None else self.part.pixels
        image, _, _ = evaluation_transform(backbone.input, "crop")(pixels, pixels.shape[:2], {})
        clean = backbone.encode(backbone.input.normalize(image[None].to(device))).expand(
            count, -1, -1, -1
        )
        if self.part is None:
            return InitialImage(clean, self.strength)
        wanted = torch.from_numpy(self.part.mask).float()[None, None]
        wanted = torch.nn.functional.adaptive_max_pool2d(wanted, clean.shape[-2:])
        return InitialImage(clean, self.strength, wanted.to(device))

    def with_part(self, made: np.ndarray) -> np.ndarray:
        return (
            made
            if self.part is None or self.mask is None
            else paste_region(self.pixels, self.mask, self.part, made)
        )


def _write_images(
    folder: Path,
    made: list[np.ndarray],
    sentences: list[str],
    artist: ImageGenerator,
    request: Request,
) -> None:
    """PNGs that say how they were made, a grid, and a table that `fit` reads."""
    folder.mkdir(parents=True)
    rows = []
    for place, (pixels, sentence) in enumerate(zip(made, sentences, strict=True)):
        told = {
            "prompt": sentence,
            "seed": str(request.seed + place),
            "model": artist.name,
            "steps": str(artist.steps),
        }
        told |= {
            "guidance": str(artist.guidance),
            "software": f"foveate {__version__}",
            "note": _NOTE,
        }
        name = f"{place:04d}.png"
        images.write_image(pixels, folder / name, told)
        rows.append({"path": name, "text": sentence or "a picture", "seed": request.seed + place})
    shown = np.unique(np.linspace(0, len(made) - 1, _SHOWN).round().astype(int)).tolist()
    grid = image_grid(
        [_enlarged(made[place]) for place in shown], [sentences[place] for place in shown], _ACROSS
    )
    images.write_image(grid, folder / "grid.png", {"note": _NOTE, "model": artist.name})
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(folder / "pictures.jsonl", "".join(lines))


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    """As large as a grid shows it: small ones are enlarged, each pixel to a square."""
    times = max(1, _THUMBNAIL // 2 // max(pixels.shape[:2]))
    return images.thumbnail(pixels.repeat(times, 0).repeat(times, 1), _THUMBNAIL)
