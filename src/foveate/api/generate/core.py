"""generate RUN: generate images, or repaint a region of an image, by a diffusion model."""

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
from foveate.errors import UnknownName, UsageError
from foveate.images.codec import read_image, thumbnail
from foveate.images.encoding import write_image
from foveate.images.sheets import image_grid
from foveate.inference.predictor import load_predictor
from foveate.modeling.backbones import Conditioning, DiffusionBackbone, family_of
from foveate.modeling.diffusion import ConditioningEncoder, InitialImage, generate_images
from foveate.utils import console
from foveate.utils.device import resolve_device
from foveate.utils.files import next_free_path, require_free, write_json, write_text
from foveate.utils.paths import did_you_mean_path
from foveate.version import __version__

_BATCH_SIZE = 16  # images
_THUMBNAIL = 128  # px of an image in the grid
_MAX_IN_GRID = 96  # images in the grid, evenly taken from all
_GRID_COLUMNS = 12
_NOTE = "AI-generated image"


@dataclass(frozen=True)
class ImageGenerator:
    """A diffusion model and its default settings.

    Attributes:
        backbone: The denoiser.
        encode: Turns prompts into conditioning.
        name: Written into the metadata of images.
        prompts: Prompts to use if none are given.
        steps: Number of denoising steps.
        guidance: Scale of classifier-free guidance.
        encoder: Can check prompts; None if every text is a valid prompt.
    """

    backbone: DiffusionBackbone
    encode: Callable[[Sequence[str]], Conditioning]
    name: str
    prompts: list[str]
    steps: int
    guidance: float
    encoder: ConditioningEncoder | None = None


@dataclass(frozen=True)
class GenerateResult:
    """Generated images.

    Attributes:
        folder: Holds the images, grid.png and images.jsonl.
        count: Number of images.
        distances: Distances to real images, if a reference was given.
    """

    folder: Path
    count: int
    distances: Distances | None = None

    def numbers(self) -> dict[str, Any]:
        distances = {} if self.distances is None else self.distances.numbers()
        return {"folder": str(self.folder), "images": self.count, **distances}

    def lines(self) -> list[str]:
        distances = [] if self.distances is None else self.distances.lines()
        in_grid = "all" if self.count <= _MAX_IN_GRID else _MAX_IN_GRID
        images = "1 image" if self.count == 1 else f"{self.count} images"
        return [
            f"{images} in {self.folder}; grid.png shows {in_grid} of them",
            *distances,
            "note: the metadata of each PNG names it AI-generated, with prompt, seed and settings",
        ]


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
    """Generate the images and write them, with a grid and a table, to the new folder `out`.

    Raises:
        UsageError: The run generates no images, or the options do not fit together.
        DataError: The mask has another size than the image, or no white region.
    """
    _check_request(request)
    parent = Path(run) / "generated" if Path(run).is_dir() else Path("generated")
    folder = out or next_free_path(parent)
    require_free(folder)
    generator = _with_overrides(_load_generator(run, device), request)
    prompts = [
        prompt for prompt in request.prompts or generator.prompts for _ in range(request.count)
    ]
    for prompt in dict.fromkeys(prompts):
        if generator.encoder is not None:
            generator.encoder.check_prompt(prompt)
    source = None if request.image is None else _SourceImage.of(request, generator.backbone)
    generated = _generate_all(generator, prompts, request, source)
    distances = None
    if request.reference is not None:
        spec, features = generator.backbone.input, request.feature_backbone
        distances = compare_to_real(generated, request.reference, spec, features, device)
    images = generated if source is None else [source.paste(pixels) for pixels in generated]
    _write_images(folder, images, prompts, generator, request)
    if distances is not None:
        write_json(folder / "distances.json", distances.numbers())
    return GenerateResult(folder, len(images), distances)


def _check_request(request: Request) -> None:
    if request.mask is not None and request.image is None:
        raise UsageError("--mask requires --image", where="--mask", hint="--image FILE --mask FILE")
    if request.strength is not None and not 0 < request.strength <= 1:
        raise UsageError(
            f"the strength must be above 0 and at most 1, got {request.strength}",
            where="--strength",
        )
    if request.strength is not None and request.image is None:
        raise UsageError("--strength requires --image", where="--strength", hint="--image FILE")
    if request.reference is not None and request.image is not None:
        raise UsageError(
            "--reference and --image are mutually exclusive: images that start from another one "
            "do not measure the generator",
            where="--reference",
        )


def _load_generator(run: Path | str, device: str) -> ImageGenerator:
    family = None if Path(run).exists() else _family_by_name(str(run))
    if family is not None:
        backbone = family.open(str(run), "auto").eval().to(resolve_device(device))
        if not isinstance(backbone, DiffusionBackbone) or not backbone.encodes_text:
            raise UsageError(
                f"{run!r} cannot generate images before it has been trained to",
                hint="foveate fit DATA --task generate",
            )
        return ImageGenerator(backbone, backbone.encode_prompts, str(run), [""], 30, 7.5)
    predictor = load_predictor(run, device)
    model, task = predictor.model, predictor.model.task
    backbone = model.backbone
    if not isinstance(backbone, DiffusionBackbone):
        kind = task.prediction_type.__name__.lower()
        raise UsageError(
            f"this run predicts {kind} and cannot generate images",
            where=run,
            hint="foveate fit DATA --task generate",
        )

    def encode(prompts: Sequence[str]) -> Conditioning:
        conditioning: Conditioning = task.condition(backbone, model.head, prompts)  # type: ignore[attr-defined]
        return conditioning

    settings = task.settings
    return ImageGenerator(
        backbone=backbone,
        encode=encode,
        name=predictor.run.folder.name,
        prompts=settings.example_prompts or [settings.prompt],
        steps=settings.steps,
        guidance=settings.guidance,
        encoder=model.head if isinstance(model.head, ConditioningEncoder) else None,
    )


