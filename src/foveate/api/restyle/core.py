"""restyle CONTENT STYLE: neural style transfer."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.api.restyle.style_transfer import transfer_style
from foveate.errors import UsageError
from foveate.images.codec import read_image, thumbnail
from foveate.images.encoding import write_image
from foveate.images.sheets import side_by_side
from foveate.modeling.backbones import Backbone, family_of
from foveate.modeling.weights import check_weights
from foveate.types import Provides
from foveate.utils import console
from foveate.utils.device import resolve_device
from foveate.utils.files import require_free
from foveate.version import __version__


@dataclass(frozen=True)
class RestyleResult:
    """A restyled image.

    Attributes:
        file: The image.
        comparison: Content, style and result side by side.
        style_losses: Style loss of the content image, and of the result.
        content_loss: Content loss of the result.
    """

    file: Path
    comparison: Path
    style_losses: tuple[float, float]
    content_loss: float

    @property
    def style_loss_reduction(self) -> float:
        """Share of the style loss that was removed."""
        before, after = self.style_losses
        return 1 - after / before

    def numbers(self) -> dict[str, Any]:
        before, after = self.style_losses
        return {
            "file": str(self.file),
            "comparison": str(self.comparison),
            "style_loss_before": before,
            "style_loss": after,
            "style_loss_reduction": self.style_loss_reduction,
            "content_loss": self.content_loss,
        }

    def lines(self) -> list[str]:
        before, after = self.style_losses
        return [
            f"style loss: {before:.3g} before, {after:.3g} after "
            f"({self.style_loss_reduction:.1%} lower)",
            f"image: {self.file}",
            f"side by side: {self.comparison}",
        ]


@dataclass(frozen=True)
class Transfer:
    """Settings of a style transfer.

    Attributes:
        content: Image whose content is kept.
        style: Image whose style is taken.
        size: Longer side of the result, px.
        steps: Optimization steps.
        weight: Weight of the style loss, relative to the content loss.
    """

    content: Path
    style: Path
    size: int
    steps: int
    weight: float


def output_files(out: Path) -> tuple[Path, Path]:
    """Return the files to write: the result and the comparison.

    Raises:
        UsageError: One exists already, or `out` is not a PNG.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(
            "the image is written as a PNG",
            where=out,
            hint=shlex.join(["--out", str(out.with_suffix(".png"))]),
        )
    files = out, out.with_name(f"{out.stem}-comparison.png")
    for file in files:
        require_free(file)
    return files


def open_backbone(name: str, weights: str, device: str) -> Backbone:
    """Open the backbone on the device. Raises UsageError if it has no feature maps."""
    family = family_of(name)
    check_weights(weights)
    torch_device = resolve_device(device)
    network = family.open(name, weights).eval()
    if Provides.MAPS not in network.provides:
        raise UsageError(
            f"the backbone {name!r} has no feature maps to compare",
            where="--backbone",
            hint="tf_efficientnet_lite0",
        )
    return network.to(torch_device)


def restyle_image(
    transfer: Transfer, network: Backbone, backbone: str, files: tuple[Path, Path]
) -> RestyleResult:
    """Optimize the image, and write it and the comparison to `files`."""
    out, comparison = files
    paths = (transfer.content, transfer.style)
    pixels = [thumbnail(read_image(file)[0], transfer.size) for file in paths]
    device = next(network.parameters()).device
    content, style = (
        torch.from_numpy(each.copy()).permute(2, 0, 1).float().div(255).to(device)
        for each in pixels
    )
    with console.progress(transfer.steps, "restyle") as bar:
        result = transfer_style(
            network,
            content,
            style,
            steps=transfer.steps,
            weight=transfer.weight,
            advance=lambda text: bar.advance(1, text),
        )
    restyled = (255 * result.image).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    metadata = {
        "model": backbone,
        "steps": str(transfer.steps),
        "weight": str(transfer.weight),
        "software": f"foveate {__version__}",
        "content": transfer.content.name,
        "style": transfer.style.name,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_image(np.ascontiguousarray(restyled), out, metadata)
    left = side_by_side(pixels[0], pixels[1], ("content", "style"))
    write_image(side_by_side(left, restyled, ("", "")), comparison)
    return RestyleResult(out, comparison, result.style_losses, result.content_loss)
