"""Features of frozen backbones, computed once and kept on disk.

A file is named by everything that its content depends on: the weights of the backbone, its input,
and the bytes of the images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foveate.data.dataset import ImageDataset
from foveate.data.image_cache import ImageCache
from foveate.data.loading import BatchSampler, make_loader
from foveate.data.scan import ScannedTable
from foveate.data.transforms import evaluation_transform
from foveate.images.pixels import AS_STORED, Rendering
from foveate.images.preprocessing import Framing
from foveate.inference.microbatch import MicroBatcher
from foveate.modeling.backbones import Backbone
from foveate.modeling.datasets import eval_dataset
from foveate.modeling.model import Model
from foveate.modeling.weights import weights_fingerprint
from foveate.recipe import Recipe
from foveate.types import Batch, Features, Provides, Sample
from foveate.utils.cache import SUFFIX, cache_folder, limit_cache, mark_used, max_cache_bytes
from foveate.utils.device import ComputeMode, to_device

_BATCH_SIZE = 64
# of what is computed: a change of the decoder, the evaluation transform or the features that a head
# reads raises it
_VERSION = 4
_DIGEST = "blake2b"  # of the numbers, in the header of a file
_POOLED = frozenset({Provides.POOLED})
_FP32 = ComputeMode("fp32", channels_last=False)


def _pooled(features: Features, count: int) -> Tensor:
    assert features.pooled is not None
    return features.pooled


def extract_features(
    backbone: Backbone,
    batches: Iterable[Batch],
    device: torch.device,
    mode: ComputeMode = _FP32,
    *,
    needs: frozenset[Provides] = _POOLED,
    select: Callable[[Features, int], Tensor] = _pooled,
    advance: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Compute features of images, in the order of the batches.

    Args:
        backbone: The backbone, on `device` and in eval mode.
        batches: Batches of images, anywhere.
        device: Device of the backbone.
        mode: Precision and memory format.
        needs: The features that the backbone computes.
        select: Called with the features and the number of images; returns the tensor to keep, B
            first. The pooled features by default.
        advance: Called with the number of images of each finished part.

    Returns:
        (N, D) float32 on the CPU.
    """
    parts, micro_batcher = list[Tensor](), MicroBatcher()

    def forward(part: Batch) -> Tensor:
        images = to_device(part, device, mode).images
        return select(backbone(images, needs), len(part)).float().cpu()

    with torch.inference_mode(), mode.autocast(device):
        for batch in batches:
            for part, features in micro_batcher.map(batch, forward):
                parts.append(features)
                advance(len(part))
    return torch.cat(parts)