def _with_overrides(generator: ImageGenerator, request: Request) -> ImageGenerator:
    """Replace the steps and the guidance by those requested."""
    guidance = generator.guidance if request.guidance is None else request.guidance
    return replace(generator, steps=request.steps or generator.steps, guidance=guidance)


def _family_by_name(name: str) -> Any:
    """Return the family of a diffusion model; None for a path, which `load_predictor` reports."""
    if ":" not in name and ("/" in name or name.startswith(".")):
        return None
    try:
        return family_of(name)
    except UnknownName as error:
        what = "there is no run at this path, and no backbone of this name"
        hint = did_you_mean_path(Path(name)) or error.hint
        raise UsageError(what, where=name, hint=hint) from None


def _generate_all(
    generator: ImageGenerator, prompts: list[str], request: Request, source: _SourceImage | None
) -> list[np.ndarray]:
    """Return (S, S, 3) uint8 for each prompt."""
    backbone, images = generator.backbone, list[np.ndarray]()
    seeds = [request.seed + index for index in range(len(prompts))]
    parts = even_slices(len(prompts), _BATCH_SIZE)
    with console.progress(generator.steps * len(parts), "generate") as bar:
        for part in parts:
            initial = source.initial_image(backbone, len(prompts[part])) if source else None
            batch = generate_images(
                backbone,
                generator.encode,
                prompts[part],
                seeds[part],
                generator.steps,
                generator.guidance,
                initial,
                bar.advance,
            )
            images += as_pixels(batch, backbone.input.mean, backbone.input.std)
    return images


@dataclass(frozen=True)
class _SourceImage:
    """The image to start from.

    Attributes:
        pixels: (H, W, 3) uint8.
        mask: (H, W) bool, where to generate; None for everywhere.
        region: Square around the mask.
        strength: How much noise is added first, in (0, 1].
    """

    pixels: np.ndarray
    mask: np.ndarray | None
    region: InpaintingRegion | None
    strength: float

    @classmethod
    def of(cls, request: Request, backbone: DiffusionBackbone) -> _SourceImage:
        assert request.image is not None
        pixels, _ = read_image(request.image)
        if request.mask is None:
            return cls(pixels, None, None, request.strength or 0.5)
        mask = read_image(request.mask)[0].max(-1) >= 128
        region = find_region(pixels, mask, backbone.input.size)
        return cls(pixels, mask, region, request.strength or 1.0)

    def initial_image(self, backbone: DiffusionBackbone, count: int) -> InitialImage:
        """Return a batch of `count` copies, encoded for the backbone."""
        device = next(backbone.parameters()).device
        pixels = self.pixels if self.region is None else self.region.pixels
        image, _, _ = evaluation_transform(backbone.input, "crop")(pixels, pixels.shape[:2], {})
        clean = backbone.encode(backbone.input.normalize(image[None].to(device)))
        clean = clean.expand(count, -1, -1, -1)
        if self.region is None:
            return InitialImage(clean, self.strength)
        mask = torch.from_numpy(self.region.mask).float()[None, None]
        mask = torch.nn.functional.adaptive_max_pool2d(mask, clean.shape[-2:])
        return InitialImage(clean, self.strength, mask.to(device))

    def paste(self, generated: np.ndarray) -> np.ndarray:
        """Return the whole image with the generated region; `generated` if there is no mask."""
        if self.region is None or self.mask is None:
            return generated
        return paste_region(self.pixels, self.mask, self.region, generated)


def _write_images(
    folder: Path,
    images: list[np.ndarray],
    prompts: list[str],
    generator: ImageGenerator,
    request: Request,
) -> None:
    """Write PNGs with their settings as metadata, a grid, and a table that `fit` can read."""
    folder.mkdir(parents=True)
    rows = []
    for index, (pixels, prompt) in enumerate(zip(images, prompts, strict=True)):
        metadata = {
            "prompt": prompt,
            "seed": str(request.seed + index),
            "model": generator.name,
            "steps": str(generator.steps),
            "guidance": str(generator.guidance),
            "software": f"foveate {__version__}",
            "note": _NOTE,
        }
        name = f"{index:04d}.png"
        write_image(pixels, folder / name, metadata)
        rows.append({"path": name, "text": prompt or "an image", "seed": request.seed + index})
    chosen = np.unique(np.linspace(0, len(images) - 1, _MAX_IN_GRID).round().astype(int)).tolist()
    tiles, titles = [_tile(images[each]) for each in chosen], [prompts[each] for each in chosen]
    grid = image_grid(tiles, titles, _GRID_COLUMNS)
    write_image(grid, folder / "grid.png", {"note": _NOTE, "model": generator.name})
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(folder / "images.jsonl", "".join(lines))


def _tile(pixels: np.ndarray) -> np.ndarray:
    """Bring an image to the size of the grid; small ones are enlarged pixel by pixel."""
    times = max(1, _THUMBNAIL // 2 // max(pixels.shape[:2]))
    return thumbnail(pixels.repeat(times, 0).repeat(times, 1), _THUMBNAIL)
