"""Features of a frozen backbone, computed once and kept on disk.

A file is named by everything that it depends on: the backbone's weights, what it sees, and the bytes of the pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.backbones import Backbone
from foveate.data import Order, Pictures, loader
from foveate.types import Provides
from foveate.weights import fingerprint

_VERSION = 1  # of what is computed; a change of the decoder or of the evaluation transform raises it


def pooled(
    backbone: Backbone,
    pictures: Pictures,
    hashes: Sequence[str],
    *,
    batch_size: int,
    device: torch.device,
    channels_last: bool,
    advance: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """(N, D) float32 on the CPU: the pooled features of the pictures in their order, from the cache where they are known.

    `hashes`: SHA-256 of each picture's file. The backbone is put into eval mode and is not changed otherwise.
    """
    file = cache_folder() / f"{_name(backbone, hashes)}.safetensors"
    known = _kept(file, len(hashes))
    if known is None:
        known = _computed(backbone, pictures, batch_size, device, channels_last, advance)
        _keep(file, known)
    return known


def cache_folder() -> Path:
    """FOVEATE_CACHE, or `foveate` in the user's cache folder."""
    stated = os.environ.get("FOVEATE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(stated) if stated else Path(base) / "foveate"


def _computed(
    backbone: Backbone,
    pictures: Pictures,
    batch_size: int,
    device: torch.device,
    channels_last: bool,
    advance: Callable[[int], None],
) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # before inference mode begins: weights that are moved in it could not be trained afterwards
    backbone.eval().to(device=device, memory_format=layout)  # type: ignore[call-overload]
    found = []
    with torch.inference_mode():
        for batch in loader(pictures, Order(len(pictures), batch_size)):
            features = backbone(batch.to(device, memory_format=layout).images, Provides.POOLED).pooled
            found.append(features.float().cpu())
            advance(len(batch))
    return torch.cat(found)


def _name(backbone: Backbone, hashes: Sequence[str]) -> str:
    spec = backbone.input
    digest = hashlib.blake2b(f"{_VERSION} {spec} {torch.__version__} {fingerprint(backbone.state_dict())}".encode(), digest_size=16)
    digest.update("\n".join(hashes).encode())
    return digest.hexdigest()


def _kept(file: Path, count: int) -> Tensor | None:
    """The features in the file; None when there are none, or when the file is damaged."""
    try:
        found = load_file(file)["pooled"]
    except (OSError, SafetensorError, KeyError):
        return None
    return found if len(found) == count and bool(found.isfinite().all()) else None


def _keep(file: Path, features: Tensor) -> None:
    """A cache that cannot be written costs time, not the result."""
    aside = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"pooled": features}, aside)
        aside.replace(file)
    except (OSError, SafetensorError):
        aside.unlink(missing_ok=True)
