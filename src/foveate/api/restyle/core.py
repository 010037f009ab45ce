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
from foveate.modeling.backbones import family_of
from foveate.types import Provides
from foveate.utils import console
from foveate.utils.device import device_of
from foveate.utils.files import refuse_taken
from foveate.version import __version__


@dataclass(frozen=True)
class RestyleResult:
    """`file`: the picture, `beside`: content, style and picture side by side; `found`: the losses."""

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
        how = f"{told['style_loss_before']:.3g} to {told['style_loss']:.3g} ({told['lowered']:.1%} lower)"
        return [
            f"the style's loss went from {how}",
            f"picture: {self.file}",
            f"side by side: {self.beside}",
        ]


def restyle(
    content: Path,
    style: Path,
    out: Path = Path("restyled.png"),
    *,
    backbone: str = "tf_efficientnet_lite0",
    weights: str = "auto",
    size: int = 256,
    steps: int = 300,
    weight: float = 100.0,
    device: str = "auto",
) -> RestyleResult:
    """Writes `out`, whose long side has `size` px, and NAME-beside.png. `weight`: of the style against the content. Raises
    UsageError where a file is taken, BrokenImage for what is no picture."""
    if out.suffix.lower() != ".png":
        raise UsageError(
            "the picture is written as a PNG", where=out, hint=f"--out {out.with_suffix('.png')}"
        )
    beside = out.with_name(f"{out.stem}-beside.png")
    for file in (out, beside):
        refuse_taken(file)
    pixels = [images.thumbnail(images.read(file)[0], size) for file in (content, style)]
    network = family_of(backbone).open(backbone, weights).eval()
    if Provides.MAPS not in network.provides:
        raise UsageError(
            f"the backbone {backbone!r} has no maps to compare",
            where="--backbone",
            hint="tf_efficientnet_lite0",
        )
    where = device_of(device)
    one, other = (
        torch.from_numpy(each.copy()).permute(2, 0, 1).float().div(255).to(where) for each in pixels
    )
    with console.progress(steps, "restyle") as bar:
        found = restyled(
            network.to(where),
            one,
            other,
            steps=steps,
            weight=weight,
            advance=lambda text: bar.advance(1, text),
        )
    made = (255 * found.image).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    about = {
        "model": backbone,
        "steps": str(steps),
        "weight": str(weight),
        "software": f"foveate {__version__}",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    images.write(
        np.ascontiguousarray(made), out, {**about, "content": content.name, "style": style.name}
    )
    left = side_by_side(pixels[0], pixels[1], ("content", "style"))
    images.write(side_by_side(left, made, ("", "")), beside)
    return RestyleResult(out, beside, found)
