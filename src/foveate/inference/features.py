"""Features of a frozen backbone, computed once and kept on disk.

A file is named by everything that it depends on: the backbone's weights, what it sees, and the bytes of the pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.data.dataset import ImageDataset
from foveate.data.image_cache import ImageCache
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.scan import ScannedTable
from foveate.data.transforms import evaluation_transform
from foveate.images.preprocessing import Framing
from foveate.inference.engine import eval_dataset
from foveate.inference.microbatch import MicroBatcher
from foveate.modeling.backbones import Backbone
from foveate.modeling.model import Model
from foveate.modeling.weights import weights_fingerprint
from foveate.recipe import Recipe
from foveate.types import Batch, Provides, Sample
from foveate.utils.device import ComputeMode
from foveate.utils.files import cache_folder

_AT_ONCE = 64
_VERSION = 3  # of what is computed; a change of the decoder, the evaluation transform or what a head describes raises it


def head_features(
    model: Model,
    pictures: ImageDataset,
    hashes: Sequence[str],
    *,
    batch_size: int,
    device: torch.device,
    way: ComputeMode,
    advance: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """(N, D) float32 on the CPU: what the model's head makes of its backbone's features before it weighs them, for the
    pictures in their order; from the cache where it is known.

    `hashes`: SHA-256 of each picture's file. The model is put into eval mode and is not changed otherwise.
    """
    file = cache_folder() / f"{_name(model, hashes, way)}.safetensors"
    known = _kept(file, len(hashes))
    if known is None:
        known = _computed(model, pictures, batch_size, device, way, advance)
        _keep(file, known)
    return known


@torch.inference_mode()
def pooled_features(
    backbone: Backbone,
    samples: Sequence[Sample],
    pixels: ImageCache,
    framing: Framing,
    device: torch.device,
    advance: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """(N, D) float32 on the CPU: the vectors of pictures that can be read, by a backbone in eval mode on the device."""
    pictures = ImageDataset(
        samples, pixels, evaluation_transform(backbone.input, framing), lambda truth, size: {}, 0
    )
    found = []
    for batch in make_loader(pictures, BatchSampler(len(samples), _AT_ONCE)):
        vectors = backbone(batch.to(device).images, {Provides.POOLED}).pooled
        assert vectors is not None
        found.append(vectors.float().cpu())
        advance(len(batch))
    return torch.cat(found)


def _computed(
    model: Model,
    pictures: ImageDataset,
    batch_size: int,
    device: torch.device,
    way: ComputeMode,
    advance: Callable[[int], None],
) -> Tensor:
    # before inference mode begins: weights that are moved in it could not be trained afterwards
    model.eval().to(device=device, memory_format=way.memory_format)  # type: ignore[call-overload]
    found, portions = [], MicroBatcher()

    def described(part: Batch) -> Tensor:
        features = model.backbone(
            part.to(device, memory_format=way.memory_format).images, model.task.needs
        )
        # one image's maps stay in a processor's caches: it takes half the time; a GPU is better off with all at once
        parts = (
            [features.of_image(place) for place in range(len(part))]
            if device.type == "cpu"
            else [features]
        )
        return torch.cat([model.head.feature_vector(each) for each in parts]).float().cpu()  # type: ignore[operator]

    with torch.inference_mode(), way.autocast(device):
        for batch in make_loader(pictures, BatchSampler(len(pictures), batch_size)):
            for part, features in portions.each(batch, described):
                found.append(features)
                advance(len(part))
    return torch.cat(found)


def _name(model: Model, hashes: Sequence[str], way: ComputeMode) -> str:
    backbone = model.backbone
    seen = f"{backbone.input} {sorted(need.value for need in model.task.needs)} {type(model.head).__name__}"
    seen += " bf16" if way.precision == "bf16" else ""
    digest = hashlib.blake2b(
        f"{_VERSION} {seen} {torch.__version__} {weights_fingerprint(backbone.state_dict())}".encode(),
        digest_size=16,
    )
    digest.update("\n".join(hashes).encode())
    return digest.hexdigest()


def _kept(file: Path, count: int) -> Tensor | None:
    """The features in the file; None when there are none, or when the file is damaged."""
    try:
        found = load_file(file)["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    return found if len(found) == count and bool(found.isfinite().all()) else None


def _keep(file: Path, features: Tensor) -> None:
    """A cache that cannot be written costs time, not the result."""
    aside = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": features}, aside)
        aside.replace(file)
    except (OSError, SafetensorError):
        with suppress(OSError):  # where not even the folder could be made
            aside.unlink()


def backbone_features(
    model: Model,
    scanned: ScannedTable,
    recipe: Recipe,
    device: torch.device,
    advance: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """(N, D) float32 of the scanned pictures; from the cache where they are known."""
    found = head_features(
        model,
        eval_dataset(model, scanned.table.samples, scanned.pixels, recipe.seed),
        scanned.hashes,
        batch_size=recipe.training.batch_size,
        device=device,
        way=ComputeMode("fp32", bool(recipe.training.channels_last)),
        advance=advance,
    )
    return found.numpy()
