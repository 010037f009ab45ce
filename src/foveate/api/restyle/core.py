"""restyle CONTENT STYLE: one picture in the manner of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.api.restyle.style_transfer import Restyled, restyled
from foveate.errors import UsageError
from foveate.images import codec as images
from foveate.images.sheets import side_by_side
from foveate.modeling.backbones import Backbone, family_of
from foveate.types import Provides
from foveate.utils import console
from foveate.utils.device import resolve_device
from foveate.utils.files import require_free
from foveate.version import __version__


@dataclass(frozen=True)
class RestyleResult:
    """`file`: the image; `beside`: content, style and result side by side; `found`: the losses."""

    file: Path
    beside: Path
    found: Restyled

    def numbers(self) -> dict[str, Any]:
        before, after = self.found.style
        told = {
            "style_loss_before": before,
            "style_loss": after,
            "lowered": 1 - after / before,
            "content_loss": self.found.content,
        }
        return {"file": str(self.file), "beside": str(self.beside), **told}

    def lines(self) -> list[str]:
        told = self.numbers()
        how = f"{told['style_loss_before']:.3g} to {told['style_loss']:.3g} "
        how += f"({told['lowered']:.1%} lower)"
        return [
            f"the style's loss went from {how}",
            f"picture: {self.file}",
            f"side by side: {self.beside}",
        ]


@dataclass(frozen=True)
class Transfer:
    """`size`: longer side of the result, px; `weight`: of the style loss."""

    content: Path
    style: Path
    size: int
    steps: int
    weight: float


def output_files(out: Path) -> tuple[Path, Path]:
    """Return the files to write. Raises UsageError where one exists, or `out` is not a PNG."""
    if out.suffix.lower() != ".png":
        raise UsageError(
            "the image is written as a PNG", where=out, hint=f"--out {out.with_suffix('.png')}"
        )
    files = out, out.with_name(f"{out.stem}-beside.png")
    for file in files:
        require_free(file)
    return files


def open_backbone(name: str, weights: str, device: str) -> Backbone:
    """Open the backbone on the device. Raises UsageError where it has no feature maps."""
    network = family_of(name).open(name, weights).eval()
    if Provides.MAPS not in network.provides:
        raise UsageError(
            f"the backbone {name!r} has no maps to compare",
            where="--backbone",
            hint="tf_efficientnet_lite0",
        )
    return network.to(resolve_device(device))


def restyle_image(
    transfer: Transfer, network: Backbone, backbone: str, files: tuple[Path, Path]
) -> RestyleResult:
    """Optimize the image, and write it and the sheet of all three to `files`."""
    out, beside = files
    paths = (transfer.content, transfer.style)
    pixels = [images.thumbnail(images.read_image(file)[0], transfer.size) for file in paths]
    device = next(network.parameters()).device
    content, style = (
        torch.from_numpy(each.copy()).permute(2, 0, 1).float().div(255).to(device)
        for each in pixels
    )
    with console.progress(transfer.steps, "restyle") as bar:
        found = restyled(
            network,
            content,
            style,
            steps=transfer.steps,
            weight=transfer.weight,
            advance=lambda text: bar.advance(1, text),
        )
    result = (255 * found.image).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    about = {
        "model": backbone,
        "steps": str(transfer.steps),
        "weight": str(transfer.weight),
        "software": f"foveate {__version__}",
        "content": transfer.content.name,
        "style": transfer.style.name,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    images.write_image(np.ascontiguousarray(result), out, about)
    left = side_by_side(pixels[0], pixels[1], ("content", "style"))
    images.write_image(side_by_side(left, result, ("", "")), beside)
    return RestyleResult(out, beside, found)