def pooled_features(
    backbone: Backbone,
    samples: Sequence[Sample],
    cache: ImageCache,
    framing: Framing,
    device: torch.device,
    advance: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Compute the pooled features of readable images.

    Args:
        backbone: The backbone, on `device` and in eval mode.
        samples: The images; targets are not needed.
        cache: Decodes them.
        framing: How an image is fitted to the input of the backbone.
        device: Device of the backbone.
        advance: Called with the number of images of each finished part.

    Returns:
        (N, D) float32 on the CPU.
    """
    transform = evaluation_transform(backbone.input, framing)
    dataset = ImageDataset(samples, cache, transform, lambda target, size: {}, 0)
    loader = make_loader(dataset, BatchSampler(len(samples), _BATCH_SIZE))
    return extract_features(backbone, loader, device, advance=advance)


def head_features(
    model: Model,
    dataset: ImageDataset,
    hashes: Sequence[str],
    *,
    batch_size: int,
    device: torch.device,
    mode: ComputeMode,
    advance: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Compute the features that the head of a model weighs linearly, or read them from the cache.

    Args:
        model: The model; it is put into eval mode and onto `device`, and not changed otherwise.
        dataset: The images.
        hashes: SHA-256 of each image file.
        batch_size: Images per forward pass.
        device: Device to compute on.
        mode: Precision and memory format.
        advance: Called with the number of images of each finished part.

    Returns:
        (N, D) float32 on the CPU, in the order of the dataset.
    """
    key = _cache_key(model, hashes, mode, dataset.cache.rendering)
    file = cache_folder() / f"{key}{SUFFIX}"
    limit = max_cache_bytes()  # a bad value is reported before anything is computed
    features = _read_cache(file, len(hashes))
    if features is None:
        features = _head_features(model, dataset, batch_size, device, mode, advance)
        _write_cache(file, features)
        limit_cache(limit)
    return features


def has_features(
    model: Model, dataset: ImageDataset, hashes: Sequence[str], mode: ComputeMode
) -> bool:
    """Whether the features of `head_features` are in the cache.

    Args:
        model: The model.
        dataset: The images.
        hashes: SHA-256 of each image file.
        mode: Precision and memory format.
    """
    key = _cache_key(model, hashes, mode, dataset.cache.rendering)
    return (cache_folder() / f"{key}{SUFFIX}").is_file()


def backbone_features(
    model: Model,
    scanned: ScannedTable,
    recipe: Recipe,
    device: torch.device,
    advance: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Compute the features of `head_features` for scanned images, in float32.

    Returns:
        (N, D) float32.
    """
    features = head_features(
        model,
        eval_dataset(model, scanned.table.samples, scanned.cache, recipe.seed),
        scanned.hashes,
        batch_size=recipe.training.batch_size,
        device=device,
        mode=ComputeMode.for_inference(recipe.training),
        advance=advance,
    )
    return features.numpy()


def _head_features(
    model: Model,
    dataset: ImageDataset,
    batch_size: int,
    device: torch.device,
    mode: ComputeMode,
    advance: Callable[[int], None],
) -> Tensor:
    # before inference mode begins: weights that are moved in it cannot be trained afterwards
    to_device(model.eval(), device, mode)

    def describe(features: Features, count: int) -> Tensor:
        # the maps of one image fit into the caches of a CPU, which takes half the time; a GPU is
        # faster with all images at once
        parts = [features.of_image(i) for i in range(count)] if device.type == "cpu" else [features]
        return torch.cat([model.head.feature_vector(part) for part in parts])  # type: ignore[operator]

    loader = make_loader(dataset, BatchSampler(len(dataset), batch_size))
    return extract_features(
        model.backbone,
        loader,
        device,
        mode,
        needs=model.task.needs,
        select=describe,
        advance=advance,
    )


def _cache_key(model: Model, hashes: Sequence[str], mode: ComputeMode, rendering: Rendering) -> str:
    backbone = model.backbone
    needs = sorted(need.value for need in model.task.needs)
    computed = f"{backbone.input} {needs} {type(model.head).__name__}"
    framing = model.task.framing
    computed += "" if framing == "crop" else f" {framing}"
    computed += "" if rendering == AS_STORED else f" {rendering}"
    computed += " bf16" if mode.precision == "bf16" else ""
    weights = weights_fingerprint(backbone.state_dict())
    digest = hashlib.blake2b(
        f"{_VERSION} {computed} {torch.__version__} {weights}".encode(), digest_size=16
    )
    digest.update("\n".join(hashes).encode())
    return digest.hexdigest()


def _read_cache(file: Path, count: int) -> Tensor | None:
    """Return the features in a file; None if it is missing or damaged."""
    try:
        with safe_open(file, "pt") as opened:
            features: Tensor = opened.get_tensor("features")
            digest = (opened.metadata() or {}).get(_DIGEST)
    except (OSError, SafetensorError):
        return None
    if len(features) != count or digest != _digest(features):
        return None
    mark_used(file)
    return features


def _write_cache(file: Path, features: Tensor) -> None:
    """Write the features; a cache that cannot be written costs time, not the result."""
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": features}, temporary, {_DIGEST: _digest(features)})
        temporary.replace(file)
    except (OSError, SafetensorError):
        with suppress(OSError):  # the folder itself could not be made
            temporary.unlink()


def _digest(features: Tensor) -> str:
    return hashlib.blake2b(features.contiguous().numpy().data, digest_size=16).hexdigest()
